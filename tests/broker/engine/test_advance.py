"""Claims on operations: of two drivers of one operation, one writes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from broker import vm
from broker.engine import advance
from broker.engine.lease import LeaseEngine
from broker.states import OperationState
from broker.store import OperationRow

if TYPE_CHECKING:
    from tests.broker.conftest import Stage

PHASES = ["place", "image", "network", "launch", "boot"]


@pytest.fixture
def stage(bare_stage: Stage) -> Stage:
    bare_stage.catalogue()
    bare_stage.add_local(boot_s=5)
    return bare_stage


def frozen_driver(stage: Stage, meanwhile: Callable[[str, str, str], None]) -> LeaseEngine:
    """A driver that sleeps, once, where ``meanwhile`` says; its claims are not renewed, as if it were stopped."""
    broker = stage.another()
    driver = stage.driver_of(broker)
    driver.claims.stop()
    broker.trace = meanwhile
    return driver


@pytest.mark.parametrize("point", ["before", "after"])
@pytest.mark.parametrize("phase", PHASES)
def test_driver_that_was_frozen_finds_its_claim_gone_and_writes_nothing(
    stage: Stage, phase: str, point: str
) -> None:
    row, task = stage.request("web")
    stage.drive(task, until=lambda: stage.operation(task.id).phase == phase)
    ended: list[OperationRow] = []

    def sleep(_operation: str, _phase: str, at: str) -> None:
        if at == point and not ended:
            stage.wait(advance.CLAIM_S + 1)
            ended.append(stage.finish(task))

    sleeper = frozen_driver(stage, sleep)
    assert sleeper.step(task.id) is None
    assert len(ended) == 1
    after = stage.operation(task.id)
    assert (after.state, after.phase, after.ended_at) == (ended[0].state, ended[0].phase, ended[0].ended_at)
    assert stage.vm(row.id).state == "running"
    assert stage.holdings(row.id) == {"machines": 1, "leases": 1, "peers": 0, "claims": 1}
    assert stage.events(target=row.id).count("vm.running") == 1
    assert stage.events(target=row.id).count("vm.placed") == 1


def test_driver_that_was_frozen_over_a_change_of_phase_does_not_turn_it_back(stage: Stage) -> None:
    _, task = stage.request("web")
    stage.drive(task, until=lambda: stage.operation(task.id).phase == "image")
    moved: list[datetime] = []

    def sleep(_operation: str, _phase: str, at: str) -> None:
        if at == "after" and not moved:
            stage.wait(advance.CLAIM_S + 1)
            stage.drive(task, until=lambda: stage.operation(task.id).phase == "boot")
            moved.append(stage.operation(task.id).phase_at)

    sleeper = frozen_driver(stage, sleep)
    assert sleeper.step(task.id) is None
    row = stage.operation(task.id)
    assert (row.phase, row.phase_at) == ("boot", moved[0])
    stage.finish(task)


def test_operation_that_somebody_drives_is_driven_by_nobody_else(stage: Stage) -> None:
    _, task = stage.request("web")
    other = stage.driver_of(stage.another())
    pauses = []

    def look(_operation: str, _phase: str, point: str) -> None:
        if point == "before":
            pauses.append(other.step(task.id))

    stage.broker.trace = look
    stage.step(task)
    assert stage.there(stage.there(pauses[0]).seconds) > 0
    assert stage.operation(task.id).phase == "image"


def test_claim_is_given_back_after_each_step(stage: Stage) -> None:
    _, task = stage.request("web")
    stage.step(task)
    row = stage.operation(task.id)
    assert (row.claim_token, row.claim_until) == (None, None)


def test_claim_is_given_back_when_a_step_fails(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    _, task = stage.request("web")

    def fail(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(advance, "_write", fail)
    stage.step(task)
    assert stage.operation(task.id).claim_token is None


def test_bug_in_a_step_is_tried_again_and_said(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    from broker import image

    row, task = stage.request("web")
    stage.step(task)

    def broken(_row: object, _site: object) -> None:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(image, "spec", broken)
        pause = stage.step(task)
    assert stage.there(stage.there(pause).seconds) > 0
    assert "a bug" in stage.vm(row.id).status_reason
    stage.finish(task)
    assert stage.vm(row.id).status_reason == ""


def test_claim_of_a_step_that_takes_long_is_renewed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advance, "CLAIM_S", 0.3)
    _, task = stage.request("web")
    claims = advance.Claims(stage.broker)
    taken = claims.take(task.id)
    assert isinstance(taken, advance.Held)
    began = stage.there(taken.step.operation.claim_until)

    def until() -> datetime:
        return stage.there(stage.operation(task.id).claim_until)

    stage.wait(100)
    try:
        deadline = threading.Event()
        for _ in range(200):
            if until() > began:
                break
            deadline.wait(0.05)
        assert until() > stage.clock.now()
    finally:
        claims.stop()


def test_two_drivers_at_once_do_each_action_once(stage: Stage) -> None:
    """Threads, each with a broker of its own, on all operations at once."""
    tasks = [stage.request(f"web-{number}")[1].id for number in range(6)]
    drivers = [stage.driver, stage.driver_of(stage.another())]
    failures = []

    def work(driver: LeaseEngine) -> None:
        try:
            for _ in range(60):
                for task in tasks:
                    driver.step(task)
        except Exception as error:
            failures.append(error)

    def pass_time() -> None:
        stage.wait(5)

    threads = [threading.Thread(target=work, args=(driver,)) for driver in drivers]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.2)
            pass_time()
    assert failures == []
    for task in tasks:
        row = stage.finish(task)
        assert stage.holdings(row.target) == {"machines": 1, "leases": 1, "peers": 0, "claims": 1}
        assert stage.events(target=row.target).count("vm.placed") == 1


def test_delete_waits_for_a_driver_in_the_middle_of_a_call(stage: Stage) -> None:
    row, task = stage.request("web")
    stage.drive(task, until=lambda: stage.operation(task.id).phase == "launch")
    seen: list[tuple[str, str]] = []

    def meanwhile(_operation: str, _phase: str, point: str) -> None:
        if point == "before" and not seen:
            _, deletion = vm.delete(stage.broker, stage.member, row.id)
            stage.driver.step(deletion.id)
            seen.append((deletion.id, stage.operation(deletion.id).message))

    other = stage.another()
    other.trace = meanwhile
    driver = stage.driver_of(other)
    assert driver.step(task.id) is None
    deletion, message = seen[0]
    assert "waiting for an earlier step" in message
    stage.finish(deletion)
    assert stage.operation(task.id).state == OperationState.CANCELLED
    assert stage.nothing_left(row.id)


def test_operations_that_are_due_are_found_by_whoever_looks(stage: Stage) -> None:
    _, waiting = stage.request("big", requirements="cpu_total > 1000")
    _, task = stage.request("web")
    stage.drive(task, until=lambda: stage.operation(task.id).phase == "image")
    other = stage.driver_of(stage.another())
    assert other.due(10) == [(task.id, stage.sites["campus"])]
    claims = advance.Claims(stage.broker)
    claims.take(task.id)
    assert other.due(10) == []
    stage.wait(advance.CLAIM_S + 1)
    assert other.due(10) == [(task.id, stage.sites["campus"])]
    claims.stop()
    stage.driver.forget_claims()
    with stage.broker.store.reading() as session:
        assert session.scalars(select(OperationRow.claim_token)).all() == [None, None]
    assert stage.operation(waiting.id).next_at is None


def test_operation_that_is_moved_while_it_is_put_to_rest_is_looked_at_again(stage: Stage) -> None:
    """The matchmaker places a VM at the very moment at which its operation finds that it has to wait."""
    from broker import queue

    _, task = stage.request("web")
    placed: list[bool] = []

    def place_now(_operation: str, phase: str, point: str) -> None:
        if (phase, point) == ("place", "after") and not placed:
            queue.place_pending(stage.broker)
            placed.append(True)

    stage.broker.trace = place_now
    pause = stage.driver.step(task.id)
    assert placed
    assert stage.there(pause).seconds == 0
    assert stage.operation(task.id).next_at is not None
    stage.finish(task)


def test_duty_is_done_by_one_broker_at_a_time(stage: Stage) -> None:
    mine, other = stage.driver.claims, stage.driver_of(stage.another()).claims
    assert mine.on_duty("reconcile")
    assert not other.on_duty("reconcile")
    assert mine.on_duty("reconcile")
    stage.wait(advance.CLAIM_S + 1)
    assert other.on_duty("reconcile")
    assert not mine.on_duty("reconcile")


def test_duty_is_free_at_once_when_its_broker_stops(stage: Stage) -> None:
    mine, other = stage.driver.claims, stage.driver_of(stage.another()).claims
    assert mine.on_duty("reconcile")
    assert not other.on_duty("reconcile")
    mine.stop()
    assert other.on_duty("reconcile")
