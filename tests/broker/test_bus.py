"""Brokers on one PostgreSQL wake each other, and hear what the others have changed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event

from broker import host, queue
from broker.broker import Broker
from broker.bus import Bus, _payloads
from broker.clock import DatabaseClock
from broker.kept_pool import KeptPool

if TYPE_CHECKING:
    from tests.broker.conftest import Stage

pytestmark = [pytest.mark.postgres, pytest.mark.parametrize("database", ["postgresql"], indirect=True)]


@pytest.fixture
def pair(stage: Stage) -> Iterator[tuple[Broker, Broker]]:
    """Two brokers that hear each other."""
    other = stage.another()
    buses = [Bus(broker.store, broker.signals) for broker in (stage.broker, other)]
    for bus in buses:
        bus.start()
    yield stage.broker, other
    for bus in buses:
        bus.stop()


def eventually(holds: Callable[[], object], most_s: float = 10.0) -> None:
    deadline = time.monotonic() + most_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)


def test_signal_wakes_the_other_broker_at_once(pair: tuple[Broker, Broker]) -> None:
    mine, other = pair
    woken = threading.Event()
    other.signals.listen("place", woken.set)
    mine.signals.set("place")
    assert woken.wait(5)


def test_signals_that_come_one_after_the_other_are_told_together(
    pair: tuple[Broker, Broker],
) -> None:
    mine, other = pair
    told: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "pg_notify" in statement:
            told.append(statement)

    event.listen(mine.store.engine, "before_cursor_execute", note)
    for number in range(100):
        mine.signals.set(f"op-{number}")
    eventually(lambda: all(other.signals.count(f"op-{number}") for number in range(100)))
    # The first at once, the others when the time to gather is over.
    assert len(told) <= 3


def test_signal_of_another_is_not_told_on(pair: tuple[Broker, Broker]) -> None:
    mine, other = pair
    mine.signals.set("place")
    eventually(lambda: other.signals.count("place"))
    before = mine.signals.count("place")
    other.signals.set("something else")
    eventually(lambda: mine.signals.count("something else"))
    assert mine.signals.count("place") == before


def test_change_by_another_broker_is_in_the_kept_pool(stage: Stage, pair: tuple[Broker, Broker]) -> None:
    mine, other = pair
    kept = mine.part(KeptPool)
    eventually(lambda: mine.store.changes.whole)
    kept.refresh()
    host.set_maintenance(other, stage.admin, "sim-01", True)

    def heard() -> bool:
        kept.refresh()
        return kept.hosts[kept.index[stage.host("sim-01").id]].maintenance

    eventually(heard)


def test_vms_of_two_matchmakers_fit(stage: Stage, pair: tuple[Broker, Broker]) -> None:
    """Each with a pool of its own that it keeps: nothing is given away twice."""
    for number in range(12):
        stage.request(f"web-{number}")
    threads = [threading.Thread(target=queue.place_pending, args=(broker,)) for broker in pair]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    from broker import claim

    with stage.broker.store.reading() as session:
        assert claim.differences(session) == {}
        for name in ("sim-01", "sim-02"):
            row = stage.host(name)
            assert row.held_vcpus <= row.vcpus_total


def test_ear_that_is_cut_off_hears_again_and_counts_all_as_changed(
    stage: Stage, pair: tuple[Broker, Broker]
) -> None:
    mine, _ = pair
    eventually(lambda: mine.store.changes.whole)
    mine.store.changes.take()
    with mine.store.engine.begin() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'LISTEN isthmus'"
        )
    eventually(lambda: "all" in mine.store.changes.take())
    eventually(lambda: mine.store.changes.whole)


def test_leases_run_on_the_clock_of_the_database(stage: Stage) -> None:
    clock = DatabaseClock(stage.broker.store.time_there)
    there = stage.broker.store.time_there()
    assert abs((clock.now() - there).total_seconds()) < 2


def test_machine_whose_clock_is_an_hour_ahead_agrees_with_the_others(stage: Stage) -> None:
    from datetime import UTC, datetime, timedelta

    clock = DatabaseClock(lambda: datetime.now(UTC) - timedelta(hours=1))
    assert abs((clock.now() - datetime.now(UTC)).total_seconds() + 3600) < 2


def test_bus_that_listens_ends_at_once(stage: Stage) -> None:
    bus = Bus(stage.broker.store, stage.broker.signals)
    bus.start()
    began = time.monotonic()
    bus.stop()
    assert time.monotonic() - began < 1.9  # it would look up by itself after two
    assert not bus._threads[0].is_alive()


def test_many_names_are_told_in_notifications_that_the_server_takes(stage: Stage) -> None:
    payloads = list(_payloads("me", "changes", {f"vm:vm-{number:017x}" for number in range(2000)}))
    assert len(payloads) > 1
    assert all(len(payload.encode()) < 8000 for payload in payloads)
