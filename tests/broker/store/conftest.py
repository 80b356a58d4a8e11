"""Databases of schemas of before, and rows in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import JSON, Boolean, DateTime, Enum, Integer, MetaData, Numeric
from sqlalchemy.orm import Session

from broker.store import Row, Store


class Before:
    """A store with the schema of a revision; ``tables`` are those of then, and ``now`` is every time that nobody said."""

    now = datetime(2030, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)

    def __init__(self, url: str, revision: str) -> None:
        self.store = Store(url)
        self.store.upgrade(revision)
        made = MetaData()
        made.reflect(self.store.engine)
        self.tables = made.tables

    def put(self, session: Session, table: str, **values: Any) -> None:
        """Write a row; what is not said gets any value of its type, and any word where the column has words now."""
        for column in self.tables[table].columns:
            if column.name in values or column.nullable or column.server_default is not None:
                continue
            values[column.name] = _word(table, column.name) or _any(
                column.type, f"{table}-{column.name}-{values.get('id')}"
            )
        session.execute(self.tables[table].insert().values(values))


def _word(table: str, column: str) -> str | None:
    now = Row.metadata.tables.get(table)
    kind = now.columns[column].type if now is not None and column in now.columns else None
    return str(kind.enums[0]) if isinstance(kind, Enum) else None


def _any(kind: object, text: str) -> object:
    if isinstance(kind, JSON):
        return []
    if isinstance(kind, DateTime):
        return Before.now
    if isinstance(kind, Boolean):
        return False
    return 1 if isinstance(kind, Numeric | Integer) else text


@pytest.fixture
def before(empty_url: str) -> Iterator[Callable[[str], Before]]:
    """Makes a database of the schema of a revision."""
    made: list[Before] = []

    def make(revision: str) -> Before:
        made.append(Before(empty_url, revision))
        return made[-1]

    yield make
    for one in made:
        one.store.close()
