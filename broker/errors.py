"""What the broker refuses, in words, with a stable code.

::

    BrokerError
    +-- InvalidRequest        invalid_request     the request can never succeed as it is
    |   +-- InvalidExpression invalid_expression  a requirement or rank with a mistake, and its position
    |   +-- InvalidPolicy     invalid_policy      a policy file with mistakes, and their positions
    +-- Unauthenticated       unauthenticated     no, wrong or expired credentials
    +-- Forbidden             forbidden           the role does not allow it
    |   +-- QuotaExceeded     quota_exceeded      the project's quota
    |   +-- EnrolmentRefused  enrolment_refused   a bootstrap key that is used up, expired or unknown
    +-- NotFound              <noun>_not_found
    +-- Conflict              conflict
    |   +-- Exists            <noun>_exists
    |   +-- InUse             in_use              something else needs it
    |   +-- WrongState        wrong_state         the resource's state does not allow it
    |   +-- Overlap           overlap             two prefixes overlap
    |   +-- NoRoom            no_room             the hosts have no room for it
    |   +-- TokenMismatch     idempotency_mismatch  the same idempotency key with another request
    |   +-- AnswerLost        answer_lost         carried out, but its answer is lost
    +-- Unavailable           unavailable         try again later
        +-- UnderWay          under_way           the same request is being carried out
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class BrokerError(Exception):
    """``code`` is stable; ``hint`` says what to do next; ``details`` is for programs."""

    code = "internal"

    def __init__(self, message: str, *, hint: str = "", details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = dict(details or {})


class InvalidRequest(BrokerError):
    """The request can never succeed as it is."""

    code = "invalid_request"


class InvalidExpression(InvalidRequest):
    """A requirement or rank with a mistake; ``details`` holds line, column, text and mend."""

    code = "invalid_expression"


class InvalidPolicy(InvalidRequest):
    """A policy file with mistakes; ``details["problems"]`` lists file, line, column, message and mend."""

    code = "invalid_policy"


class Unauthenticated(BrokerError):
    """No, wrong or expired credentials."""

    code = "unauthenticated"


class Forbidden(BrokerError):
    """The caller's role does not allow it."""

    code = "forbidden"


class QuotaExceeded(Forbidden):
    """The project's quota does not allow it."""

    code = "quota_exceeded"


class EnrolmentRefused(Forbidden):
    """A bootstrap key that is used up, expired or unknown."""

    code = "enrolment_refused"


class NotFound(BrokerError):
    """No such thing, or none that the caller may see."""

    def __init__(self, noun: str, ref: str, *, hint: str = "") -> None:
        super().__init__(
            f"there is no {noun} {ref!r}", hint=hint or f"`isthmus {noun} list` shows what there is"
        )
        self.code = f"{noun}_not_found"
        self.noun = noun
        self.ref = ref


class Conflict(BrokerError):
    """The present state of things forbids it."""

    code = "conflict"


class Exists(Conflict):
    """The name is taken."""

    def __init__(self, noun: str, name: str, *, message: str = "", hint: str = "") -> None:
        super().__init__(
            message or f"a {noun} named {name!r} exists already", hint=hint or "choose another name"
        )
        self.code = f"{noun}_exists"


class InUse(Conflict):
    """Something else still needs it."""

    code = "in_use"


class WrongState(Conflict):
    """The resource's state does not allow it."""

    code = "wrong_state"


class Overlap(Conflict):
    """Two prefixes overlap; no router could tell them apart."""

    code = "overlap"


class NoRoom(Conflict):
    """The hosts have no room for it; ``details["earliest"]`` says when they will, where anybody knows."""

    code = "no_room"


class TokenMismatch(Conflict):
    """The same idempotency key came with another request."""

    code = "idempotency_mismatch"


class AnswerLost(Conflict):
    """A request was carried out, and the broker died before it could answer."""

    code = "answer_lost"


class Unavailable(BrokerError):
    """Try again later."""

    code = "unavailable"


class UnderWay(Unavailable):
    """The same request is being carried out by another call."""

    code = "under_way"
