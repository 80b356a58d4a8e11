"""Columns of many rows, read as one: what comes out is what was put in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import (
    JSON,
    Boolean,
    Float,
    Integer,
    LargeBinary,
    String,
    create_engine,
    event,
    literal,
    select,
    union_all,
)
from sqlalchemy.orm import Session
from sqlalchemy.types import TypeEngine

from broker.states import VMState
from broker.store import Columns, LabelRow, Store, VMRow
from broker.store.base import UtcDateTime, one_of

_MEMORY = create_engine("sqlite://")
_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
_ZONES = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))])
_VALUES: dict[str, tuple[TypeEngine[Any], st.SearchStrategy[Any]]] = {
    "number": (Float(), st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300)),
    "count": (Integer(), st.integers(-(2**31), 2**31 - 1)),
    "word": (String(), _TEXT),
    "flag": (Boolean(), st.booleans()),
    "moment": (UtcDateTime(), st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=_ZONES)),
    "state": (one_of(VMState, "state"), st.sampled_from(VMState)),
    "document": (
        JSON(none_as_null=True),
        st.dictionaries(_TEXT, st.lists(st.integers(0, 9) | _TEXT), min_size=1),
    ),
}


@given(values=st.fixed_dictionaries({name: st.none() | kind[1] for name, kind in _VALUES.items()}))
def test_columns_of_each_type_come_back_as_they_are(values: dict[str, Any]) -> None:
    wanted = Columns(*(literal(values[name], _VALUES[name][0]).label(name) for name in values))
    with Session(_MEMORY) as session:
        (found,) = wanted.read(session, select(literal(1)))
    assert found == values
    assert {name: type(value) for name, value in found.items()} == {
        name: type(value) for name, value in values.items()
    }


def test_rows_come_in_the_order_that_the_query_says(store: Store) -> None:
    numbers = union_all(*(select(literal(number).label("n")) for number in (3, 1, 2))).subquery()
    with store.reading() as session:
        query = select(numbers.c.n).order_by(numbers.c.n.desc())
        assert [row["n"] for row in Columns(numbers.c.n).read(session, query)] == [3, 2, 1]
        assert [row["n"] for row in Columns(numbers.c.n).read(session, query.limit(2))] == [3, 2]


def test_what_finds_nothing_is_an_empty_list(store: Store) -> None:
    with store.reading() as session:
        assert Columns(VMRow.id, VMRow.labels).read(session, select(VMRow.id)) == []


def test_many_rows_are_one_row_for_sqlites_driver(store: Store) -> None:
    if not store.is_sqlite:
        pytest.skip("the driver of PostgreSQL has all rows at once")
    with store.transaction() as session:
        session.add_all(LabelRow(resource=f"vm-{n}", noun="vm", key="a", value="b") for n in range(100))
    seen: list[int] = []

    def look(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        seen.append(len(store.engine.raw_connection().execute(statement, parameters).fetchall()))

    with store.reading() as session:
        event.listen(session.connection(), "after_cursor_execute", look)
        assert len(Columns(LabelRow.resource, LabelRow.value).read(session, select(LabelRow.resource))) == 100
    assert seen == [1]


def test_bytes_are_refused_when_the_columns_are_named() -> None:
    with pytest.raises(TypeError, match="bytes"):
        Columns(literal(b"", LargeBinary).label("blob"))
