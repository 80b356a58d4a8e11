"""``/v1/events``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from api.native.auth import Caller, TheBroker
from api.native.paging import Limit, Text, Token, opened, sealed
from api.native.waiting import Wait, until
from broker import event
from broker.errors import InvalidRequest
from broker.store import EventRow
from isthmus import schema

router = APIRouter(prefix="/v1/events", tags=["event"])

After = Annotated[int | None, Query(ge=0, lt=1 << 63, description="Those after that `seq`; else the newest.")]


@router.get("")
async def list_events(
    broker: TheBroker,
    caller: Caller,
    after: After = None,
    target: Text = None,
    kind: Text = None,
    limit: Limit = 100,
    page: Token = None,
    wait: Wait = 0,
) -> schema.Page[schema.Event]:
    """Events, oldest first. With `after` and `wait`, as soon as there is one."""
    if page is not None:
        (after,) = _seq(page)
    rows = await until(
        broker,
        "events",
        lambda: event.list_events(broker, caller, after=after, target=target, kind=kind, limit=limit + 1),
        bool,
        wait if after is not None else 0,
    )
    if after is None:  # the newest, which end the list
        return schema.Page(items=[_answer(row) for row in rows[-limit:]])
    return schema.Page(
        items=[_answer(row) for row in rows[:limit]],
        next=sealed((rows[limit - 1].seq,)) if len(rows) > limit else None,
    )


def _seq(page: str) -> tuple[int]:
    match opened(page):
        case (int(seq),) if 0 <= seq < 1 << 63:
            return (seq,)
    raise InvalidRequest("this page token is none of this list", hint="start again without `page`")


def _answer(row: EventRow) -> schema.Event:
    return schema.Event(
        seq=row.seq,
        time=row.time,
        kind=row.kind,
        project=row.project_id,
        target=row.target,
        message=row.message,
        data=row.data,
    )
