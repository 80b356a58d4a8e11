"""Operations: durable changes. The row is ours; the engine only calls ``advance`` until it is over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from broker import access
from broker.actor import Actor
from broker.broker import Broker
from broker.errors import NotFound
from broker.states import OperationState
from broker.store import OperationRow

SETTLE = "settle"
"""The phase before an operation's first: the engine waits until no earlier one on the target can be in the middle of a
call to a provider."""


def add(
    broker: Broker,
    session: Session,
    kind: str,
    target: str,
    *,
    phase: str = SETTLE,
    project_id: str | None = None,
    site_id: str | None = None,
    params: dict[str, Any] | None = None,
    waits: bool = False,
) -> OperationRow:
    """Write a new operation in the caller's transaction. Submit it after the commit, unless it ``waits`` for somebody who
    will."""
    now = broker.clock.now()
    row = OperationRow(
        id=broker.new_id("op"),
        kind=kind,
        target=target,
        project_id=project_id,
        site_id=site_id,
        state=OperationState.RUNNING,
        phase=phase,
        message="",
        attempt=0,
        error=None,
        params=params or {},
        claim_token=None,
        claim_until=None,
        next_at=None if waits else now,
        phase_at=now,
        created_at=now,
        ended_at=None,
    )
    session.add(row)
    return row


def get(broker: Broker, actor: Actor, operation_id: str) -> OperationRow:
    """One operation. Raises NotFound."""
    access.require(actor, "operation.get")
    with broker.store.reading() as session:
        row = session.get(OperationRow, operation_id)
    if row is None or not access.sees(actor, row.project_id, "operation.get"):
        raise NotFound("operation", operation_id)
    return row


def wait(broker: Broker, actor: Actor, operation_id: str, timeout_s: float) -> OperationRow:
    """The operation when it is over, or as it is when ``timeout_s`` seconds are up."""
    access.require(actor, "operation.get")
    deadline = broker.clock.now().timestamp() + timeout_s
    name = f"{operation_id}.over"
    while True:
        seen = broker.signals.count(name)
        row = get(broker, actor, operation_id)
        left = deadline - broker.clock.now().timestamp()
        if row.state != OperationState.RUNNING or left <= 0:
            return row
        # Another broker may end it: look again at least every second.
        broker.signals.wait(name, seen, min(left, 1.0))


def list_operations(
    broker: Broker,
    actor: Actor,
    *,
    target: str | None = None,
    state: str | None = None,
    after: str | None = None,
    limit: int = 100,
) -> Sequence[OperationRow]:
    """Operations, newest first; ``after`` is the id of the last one of the page before."""
    access.require(actor, "operation.list")
    query = select(OperationRow).order_by(OperationRow.created_at.desc(), OperationRow.id.desc()).limit(limit)
    query = access.visible(query, actor, OperationRow, "operation.list")
    if target:
        query = query.where(OperationRow.target == target)
    if state:
        query = query.where(OperationRow.state == state)
    with broker.store.reading() as session:
        if after:
            last = session.get(OperationRow, after)
            if last is not None:
                place = tuple_(OperationRow.created_at, OperationRow.id)
                query = query.where(place < (last.created_at, last.id))
        return list(session.scalars(query))
