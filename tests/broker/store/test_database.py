"""The store: transactions, the schema and who owns it, on both databases."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import delete, inspect, select, text
from sqlalchemy.exc import IntegrityError

import broker.store.database as database_module
from broker.store import (
    FlavorRow,
    KeyPairRow,
    MetaRow,
    Row,
    Store,
    StoreError,
)
from broker.store.operation import BurstRow
from lab.postgresql import PostgreSQL

if TYPE_CHECKING:
    from tests.broker.conftest import Stage

NOW = datetime(2030, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)


def flavor(name: str) -> FlavorRow:
    return FlavorRow(id=f"flv-{name}", name=name, vcpus=1, mem_mb=1, disk_gb=1)


def names(store: Store) -> list[str]:
    with store.reading() as session:
        return sorted(session.scalars(select(FlavorRow.name)))


def migrations(store: Store) -> Config:

    config = Config()
    config.set_main_option("script_location", str(Path(database_module.__file__).parent / "migrations"))
    config.attributes["engine"] = store.engine
    return config


def test_upgrade_makes_the_schema_and_again_changes_nothing(empty_url: str) -> None:
    opened = Store(empty_url)
    try:
        opened.upgrade()
        with opened.transaction() as session:
            session.add(flavor("kept"))
        tables = set(inspect(opened.engine).get_table_names())
        opened.upgrade()
        assert set(inspect(opened.engine).get_table_names()) == tables
        assert set(Row.metadata.tables) <= tables
        assert names(opened) == ["kept"]
    finally:
        opened.close()


def test_migrations_make_exactly_what_the_rows_declare(store: Store) -> None:
    command.check(migrations(store))


def test_database_that_cannot_be_prepared_is_said_in_words(tmp_path: Path) -> None:
    opened = Store(f"sqlite:///{tmp_path / 'missing' / 'isthmus.sqlite3'}")
    with pytest.raises(StoreError, match="cannot prepare the database"):
        opened.upgrade()
    opened.close()


def test_database_that_a_newer_version_has_upgraded_is_refused_in_words(store: Store) -> None:
    with store.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreError, match=r"a newer version of Isthmus .* 9999.* install the newer version"):
        store.upgrade()
    with store.engine.connect() as connection:
        assert store.revision(connection) == "9999"


def test_transaction_that_fails_leaves_nothing(store: Store) -> None:
    def fail() -> None:
        with store.transaction() as session:
            session.add(flavor("lost"))
            session.flush()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert names(store) == []


def test_reading_keeps_no_change(store: Store) -> None:
    with store.reading() as session:
        session.add(flavor("lost"))
        session.flush()
        with pytest.raises(StoreError, match="for reading was to write: DELETE"):
            session.execute(delete(FlavorRow))
    assert names(store) == []


def test_row_stays_readable_after_its_transaction(store: Store) -> None:
    with store.transaction() as session:
        row = flavor("small")
        session.add(row)
    assert (row.name, row.vcpus) == ("small", 1)


def test_time_comes_back_in_utc_and_a_naive_one_is_refused(store: Store) -> None:
    east = NOW.astimezone(timezone(timedelta(hours=5)))
    with store.transaction() as session:
        session.add(BurstRow(id=1, open=False, since=east, close_holds_since=None, reason=""))
    with store.reading() as session:
        row = session.get_one(BurstRow, 1)
    assert row.since == NOW
    assert row.since.tzinfo is not None
    with pytest.raises(Exception, match="time zone"), store.transaction() as session:
        session.add(
            BurstRow(id=2, open=False, since=NOW.replace(tzinfo=None), close_holds_since=None, reason="")
        )


def test_foreign_keys_hold(store: Store) -> None:
    with pytest.raises(IntegrityError), store.transaction() as session:
        session.add(
            KeyPairRow(project_id="prj-none", name="k", public_key="", fingerprint="", created_at=NOW)
        )


def test_reader_does_not_wait_for_a_writer(store: Store) -> None:
    with store.transaction() as writing:
        writing.add(flavor("small"))
        writing.flush()
        assert names(store) == []
    assert names(store) == ["small"]


def test_sqlite_has_one_broker(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'isthmus.sqlite3'}"
    first, second = Store(url), Store(url)
    first.own(tmp_path / "lock")
    with pytest.raises(StoreError, match="another broker runs"):
        second.own(tmp_path / "lock")
    first.close()
    second.own(tmp_path / "lock")
    second.close()


def test_broker_reads_its_sqlite_database_as_its_indexes_are_made_for(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/b.sqlite3")
    store.upgrade()
    with store.transaction() as session:
        session.add(flavor("small"))
    with store.engine.connect() as connection:
        connection.exec_driver_sql("ANALYZE")  # as somebody does by hand
        connection.commit()
        assert connection.exec_driver_sql("SELECT count(*) FROM sqlite_stat1").scalar_one() > 0
    for _ in range(2):
        store.upgrade()
        with store.engine.connect() as connection:
            assert not inspect(connection).has_table("sqlite_stat1")
    assert names(store) == ["small"]
    store.close()


@pytest.mark.postgres
def test_postgresql_has_several_brokers(postgresql: PostgreSQL, tmp_path: Path) -> None:
    url = postgresql.database()
    first, second = Store(url), Store(url)
    first.own(tmp_path / "lock")
    second.own(tmp_path / "lock")
    first.close()
    second.close()
    postgresql.drop(url)


@pytest.mark.postgres
def test_statements_to_postgresql_stay_prepared(postgresql: PostgreSQL) -> None:
    """Each of them would be read and planned from its text otherwise, and reading be three round trips more."""
    store = Store(postgresql.database(template="template_isthmus"))
    for _ in range(10):
        assert names(store) == []
        store.time_there()
        with store.transaction() as session:
            assert session.scalars(select(FlavorRow)).all() == []
    with store.engine.connect() as connection:
        prepared = connection.exec_driver_sql("SELECT statement FROM pg_prepared_statements").scalars().all()
        settings = [
            connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in ("jit", "plan_cache_mode")
        ]
        connection.rollback()
        connection.exec_driver_sql("SELECT 1")  # what a connection is set to outlives a rollback
        assert connection.exec_driver_sql("SHOW jit").scalar_one() == "off"
    assert any("flavor" in statement for statement in prepared)
    assert any("clock_timestamp" in statement for statement in prepared)
    assert settings == ["off", "force_custom_plan"]
    store.close()


@pytest.mark.postgres
def test_connection_that_died_while_it_rested_is_replaced(
    postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(postgresql.database(template="template_isthmus"))
    assert names(store) == []
    postgresql.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    monkeypatch.setattr(database_module, "TRUSTED_S", 0.0)
    assert names(store) == []
    store.close()


def test_broker_has_one_id_for_the_life_of_its_database(bare_stage: Stage) -> None:
    assert bare_stage.another().id == bare_stage.broker.id
    with bare_stage.broker.store.reading() as session:
        assert session.get_one(MetaRow, "broker_id").value == bare_stage.broker.id


def test_missing_driver_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError, match=r"pip install 'isthmus-server\[postgres\]'"):
        Store("postgresql+psycopg://db.example.org/isthmus")
