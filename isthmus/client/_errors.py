"""What can go wrong, as one tree::

    IsthmusError                 .code .message .hint
    +-- ConfigurationError       no broker is named, or the file, CA or address is no good
    +-- ConnectionFailed         no answer from the broker, after retries
    +-- UnexpectedAnswer         something answered, but not a broker of this API
    +-- APIError                 the broker refused or failed: also .status .details
    |   +-- InvalidRequest       400: the request has a mistake; ``details`` says where
    |   +-- Unauthenticated      401: no token, or one that is not (or no longer) valid
    |   +-- Forbidden            403: the token's role or the project's quota does not allow it
    |   +-- NotFound             404
    |   +-- Conflict             409: the name is taken, it is in use, or in the wrong state for that
    |   +-- Unavailable          503: the broker cannot do it now
    |   +-- InternalError        500: a mistake of the broker's own
    +-- OperationFailed          a long change ended badly: also .operation
    +-- OperationTimeout         it is still going on when the caller's time is over: also .operation

``code`` is stable and listed in docs/reference/errors.md; ``hint`` says what to do next and may be empty.
This module imports nothing that is slow to load: the command line catches these before anything else is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isthmus.client.operation import Operation


class IsthmusError(Exception):
    """Anything that the SDK raises on purpose."""

    def __init__(self, message: str, *, code: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.hint = hint


class ConfigurationError(IsthmusError):
    """The client cannot be set up: no broker is named, or a file it needs is missing or wrong."""


class ConnectionFailed(IsthmusError):
    """The broker gave no answer, after retries where the call may be repeated."""


class UnexpectedAnswer(IsthmusError):
    """What answered is not a broker of this API: a proxy's page, another service, another version."""


class APIError(IsthmusError):
    """The broker's refusal. ``status`` is the HTTP status, ``details`` what it adds for programs."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        code: str = "",
        hint: str = "",
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.status = status
        self.details: Mapping[str, Any] = details or {}


class InvalidRequest(APIError):
    """The request has a mistake; ``details`` says where."""


class Unauthenticated(APIError):
    """No token was sent, or it is not valid any more."""


class Forbidden(APIError):
    """The token's role or the project's quota does not allow it."""


class NotFound(APIError):
    """The thing does not exist, or not in this project."""


class Conflict(APIError):
    """The name is taken, the thing is in use, or it is in the wrong state for that."""


class Unavailable(APIError):
    """The broker cannot do it now; the same call may work later."""


class InternalError(APIError):
    """A mistake of the broker's own; its log says more."""


class OperationFailed(IsthmusError):
    """A long change ended in ``failed`` or ``cancelled``, or the VM it was for did."""

    def __init__(self, message: str, *, operation: Operation | None = None, hint: str = "") -> None:
        super().__init__(message, code="operation_failed", hint=hint)
        self.operation = operation


class OperationTimeout(IsthmusError):
    """The caller's time is over; the change itself goes on in the broker."""

    def __init__(self, message: str, *, operation: Operation | None = None, hint: str = "") -> None:
        super().__init__(message, code="operation_timeout", hint=hint)
        self.operation = operation


_BY_STATUS: dict[int, type[APIError]] = {
    400: InvalidRequest,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    405: InvalidRequest,
    409: Conflict,
    413: InvalidRequest,
    500: InternalError,
    503: Unavailable,
}


def api_error(status: int, code: str, message: str, hint: str, details: Mapping[str, Any]) -> APIError:
    """The exception for one answer of the broker."""
    kind = _BY_STATUS.get(status, InternalError if status >= 500 else APIError)
    return kind(message, status=status, code=code, hint=hint, details=details)
