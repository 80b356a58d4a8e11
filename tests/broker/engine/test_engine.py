"""What every engine must do behind its port, on each adapter; with a clock that runs by itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from broker import operation
from broker.broker import Broker
from broker.engine import lease
from broker.engine.declaration import Declaration, Done, Next, Phase, Step, Wait
from broker.engine.lease import LeaseEngine
from broker.engine.registry import OPERATIONS
from broker.engine.slots import AT_ONCE
from broker.states import OperationState
from broker.store import OperationRow, ProjectRow, Store
from providers.simulated import SimulatedProvider

if TYPE_CHECKING:
    from broker.engine.dbos import DbosEngine
    from tests.broker.conftest import Stage

NONE = "it does nothing"


def of_adapter(name: str, broker: Broker) -> DbosEngine | LeaseEngine:
    if name == "lease":
        return LeaseEngine(broker, holder="mine")
    from broker.engine.dbos import DbosEngine

    return DbosEngine(broker)


@pytest.fixture(params=["lease", pytest.param("dbos", marks=pytest.mark.slow)])
def adapter(request: pytest.FixtureRequest) -> str:
    """DBOS is slow: it takes seconds to launch. It earns that a swap of the engine costs one file."""
    return str(request.param)


class Works:
    """A broker with an engine at work, and operations whose phases tests make up."""

    def __init__(self, stage: Stage, adapter: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stage = stage
        self.patch = monkeypatch
        settings = stage.settings.model_copy(deep=True)
        settings.timing.sweep_s = 0.1
        self.broker = Broker(settings, store=Store(stage.url), kinds={"simulated": lambda: SimulatedProvider})
        self.engine = of_adapter(adapter, self.broker)
        self.numbers = iter(range(1000))

    def declare(self, *phases: Phase) -> Declaration:
        made = Declaration(f"test.{next(self.numbers)}", ProjectRow, phases, settles=False)
        self.patch.setitem(OPERATIONS, made.kind, made)
        return made

    def ask(
        self,
        declaration: Declaration,
        *,
        site_id: str | None = None,
        waits: bool = False,
        submit: bool = True,
    ) -> OperationRow:
        with self.broker.store.transaction() as session:
            task = operation.add(
                self.broker,
                session,
                declaration.kind,
                self.stage.owner.id,
                phase=declaration.begins,
                site_id=site_id,
                waits=waits,
            )
        if submit:
            self.broker.submit(task)
        return task

    def state(self, task: OperationRow) -> OperationRow:
        with self.broker.store.reading() as session:
            return session.get_one(OperationRow, task.id)

    def until(self, holds: Callable[[], object], most_s: float = 20.0) -> None:
        deadline = time.monotonic() + most_s
        while not holds():
            assert time.monotonic() < deadline, "it did not come true"
            time.sleep(0.01)

    def until_done(self, task: OperationRow) -> None:
        self.until(lambda: self.state(task).state == OperationState.DONE)


@pytest.fixture
def works(bare_stage: Stage, adapter: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Works]:
    made = Works(bare_stage, adapter, monkeypatch)
    made.engine.start()
    yield made
    made.engine.stop()
    made.broker.close()


def test_operation_that_is_submitted_is_driven_to_its_end(works: Works) -> None:
    def first(step: Step[Any]) -> Next:
        return Next()

    def second(step: Step[Any]) -> Done:
        return Done("well")

    kind = works.declare(Phase(first, to=(second,), undo=NONE), Phase(second, undo=NONE))
    task = works.ask(kind)
    works.until_done(task)
    assert works.state(task).message == "well"


def test_operation_that_nobody_submitted_is_found_when_it_is_due(works: Works) -> None:
    task = works.ask(works.declare(Phase(lambda step: Done(), name="act", undo=NONE)), submit=False)
    works.until_done(task)


def test_operation_that_waits_is_woken_by_its_signal(works: Works) -> None:
    def act(step: Step[Any]) -> Done | Wait:
        return (
            Done()
            if step.operation.params.get("seen")
            else Wait(600, signals=("news",), params={"seen": True})
        )

    task = works.ask(works.declare(Phase(act, undo=NONE)))
    works.until(lambda: works.state(task).params.get("seen"))

    def signalled_until_done() -> bool:
        works.broker.signals.set("news")
        return works.state(task).state == OperationState.DONE

    works.until(signalled_until_done)


def test_operation_that_waits_for_no_clock_is_left_alone_until_it_is_submitted(works: Works) -> None:
    looked = []

    def act(step: Step[Any]) -> Done:
        looked.append(step.operation.id)
        return Done()

    task = works.ask(works.declare(Phase(act, undo=NONE)), waits=True, submit=False)
    other = works.ask(works.declare(Phase(lambda step: Done(), name="act", undo=NONE)), submit=False)
    works.until_done(other)
    assert looked == []
    works.broker.submit(task)
    works.until_done(task)


def test_site_that_hangs_leaves_threads_to_the_others(works: Works) -> None:
    go_on = threading.Event()

    def hang(step: Step[Any]) -> Done:
        go_on.wait(30)
        return Done()

    hanging = works.declare(Phase(hang, undo=NONE, calls=("ensure_vm",)))
    stuck = [works.ask(hanging, site_id="site-that-hangs") for _ in range(lease.WORKERS + 5)]
    well = works.ask(
        works.declare(Phase(lambda step: Done(), name="act", undo=NONE)), site_id="site-that-is-well"
    )
    works.until_done(well)
    hanging_now = [site for site in works.engine._busy.values() if site == "site-that-hangs"]
    assert len(hanging_now) <= lease.PER_SITE
    go_on.set()
    for task in stuck:
        works.until_done(task)


def test_steps_work_in_turn_and_wait_for_providers_beside_each_other(works: Works) -> None:
    together = threading.Barrier(lease.PER_SITE, timeout=20)
    lock = threading.Lock()
    now = most = 0

    def think(step: Step[Any]) -> Next:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        with works.broker.store.reading() as session:
            session.get(OperationRow, step.operation.id)
        with lock:
            now -= 1
        return Next()

    def ask(step: Step[Any]) -> Done:
        together.wait()
        return Done()

    kind = works.declare(Phase(think, to=(ask,), undo=NONE), Phase(ask, undo=NONE, calls=("ensure_vm",)))
    for task in [works.ask(kind, site_id="campus") for _ in range(lease.PER_SITE)]:
        works.until_done(task)
    assert most == AT_ONCE


def test_very_many_that_are_due_at_a_start_make_no_more_threads(
    bare_stage: Stage, adapter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = Works(bare_stage, adapter, monkeypatch)
    kind = works.declare(Phase(lambda step: Done(), name="act", undo=NONE))
    tasks = [works.ask(kind, submit=False) for _ in range(200)]
    before = threading.active_count()
    works.engine.start()
    most = 0

    def all_over() -> bool:
        nonlocal most
        most = max(most, threading.active_count() - before)
        return all(works.state(task).state == OperationState.DONE for task in (tasks[0], tasks[-1]))

    try:
        works.until(all_over, 60)
    finally:
        works.engine.stop()
        works.broker.close()
    # DBOS has some threads of its own.
    assert most <= lease.WORKERS + 16


def test_engine_that_stops_lets_a_step_end_and_gives_its_claim_back(works: Works) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def act(step: Step[Any]) -> Done:
        begun.set()
        go_on.wait(20)
        return Done()

    task = works.ask(works.declare(Phase(act, undo=NONE)))
    assert begun.wait(20)
    threading.Timer(0.2, go_on.set).start()
    works.engine.stop()
    row = works.state(task)
    assert (row.state, row.claim_token) == (OperationState.DONE, None)


def test_duty_runs_when_it_is_signalled_and_in_one_engine_alone(
    bare_stage: Stage, adapter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = Works(bare_stage, adapter, monkeypatch)
    mine, theirs = [], []
    works.engine.schedule("sweeping", 600, lambda: mine.append(1))
    other_broker = Broker(
        works.broker.settings, store=Store(bare_stage.url), kinds={"simulated": lambda: SimulatedProvider}
    )
    other = LeaseEngine(other_broker, holder="theirs")
    other.schedule("sweeping", 600, lambda: theirs.append(1))
    works.engine.start()
    works.until(lambda: mine)
    # As a broker elsewhere: it forgets no claims of others at its start.
    monkeypatch.setattr(other, "forget_claims", lambda: None)
    other.start()
    try:

        def signalled_until_done_again() -> bool:
            works.broker.signals.set("sweeping")
            return len(mine) >= 2

        works.until(signalled_until_done_again)
        assert theirs == []
    finally:
        works.engine.stop()
        works.until(lambda: theirs, 30)
        other.stop()
        works.broker.close()
        other_broker.close()


def test_duty_that_rests_is_not_done_again_however_often_it_is_signalled(
    bare_stage: Stage, adapter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = Works(bare_stage, adapter, monkeypatch)
    rested, steady = [], []
    works.engine.schedule("rested", 600, lambda: rested.append(1), rest_s=600)
    works.engine.schedule("steady", 600, lambda: steady.append(1))
    works.engine.start()

    def signalled() -> bool:
        for name in ("rested", "steady"):
            works.broker.signals.set(name)
        return len(steady) >= 20

    try:
        works.until(lambda: rested)
        works.until(signalled)
        assert len(rested) == 1
    finally:
        works.engine.stop()
        works.broker.close()


def test_submitting_again_is_harmless(works: Works) -> None:
    times = []

    def act(step: Step[Any]) -> Done:
        times.append(1)
        return Done()

    task = works.ask(works.declare(Phase(act, undo=NONE)))
    for _ in range(5):
        works.broker.submit(task)
    works.until_done(task)
    assert len(times) == 1
