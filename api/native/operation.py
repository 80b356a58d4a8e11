"""``/v1/operations``."""

from __future__ import annotations

from fastapi import APIRouter

from api.native.auth import Caller, TheBroker
from api.native.paging import Limit, Ref, Text, Token, opened, sealed
from api.native.waiting import Wait, until
from broker import operation
from broker.states import OperationState
from broker.store import OperationRow
from isthmus import schema

router = APIRouter(prefix="/v1/operations", tags=["operation"])


@router.get("")
def list_operations(
    broker: TheBroker,
    caller: Caller,
    target: Text = None,
    state: schema.OperationState | None = None,
    limit: Limit = 100,
    page: Token = None,
) -> schema.Page[schema.Operation]:
    """The project's operations, newest first."""
    after = str(opened(page)[0]) if page else None
    rows = operation.list_operations(broker, caller, target=target, state=state, after=after, limit=limit + 1)
    return schema.Page(
        items=[answer(row) for row in rows[:limit]],
        next=sealed((rows[limit - 1].id,)) if len(rows) > limit else None,
    )


@router.get("/{id}")
async def get_operation(broker: TheBroker, caller: Caller, id: Ref, wait: Wait = 0) -> schema.Operation:
    """One operation. With `wait`, when it is over or the time is up."""
    row = await until(
        broker,
        f"{id}.over",
        lambda: operation.get(broker, caller, id),
        lambda row: row.state != OperationState.RUNNING,
        wait,
    )
    return answer(row)


def answer(row: OperationRow) -> schema.Operation:
    """An operation on the wire."""
    return schema.Operation(
        id=row.id,
        kind=row.kind,
        target=row.target,
        state=schema.OperationState(row.state),
        phase=row.phase,
        message=row.message,
        attempt=row.attempt,
        error=row.error,
        created_at=row.created_at,
        ended_at=row.ended_at,
    )
