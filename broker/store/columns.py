"""Reading columns of many rows at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import (
    JSON,
    Boolean,
    ColumnElement,
    DateTime,
    Enum,
    Float,
    LargeBinary,
    Select,
    case,
    func,
    select,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.orm import Session
from sqlalchemy.types import TypeDecorator

Q = TypeVar("Q", bound="Select[*tuple[Any, ...]]")

_SQLITE = sqlite.dialect()


class Columns:
    """Columns that are read together, by their names. Those of bytes cannot be read so.

    SQLite's driver lets other threads run at every row, and then waits for its turn: up to 5 ms when others are at work, and
    half a second for a hundred rows (sys.setswitchinterval). So SQLite is asked for all rows as one, in JSON.
    """

    def __init__(self, *wanted: Any) -> None:
        self._wanted: tuple[ColumnElement[Any], ...] = wanted
        self._names = [str(column.key) for column in wanted]
        self._row = func.json_array(*map(_in_json, wanted)).label("found")
        self._reads = [
            (name, read) for name, column in zip(self._names, wanted, strict=True) if (read := _read(column))
        ]

    def read(self, session: Session, query: Q) -> list[dict[str, Any]]:
        """The columns of what a query finds, in its order; what the query selects itself is of no account."""
        if session.get_bind().dialect.name != "sqlite":
            return [dict(row) for row in session.execute(query.with_only_columns(*self._wanted)).mappings()]
        found = query.with_only_columns(self._row).subquery()
        text: str = session.execute(select(func.json_group_array(func.json(found.c.found)))).scalar_one()
        rows = [dict(zip(self._names, values, strict=True)) for values in json.loads(text)]
        for row in rows:
            for name, read in self._reads:
                row[name] = read(row[name])
        return rows


def _in_json(column: ColumnElement[Any]) -> ColumnElement[Any]:
    kind = _kind(column)
    if isinstance(kind, LargeBinary):
        raise TypeError(f"{column} is of bytes")
    if isinstance(kind, JSON):
        return func.json(column)
    if isinstance(kind, Float):
        # SQLite writes 15 digits of a number, and it takes 17 to tell every two apart (https://www.sqlite.org/printf.html).
        return case((column.is_not(None), func.json(func.printf("%!.17g", column))))
    return column


def _read(column: ColumnElement[Any]) -> Callable[[Any], Any] | None:
    """From what there is in JSON to what we have; None where they are alike."""
    kind, decorated = _kind(column), column.type
    if isinstance(kind, Boolean):
        return lambda value: None if value is None else bool(value)
    if isinstance(kind, Enum) and (words := kind.enum_class) is not None:
        return lambda value: None if value is None else words(value)
    if isinstance(decorated, TypeDecorator):
        there = datetime.fromisoformat if isinstance(kind, DateTime) else None
        return lambda value: decorated.process_result_value(
            value if value is None or there is None else there(value), _SQLITE
        )
    return None


def _kind(column: ColumnElement[Any]) -> Any:
    return column.type.impl if isinstance(column.type, TypeDecorator) else column.type
