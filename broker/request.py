"""Requests that are remembered: the same token with the same request gives the same answer, with another one a mismatch.

A request is written down in the transaction of its change, so neither is ever there without the other. A change that
knows what it makes remembers the ids itself (``replay``, ``remember``). For any other, ``Remembering`` has the first
transaction write the request down, and the answer follows when it is made: a broker that dies in between leaves a request
whose answer is lost, which is said, and never carried out twice. A refusal changes nothing and is not remembered.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from sqlalchemy import delete, event, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from broker.actor import Actor
from broker.broker import Broker
from broker.errors import AnswerLost, TokenMismatch, UnderWay
from broker.store import BESIDE, RequestRow

_PATIENCE = timedelta(seconds=120)
"""How long a request without an answer is taken to be under way still."""


@dataclass(frozen=True)
class Answer:
    """What was answered: an HTTP status, and a body."""

    status: int
    body: str


def fingerprint(request: Any) -> str:
    """A digest of a request, to tell a repeated call from another one under the same token."""
    return hashlib.sha256(json.dumps(request, sort_keys=True, default=str).encode()).hexdigest()


def replay(session: Session, project_id: str, token: str | None, digest: str) -> list[str] | None:
    """The ids that this token made before, or None when it is new. Raises TokenMismatch for another request."""
    if not token:
        return None
    row = session.get(RequestRow, (project_id, token))
    if row is None:
        return None
    _check(row, digest)
    return row.resources


def remember(
    broker: Broker,
    session: Session,
    project_id: str,
    token: str | None,
    digest: str,
    resources: list[str],
    *,
    action: str,
) -> None:
    """Remember what this token made, in the transaction that made it."""
    if token:
        session.add(_row(broker, project_id, token, action, digest, resources))


def forget(broker: Broker, older_than: timedelta) -> None:
    """Drop the requests that were made longer ago than that."""
    before = broker.clock.now() - older_than
    with broker.store.transaction() as session:
        session.execute(delete(RequestRow).where(RequestRow.created_at < before))


class Remembering:
    """One request under a token. What runs inside of it is written down with its first change of the database."""

    def __init__(self, broker: Broker, actor: Actor, token: str, action: str, request: Any) -> None:
        self._broker = broker
        self._key = (actor.project_id, token)
        self._action = action
        # The answer is for who asked: another role, or another caller's name, is another request.
        self._digest = fingerprint([action, actor.role, actor.name, request])
        self._kept = False

    def known(self) -> Answer | None:
        """What was answered before; None when it is new. Raises TokenMismatch, UnderWay, AnswerLost."""
        with self._broker.store.reading() as session:
            row = session.get(RequestRow, self._key)
        if row is None:
            return None
        _check(row, self._digest)
        if row.status is not None:
            sealed = row.sealed_answer
            return Answer(row.status, self._broker.sealer.open(sealed) if sealed else "")
        if self._broker.clock.now() - row.created_at < _PATIENCE:
            raise UnderWay("this request is being carried out already", hint="ask again in a moment")
        raise AnswerLost(
            "this request was carried out, but its answer is lost",
            hint="look for what it changed; under a new idempotency key it is carried out again",
        )

    def __enter__(self) -> Self:
        self._before = BESIDE.set(self._write)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        BESIDE.reset(self._before)

    def keep(self, answer: Answer) -> None:
        """Remember the answer, when anything was changed."""
        if self._kept:
            sealed = self._broker.sealer.seal(answer.body) if answer.body else None
            with self._broker.store.transaction() as session:
                session.execute(
                    update(RequestRow)
                    .where(RequestRow.project_id == self._key[0], RequestRow.token == self._key[1])
                    .values(status=answer.status, sealed_answer=sealed)
                )

    def drop(self) -> None:
        """It was refused after all: the same token may try again."""
        if self._kept:
            with self._broker.store.transaction() as session:
                row = session.get(RequestRow, self._key)
                if row is not None:
                    session.delete(row)

    def _write(self, session: Session) -> None:
        if self._kept:
            return
        project_id, token = self._key
        session.add(_row(self._broker, project_id, token, self._action, self._digest, []))
        try:
            session.flush()
        except IntegrityError as error:
            raise UnderWay(
                "this request is being carried out already", hint="ask again in a moment"
            ) from error

        def kept(_committed: Session) -> None:
            self._kept = True

        event.listen(session, "after_commit", kept)


def _row(
    broker: Broker, project_id: str, token: str, action: str, digest: str, resources: list[str]
) -> RequestRow:
    return RequestRow(
        project_id=project_id,
        token=token,
        id=broker.new_id("req"),
        action=action,
        fingerprint=digest,
        resources=resources,
        status=None,
        sealed_answer=None,
        created_at=broker.clock.now(),
    )


def _check(row: RequestRow, digest: str) -> None:
    if row.fingerprint != digest:
        raise TokenMismatch(
            "this idempotency key was used before with another request",
            hint="use a new key for a new request",
        )
