"""Reading columns of many rows at once, as JSON that the database writes."""

from __future__ import annotations

from typing import Any, TypeVar

from sqlalchemy import (
    JSON,
    Boolean,
    ColumnElement,
    DateTime,
    Float,
    LargeBinary,
    Select,
    Text,
    case,
    cast,
    func,
    literal_column,
    select,
    type_coerce,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

from broker.store.base import written

Q = TypeVar("Q", bound="Select[*tuple[Any, ...]]")


class Columns:
    """Columns that are read together, by their names; 50 at most. Those of bytes cannot be read so.

    SQLite's driver lets other threads run at every row, and then waits for its turn: up to 5 ms when others are at work, and
    half a second for a hundred rows (sys.setswitchinterval). And every value that becomes a Python object first costs all
    threads its time. So a database is asked for all rows as one text.
    """

    def __init__(self, *wanted: Any) -> None:
        self._row = paired(*wanted).label("found")

    def text(self, session: Session, query: Q) -> str:
        """What a query finds, in its order, as a JSON array of objects; what the query selects itself is of no account.

        Times are as ISO 8601 has them, with their zone.
        """
        found = query.with_only_columns(self._row).subquery()
        statement = select(cast(listed(found.c.found), Text))
        text: str = session.execute(statement).scalar_one()
        return text


class listed(FunctionElement[list[Any]]):
    """An aggregate: a column of many rows as one JSON array."""

    type = JSON()
    inherit_cache = True

    def __init__(self, column: Any) -> None:
        super().__init__(_in_json(column))


written(listed, sqlite="json_group_array({})", postgresql="coalesce(json_agg({}), '[]')")


class paired(FunctionElement[dict[str, Any]]):
    """Columns of a row as a JSON object, by their names."""

    type = JSON()
    inherit_cache = True

    def __init__(self, *columns: Any) -> None:
        # Names are written into the statement: that of a page has forty of them.
        names: list[ColumnElement[Any]] = [literal_column(f"'{column.key}'") for column in columns]
        super().__init__(*(part for pair in zip(names, map(_in_json, columns), strict=True) for part in pair))


written(paired, sqlite="json_object({})", postgresql="json_build_object({})")


class _as_json(FunctionElement[Any]):
    """A value as JSON has it, where it is not so by itself."""

    inherit_cache = True

    def __init__(self, column: ColumnElement[Any]) -> None:
        super().__init__(column)
        self.type = column.type


@compiles(_as_json)
def _as_json_on_sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    (column,) = element.clauses
    kind = _kind(column)
    if isinstance(kind, JSON):
        value: ColumnElement[Any] = func.json(column)
    elif isinstance(kind, Boolean):
        value = case((column.is_not(None), func.json(case((column, "true"), else_="false"))))
    elif isinstance(kind, DateTime):
        # It has no zone there, and is of UTC.
        value = func.replace(type_coerce(column, Text()), " ", "T").concat("Z")
    else:
        # SQLite writes 15 digits of a number, and it takes 17 to tell every two apart (https://www.sqlite.org/printf.html).
        value = case((column.is_not(None), func.json(func.printf("%!.17g", column))))
    return str(compiler.process(value, **kw))


@compiles(_as_json, "postgresql")
def _as_json_on_postgresql(element: Any, compiler: Any, **kw: Any) -> str:
    return str(compiler.process(element.clauses, **kw))


def _in_json(column: ColumnElement[Any]) -> ColumnElement[Any]:
    kind = _kind(column)
    if isinstance(kind, LargeBinary):
        raise TypeError(f"{column} is of bytes")
    return _as_json(column) if isinstance(kind, JSON | Boolean | DateTime | Float) else column


def _kind(column: ColumnElement[Any]) -> Any:
    return column.type.impl if isinstance(column.type, TypeDecorator) else column.type
