"""Events: everything that happened, and everything the broker decided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog
from sqlalchemy import event as database_event
from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from broker import access, dry_run
from broker.actor import Actor
from broker.broker import Broker
from broker.store import EventRow

log = structlog.get_logger()


def record(
    broker: Broker,
    session: Session,
    kind: str,
    target: str,
    message: str,
    *,
    project_id: str | None = None,
    **data: Any,
) -> None:
    """Write an event in the caller's transaction: it is there exactly when the change is, and never in a dry run."""
    if dry_run.is_on():
        return
    session.add(
        EventRow(
            time=broker.clock.now(),
            kind=kind,
            project_id=project_id,
            target=target,
            message=message,
            data=data,
        )
    )
    _tell(broker, session)
    log.info(kind, target=target, message=message, **data)


def record_all(
    broker: Broker, session: Session, kind: str, of: Sequence[tuple[str, str | None, str, dict[str, Any]]]
) -> None:
    """``record`` for many of one kind, (target, project, message, data) each, in one statement."""
    if not of or dry_run.is_on():
        return
    now = broker.clock.now()
    session.execute(
        insert(EventRow),
        [
            {"time": now, "kind": kind, "project_id": project_id, "target": target, "message": message}
            | {"data": data}
            for target, project_id, message, data in of
        ],
    )
    _tell(broker, session)
    for target, _, message, data in of:
        log.info(kind, target=target, message=message, **data)


def _tell(broker: Broker, session: Session) -> None:
    """Wake those who wait for events when the caller's transaction has committed."""
    if not session.info.get("events_told"):
        # Whoever waits for events is woken when they can be read, not before: not at the end of a savepoint.
        session.info["events_told"] = True

        def tell(committed: Session) -> None:
            if not committed.in_nested_transaction():
                broker.signals.set("events")

        database_event.listen(session, "after_commit", tell)


def list_events(
    broker: Broker,
    actor: Actor,
    *,
    after: int | None = None,
    target: str | None = None,
    kind: str | None = None,
    limit: int = 100,
) -> Sequence[EventRow]:
    """Events oldest first: those after ``after``, or the newest ``limit``. Others than admins see their project's."""
    access.require(actor, "event.list")
    query = access.visible(select(EventRow), actor, EventRow, "event.list")
    if target:
        query = query.where(EventRow.target == target)
    if kind:
        query = query.where(EventRow.kind == kind)
    with broker.store.reading() as session:
        if after is None:
            return list(session.scalars(query.order_by(EventRow.seq.desc()).limit(limit)))[::-1]
        return list(session.scalars(query.where(EventRow.seq > after).order_by(EventRow.seq).limit(limit)))
