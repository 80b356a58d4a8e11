"""What tests of all packages share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from broker.store import Store, database


@pytest.fixture(scope="session", autouse=True)
def statements_are_compiled_once() -> Iterator[None]:
    """SQLAlchemy compiles each statement for each engine, and each test has an engine of its own: a third of the time of all
    tests. So those of one kind of database share a dialect, and what was compiled for it."""
    first: dict[str, Engine] = {}

    def create(url: Any, **options: Any) -> Engine:
        made = sqlalchemy.create_engine(url, query_cache_size=10_000, **options)
        kind = made.dialect.name
        if kind not in first:
            try:
                with made.connect():  # the dialect asks the database what it has to know of it
                    pass
            except SQLAlchemyError:
                return made
            made.dispose()
            first[kind] = made
        made.dialect = made.pool._dialect = first[kind].dialect
        made._compiled_cache = first[kind]._compiled_cache
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "create_engine", create)
        yield


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the schema and nothing in it, to copy: the upgrade takes a third of a second."""
    path = tmp_path_factory.mktemp("sqlite") / "template.sqlite3"
    store = Store(f"sqlite:///{path}")
    store.upgrade()
    store.close()
    return path
