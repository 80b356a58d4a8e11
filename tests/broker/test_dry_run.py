"""A dry run checks what the real thing checks, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import threading

import pytest
from sqlalchemy.exc import IntegrityError

from broker import dry_run
from broker.store import MetaRow


def note(stage, key):
    with stage.broker.store.transaction() as session:
        row = MetaRow(key=key, value="v")
        session.add(row)
        return row


def noted(stage):
    with stage.broker.store.reading() as session:
        return {row.key for row in session.query(MetaRow)} - {"broker_id"}


def test_rows_that_leave_a_dry_transaction_stay_readable(bare_stage):
    with dry_run.nothing_stays():
        row = note(bare_stage, "a")
        with bare_stage.broker.store.transaction() as session:
            seen = session.get_one(MetaRow, "broker_id")
            seen.value += "!"
    assert (row.key, row.value) == ("a", "v")
    assert seen.value.endswith("!")
    assert noted(bare_stage) == set()
    with bare_stage.broker.store.reading() as session:
        assert not session.get_one(MetaRow, "broker_id").value.endswith("!")


def test_database_has_its_say_in_a_dry_run(bare_stage):
    note(bare_stage, "a")
    with pytest.raises(IntegrityError), dry_run.nothing_stays():
        note(bare_stage, "a")
    note(bare_stage, "b")
    assert noted(bare_stage) == {"a", "b"}


def test_dry_run_ends_with_what_asked_for_it(bare_stage):
    with pytest.raises(ZeroDivisionError), dry_run.nothing_stays():
        raise ZeroDivisionError
    note(bare_stage, "a")
    with dry_run.nothing_stays():
        with dry_run.nothing_stays():
            note(bare_stage, "b")
        note(bare_stage, "c")
    assert noted(bare_stage) == {"a"}


def test_dry_run_is_nothing_to_other_threads(bare_stage):
    """In turns, each in the middle of the other's: of five dry and five real ones the real ones stay."""
    barrier = threading.Barrier(10)

    def run(number):
        barrier.wait(30)
        if number % 2:
            with dry_run.nothing_stays():
                note(bare_stage, f"dry-{number}")
                barrier.wait(30)
                note(bare_stage, f"dry-too-{number}")
        else:
            note(bare_stage, f"real-{number}")
            barrier.wait(30)
            note(bare_stage, f"real-too-{number}")

    threads = [threading.Thread(target=run, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert noted(bare_stage) == {f"real{too}-{number}" for too in ("", "-too") for number in range(0, 10, 2)}


def test_dry_run_is_nothing_to_other_coroutines_of_its_thread(bare_stage):
    begun = asyncio.Event()

    async def dry():
        with dry_run.nothing_stays():
            begun.set()
            await asyncio.sleep(0)
            await asyncio.to_thread(note, bare_stage, "dry")

    async def real():
        await begun.wait()
        await asyncio.to_thread(note, bare_stage, "real")

    async def both():
        await asyncio.gather(dry(), real())

    asyncio.run(both())
    assert noted(bare_stage) == {"real"}


def test_thread_that_a_dry_run_starts_is_not_dry(bare_stage):
    """What outlives the call, such as a watcher of a site, must not go on as if nothing it does counted."""
    with dry_run.nothing_stays():
        thread = threading.Thread(target=note, args=(bare_stage, "a"))
        thread.start()
        thread.join(30)
    assert noted(bare_stage) == {"a"}
