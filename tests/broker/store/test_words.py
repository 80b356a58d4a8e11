"""The words of states: the database takes those that the code knows, and no others."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, Enum, inspect, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from broker.states import HostState
from broker.store import HostRow, Row, Store, StoreError

COLUMNS = [
    column
    for table in Row.metadata.sorted_tables
    for column in table.columns
    if isinstance(column.type, Enum)
]


@pytest.fixture
def migrated(empty_url: str) -> Iterator[Store]:
    opened = Store(empty_url)
    opened.upgrade()
    yield opened
    opened.close()


def test_whatever_has_a_state_is_checked() -> None:
    assert {str(column) for column in COLUMNS} >= {
        *(f"{noun}.state" for noun in ("vm", "host", "site", "image", "image_realisation", "operation")),
        *(
            "peer.state",
            "reservation.state",
            "vm.desired",
            "subnet.mode",
            "image.visibility",
            "network.visibility",
        ),
    }


def test_a_migrated_database_takes_the_words_that_the_code_knows(migrated: Store) -> None:
    """A word that is new in the code needs a migration, or nobody could write it."""
    look = inspect(migrated.engine)
    for column in COLUMNS:
        checks = {each["name"]: each["sqltext"] for each in look.get_check_constraints(column.table.name)}
        words = re.findall(r"'([^']*)'", checks[f"ck_{column.table.name}_{column.name}"])
        assert isinstance(column.type, Enum)
        assert words == column.type.enums, column


def test_another_word_is_refused(migrated: Store) -> None:
    with migrated.engine.connect() as connection:
        _site(connection, "up")
        connection.rollback()
        with pytest.raises(IntegrityError, match="ck_site_state"):
            _site(connection, "upp")


def test_a_host_in_maintenance_is_up_and_in_maintenance_after_the_migration(empty_url: str) -> None:
    store = Store(empty_url)
    store.upgrade("0019")
    with store.transaction() as session:
        _site(session, "up")
        for name, state, maintenance in (
            ("a", "maintenance", True),
            ("b", "unreachable", True),
            ("c", "up", False),
        ):
            _host(session, name, state, maintenance)
    store.upgrade()
    with store.reading() as session:
        hosts = {row.name: (row.state, row.condition, row.takes_vms) for row in session.query(HostRow)}
        takers = session.query(HostRow.name).where(HostRow.takes_vms).all()
    assert hosts == {
        "a": (HostState.UP, "maintenance", False),
        "b": (HostState.UNREACHABLE, "unreachable", False),
        "c": (HostState.UP, "up", True),
    }
    assert takers == [("c",)]
    store.close()


def test_a_database_with_a_word_of_nobodys_is_not_migrated(empty_url: str) -> None:
    store = Store(empty_url)
    store.upgrade("0019")
    with store.transaction() as session:
        _site(session, "asleep")
    with pytest.raises(StoreError, match=r"'asleep' in site\.state"):
        store.upgrade()
    with store.engine.connect() as connection:
        assert store.revision(connection) == "0019"
        assert connection.execute(text("SELECT state FROM site")).scalar_one() == "asleep"
    store.close()


def _site(session: Connection | Session, state: str) -> None:
    session.execute(
        text(
            "INSERT INTO site (id, name, kind, state, status_reason, elastic, options, attributes, host_attributes, "
            "sealed_credentials, created_at) VALUES ('site-1', 'site-1', 'simulated', :state, '', false, '{}', '{}', '{}', "
            "'', '2030-01-01 00:00:00')"
        ),
        {"state": state},
    )


def _host(session: Session, name: str, state: str, maintenance: bool) -> None:
    session.execute(
        text(
            "INSERT INTO host (id, site_id, name, state, status_reason, maintenance, elastic, generation, vcpus_total, "
            "mem_total_mb, reserved_vcpus, reserved_mem_mb, attributes) "
            "VALUES (:name, 'site-1', :name, :state, '', :maintenance, false, 0, 1, 1, 0, 0, '{}')"
        ),
        {"name": name, "state": state, "maintenance": maintenance},
    )
