"""Columns of many rows, read as one: what comes out is what was put in."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AwareDatetime, StrictBool, TypeAdapter
from sqlalchemy import (
    JSON,
    Boolean,
    ColumnElement,
    Float,
    Integer,
    LargeBinary,
    String,
    cast,
    create_engine,
    event,
    literal,
    select,
    union_all,
)
from sqlalchemy.orm import Session
from sqlalchemy.types import TypeEngine
from typing_extensions import TypedDict

from broker.states import VMState
from broker.store import Columns, LabelRow, Store, VMRow, listed, paired
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


class _Read(TypedDict):
    number: float | None
    count: int | None
    word: str | None
    flag: StrictBool | None
    moment: AwareDatetime | None
    state: VMState | None
    document: dict[str, list[int | str]] | None


_READ = TypeAdapter(list[_Read])


@given(values=st.fixed_dictionaries({name: st.none() | kind[1] for name, kind in _VALUES.items()}))
def test_columns_of_each_type_come_back_as_they_are(values: dict[str, Any]) -> None:
    wanted = Columns(*(literal(values[name], _VALUES[name][0]).label(name) for name in values))
    with Session(_MEMORY) as session:
        text = wanted.text(session, select(literal(1)))
    assert _READ.validate_json(text) == [values]


def test_columns_of_each_type_come_back_from_either_database(store: Store) -> None:
    values = {
        "number": 0.1 + 0.2,
        "count": -(2**31),
        "word": 'a "b" \\ ü',
        "flag": True,
        "moment": datetime(2026, 12, 24, 18, 0, 0, 5, tzinfo=UTC),
        "state": VMState.SHUTTING_DOWN,
        "document": {"ä": [1, "b"]},
    }
    for these in (values, dict.fromkeys(values), values | {"flag": False}):
        columns: list[tuple[str, ColumnElement[Any]]] = [
            (name, literal(these[name], _VALUES[name][0])) for name in these
        ]
        if not store.is_sqlite:  # columns have types there, and what is put in by itself has none
            columns = [(name, cast(value, value.type)) for name, value in columns]
        wanted = Columns(*(value.label(name) for name, value in columns))
        with store.reading() as session:
            assert _READ.validate_json(wanted.text(session, select(literal(1)))) == [these]


def test_rows_come_in_the_order_that_the_query_says(store: Store) -> None:
    numbers = union_all(*(select(literal(number).label("n")) for number in (3, 1, 2))).subquery()
    with store.reading() as session:
        query = select(numbers.c.n).order_by(numbers.c.n.desc())
        assert json.loads(Columns(numbers.c.n).text(session, query)) == [{"n": 3}, {"n": 2}, {"n": 1}]
        assert json.loads(Columns(numbers.c.n).text(session, query.limit(2))) == [{"n": 3}, {"n": 2}]


def test_what_finds_nothing_is_an_empty_list(store: Store) -> None:
    with store.reading() as session:
        assert Columns(VMRow.id, VMRow.labels).text(session, select(VMRow.id)) == "[]"


def test_rows_of_rows_come_in_their_order(store: Store) -> None:
    numbers = union_all(*(select(literal(number).label("n")) for number in (3, 1, 2))).subquery()
    pairs = select(paired(numbers.c.n).label("one")).order_by(numbers.c.n).subquery()
    nested = select(listed(pairs.c.one)).scalar_subquery().label("pairs")
    none = select(listed(pairs.c.one)).where(pairs.c.one.is_(None)).scalar_subquery().label("none")
    with store.reading() as session:
        found = json.loads(Columns(nested, none).text(session, select(literal(1))))
    assert found == [{"pairs": [{"n": 1}, {"n": 2}, {"n": 3}], "none": []}]


def test_many_rows_are_one_row_for_the_driver(store: Store) -> None:
    with store.transaction() as session:
        session.add_all(LabelRow(resource=f"vm-{n}", noun="vm", key="a", value="b") for n in range(100))
    seen: list[int] = []

    def look(_connection: Any, cursor: Any, *_: Any) -> None:
        seen.append(cursor.rowcount)

    with store.reading() as session:
        event.listen(session.connection(), "after_cursor_execute", look)
        text = Columns(LabelRow.resource, LabelRow.value).text(session, select(LabelRow.resource))
        assert len(json.loads(text)) == 100
    assert seen == [-1 if store.is_sqlite else 1]  # SQLite's driver does not know before they are fetched


def test_bytes_are_refused_when_the_columns_are_named() -> None:
    with pytest.raises(TypeError, match="bytes"):
        Columns(literal(b"", LargeBinary).label("blob"))
