"""``/v1/usage``."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query

from api.native.auth import Caller, TheBroker
from api.native.paging import Limit, Token, cut
from broker import usage
from isthmus import schema

router = APIRouter(prefix="/v1/usage", tags=["usage"])


@router.get("")
def list_usage(
    broker: TheBroker,
    caller: Caller,
    since: Annotated[datetime | None, Query(description="Default: the beginning of the month, UTC.")] = None,
    until: Annotated[datetime | None, Query(description="Default: now.")] = None,
    limit: Limit = 100,
    page: Token = None,
) -> schema.Page[schema.Usage]:
    """What the project used, by site; for admins every project's."""
    found = usage.report(broker, caller, since=since, until=until)
    rows, following = cut(found, lambda row: (row.project, row.site, row.elastic), limit, page)
    return schema.Page(
        items=[
            schema.Usage(
                project=row.project,
                site=row.site,
                elastic=row.elastic,
                since=row.since,
                until=row.until,
                vms=row.vms,
                **row.held.as_hours(),
                cost=row.cost,
                unpriced_hours=row.unpriced_hours,
            )
            for row in rows
        ],
        next=following,
    )
