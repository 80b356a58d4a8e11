"""Pages: so many items, and a token for what follows."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Path, Query

from broker.errors import InvalidRequest

Row = TypeVar("Row")

Limit = Annotated[int, Query(ge=1, le=1000, description="At most so many items.")]
Token = Annotated[
    str | None,
    Query(alias="page", max_length=1024, description="`next` of the page before; none for the first."),
]
Ref = Annotated[
    str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$", max_length=255, description="A name or an id.")
]
Text = Annotated[str | None, Query(pattern=r"^[^\x00]*$", max_length=255)]


def cut(
    rows: Sequence[Row], key: Callable[[Row], tuple[Any, ...]], limit: int, token: str | None
) -> tuple[Sequence[Row], str | None]:
    """The page of a whole list that is ordered by ``key`` (unique). A page token names the last item before it, so
    that items which come or go meanwhile never repeat or hide others."""
    if token is not None:
        last = opened(token)
        if not _comparable(last, key, rows):
            raise _stale()
        rows = [row for row in rows if key(row) > last]
    return rows[:limit], sealed(key(rows[limit - 1])) if len(rows) > limit else None


def sealed(last: tuple[Any, ...]) -> str:
    """The token of the page after that item."""
    return base64.urlsafe_b64encode(json.dumps(last).encode()).decode().rstrip("=")


def opened(token: str) -> tuple[Any, ...]:
    """The item before that page. Raises InvalidRequest for a token that is none of ours."""
    try:
        last = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except ValueError:
        raise _stale() from None
    if not isinstance(last, list) or not last:
        raise _stale()
    return tuple(last)


def last_texts(token: str) -> tuple[str, str]:
    """The two texts that name the item before that page. Raises InvalidRequest for a token of another list."""
    last = opened(token)
    if len(last) != 2 or not all(isinstance(part, str) and "\x00" not in part for part in last):
        raise _stale()
    return last[0], last[1]


def _comparable(last: tuple[Any, ...], key: Callable[[Row], tuple[Any, ...]], rows: Sequence[Row]) -> bool:
    return not rows or [type(part) for part in last] == [type(part) for part in key(rows[0])]


def _stale() -> InvalidRequest:
    return InvalidRequest("this page token is none of this list", hint="start again without `page`")
