"""What every operation must stand: each step run twice, and a failure of every call to a provider.

A scene asks for one operation on a new VM. ``CALLS`` says which methods of a provider it uses, so that a new
call cannot be forgotten here; ``END`` says what there is when it is over.
"""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from broker import migration, operation, power, vm
from broker.engine.registry import OPERATIONS
from broker.states import OperationState
from broker.store import OperationRow, VMRow
from providers.simulated import World

if TYPE_CHECKING:
    from tests.broker.conftest import Stage


@pytest.fixture
def hybrid(bare_stage: Stage) -> Stage:
    """As everywhere, but machines take a while to start and to stop."""
    bare_stage.catalogue()
    bare_stage.add_local(boot_s=2, stop_s=2)
    bare_stage.add_cloud(boot_s=2, stop_s=2)
    return bare_stage


def create(stage: Stage, name: str) -> tuple[VMRow, OperationRow]:
    return stage.request(name)


def burst(stage: Stage, name: str) -> tuple[VMRow, OperationRow]:
    return stage.request(name, requirements="elastic")


def stop(stage: Stage, name: str) -> tuple[VMRow, OperationRow]:
    return power.stop(stage.broker, stage.member, stage.create(name).id)


def start(stage: Stage, name: str) -> tuple[VMRow, OperationRow]:
    row = stage.create(name)
    stage.finish(power.stop(stage.broker, stage.member, row.id)[1])
    return power.start(stage.broker, stage.member, row.id)


def reboot(stage: Stage, name: str) -> tuple[VMRow, OperationRow]:
    return power.reboot(stage.broker, stage.member, stage.create(name).id)


def delete(stage: Stage, name: str) -> tuple[VMRow, OperationRow]:
    return vm.delete(stage.broker, stage.member, stage.create(name).id)


def delete_burst(stage: Stage, name: str) -> tuple[VMRow, OperationRow]:
    return vm.delete(stage.broker, stage.member, stage.burst(name).id)


def suspend(stage: Stage, name: str) -> tuple[VMRow, OperationRow]:
    return power.suspend(stage.broker, stage.member, stage.create(name).id)


def resume(stage: Stage, name: str) -> tuple[VMRow, OperationRow]:
    row = stage.create(name)
    stage.finish(power.suspend(stage.broker, stage.member, row.id)[1])
    return power.resume(stage.broker, stage.member, row.id)


def preempt(stage: Stage, name: str) -> tuple[VMRow, OperationRow]:
    row = stage.create(name)
    with stage.broker.store.transaction() as session:
        owned = vm.find(session, stage.admin, row.id, lock=True)
        return row, vm.begin_preempt(stage.broker, session, owned, for_id="another", reason="for another")


def migrate(stage: Stage, name: str) -> tuple[VMRow, OperationRow]:
    return migration.migrate(stage.broker, stage.admin, stage.create(name).id)


def relaunch(stage: Stage, name: str) -> tuple[VMRow, OperationRow]:
    row = stage.burst(name)
    with stage.broker.store.transaction() as session:
        owned = vm.find(session, stage.admin, row.id, lock=True)
        task = vm.begin_relaunch(stage.broker, session, owned, reason="taken back")
    return row, task


def drain(stage: Stage, name: str) -> tuple[VMRow, OperationRow]:
    row = stage.burst(name)
    with stage.broker.store.transaction() as session:
        owned = vm.find(session, stage.admin, row.id, lock=True)
        task = vm.begin_delete(stage.broker, session, owned, reason="drained", graceful=True)
    return row, task


def bring_home(stage: Stage, name: str) -> tuple[VMRow, OperationRow]:
    row = stage.burst(name)
    with stage.broker.store.transaction() as session:
        owned = vm.find(session, stage.admin, row.id, lock=True)
        # What a VM asked for holds at home too: this one only said where it must not be.
        owned.requirements = None
        task = vm.begin_return(stage.broker, session, owned, reason="the burst is closed")
    return row, task


SCENES = {
    scene.__name__: scene
    for scene in (
        create,
        burst,
        stop,
        start,
        reboot,
        suspend,
        resume,
        preempt,
        migrate,
        relaunch,
        delete,
        delete_burst,
        drain,
        bring_home,
    )
}

CALLS = {
    "create": {"ensure_image", "ensure_network", "ensure_vm", "observe_vm"},
    "burst": {"ensure_image", "ensure_vm", "observe_vm"},
    "stop": {"observe_vm", "stop_vm"},
    "start": {"observe_vm", "start_vm"},
    "reboot": {"observe_vm", "reboot_vm"},
    "suspend": {"observe_vm", "suspend_vm"},
    "resume": {"observe_vm", "start_vm"},
    "preempt": {"observe_vm", "suspend_vm", "start_vm"},
    "migrate": {"ensure_image", "ensure_network", "migrate_vm"},
    "relaunch": {"observe_vm", "delete_vm", "ensure_image", "ensure_vm"},
    "delete": {"observe_vm", "delete_vm"},
    "delete_burst": {"observe_vm", "delete_vm"},
    "drain": {"observe_vm", "stop_vm", "delete_vm"},
    "bring_home": {"observe_vm", "stop_vm", "delete_vm", "ensure_image", "ensure_network", "ensure_vm"},
}

LOCAL = {"machines": 1, "leases": 1, "peers": 0, "claims": 1}
CLOUD = {"machines": 1, "leases": 1, "peers": 1, "claims": 1}
NOTHING = {"machines": 0, "leases": 0, "peers": 0, "claims": 0}

END = {
    "create": ("running", LOCAL),
    "burst": ("running", CLOUD),
    "stop": ("stopped", LOCAL),
    "start": ("running", LOCAL),
    "reboot": ("running", LOCAL),
    "suspend": ("suspended", LOCAL),
    "resume": ("running", LOCAL),
    "preempt": ("running", LOCAL),
    "migrate": ("running", LOCAL),
    "relaunch": ("running", CLOUD),
    "delete": ("terminated", NOTHING),
    "delete_burst": ("terminated", NOTHING),
    "drain": ("terminated", NOTHING),
    "bring_home": ("running", LOCAL),
}

SELDOM = {
    # A launch that is given up, and one that says nothing.
    "vm.create": {"delete_vm", "console_log"},
    "vm.return": {"console_log"},
    "vm.relaunch": {"console_log", "ensure_network"},
    # A VM whose definition was removed by hand (tests/broker/test_reconcile.py).
    "vm.start": {"ensure_image", "ensure_network", "ensure_vm"},
    "vm.resume": {"ensure_image", "ensure_network", "ensure_vm"},
    "vm.preempt": {"ensure_image", "ensure_network", "ensure_vm"},
    "vm.migrate": {"observe_vm"},
}
"""What an operation calls only when something is amiss: the tests of that are elsewhere in this folder, or named here."""

RETRYABLE = ("ProviderError", "Unreachable", "OutOfCapacity", "QuotaExceeded")
FINAL = ("AuthenticationFailed", "InvalidSpec", "Conflict", "Unsupported")

POWER = ("start", "stop", "reboot", "suspend", "resume", "preempt")

EVERY_CALL = [(scene, method) for scene in SCENES for method in sorted(CALLS[scene])]


ONE_DATABASE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
"""For tests of what a provider answers, hundreds of them, which is nothing to a database."""


def kinds_of_events(stage: Stage, vm_id: str) -> Counter[str]:
    return Counter(stage.events(target=vm_id))


def calls_of(world: World) -> list[tuple[str, int]]:
    with world.transaction() as state:
        return list(state.calls.items())


def fail_everywhere(stage: Stage, method: str, error: str, **how: Any) -> None:
    for world in stage.worlds.values():
        world.fail(method, error, "as ordered", **how)


def heal_everywhere(stage: Stage) -> None:
    for world in stage.worlds.values():
        world.heal()


def test_every_kind_of_operation_has_a_scene(hybrid: Stage) -> None:
    tasks = {scene: SCENES[scene](hybrid, scene.replace("_", "-"))[1] for scene in SCENES}
    assert {task.kind for task in tasks.values()} == set(OPERATIONS)
    for kind, declaration in OPERATIONS.items():
        made = {call for scene, task in tasks.items() if task.kind == kind for call in CALLS[scene]}
        declared = {call for phase in declaration.every for call in phase.calls}
        assert (kind, made | SELDOM.get(kind, set())) == (kind, declared)


@pytest.mark.parametrize("scene", SCENES)
def test_each_operation_makes_exactly_the_calls_it_is_tested_with(hybrid: Stage, scene: str) -> None:
    _, task = SCENES[scene](hybrid, "web")
    before = [dict(calls_of(world)) for world in hybrid.worlds.values()]
    hybrid.finish(task)
    made = {
        method
        for world, had in zip(hybrid.worlds.values(), before, strict=True)
        for method, count in calls_of(world)
        if count > had.get(method, 0)
    }
    assert made == CALLS[scene]


@pytest.mark.parametrize("scene", SCENES)
def test_operation_whose_phases_follow_each_other_at_once_ends_as_well(hybrid: Stage, scene: str) -> None:
    """As an engine drives it: under one claim, each phase with what the one before has written."""
    row, task = SCENES[scene](hybrid, "web")
    task = hybrid.drive(task, phases=100)
    state, holdings = END[scene]
    assert (task.state, hybrid.vm(row.id).state) == (OperationState.DONE, state), task.message
    assert hybrid.holdings(row.id) == holdings


@pytest.mark.parametrize("scene", SCENES)
def test_every_step_run_twice_changes_nothing_more(hybrid: Stage, scene: str) -> None:
    plain, task = SCENES[scene](hybrid, "plain")
    hybrid.finish(task)
    row, task = SCENES[scene](hybrid, "twice")
    turns = itertools.count()

    def lose_every_other_outcome(_operation: str, _phase: str, point: str) -> None:
        if point == "after" and next(turns) % 2 == 0:
            raise ConnectionError("what came of this step is lost")

    hybrid.broker.trace = lose_every_other_outcome
    hybrid.finish(task)
    assert next(turns) >= 2
    state, holdings = END[scene]
    assert hybrid.vm(row.id).state == state
    assert hybrid.holdings(row.id) == holdings
    assert hybrid.vm(row.id).launch == hybrid.vm(plain.id).launch
    assert kinds_of_events(hybrid, row.id) == kinds_of_events(hybrid, plain.id)
    if scene != "reboot":  # the one action that cannot be told to have happened
        boots = [machine.boots for machine in hybrid.machines(row.id)]
        assert boots == [machine.boots for machine in hybrid.machines(plain.id)]


@ONE_DATABASE
@pytest.mark.parametrize(("scene", "method"), EVERY_CALL)
@pytest.mark.parametrize("after", [False, True], ids=["refused", "answer-lost"])
def test_operation_gets_over_one_failure_of_each_call(
    hybrid: Stage, scene: str, method: str, after: bool
) -> None:
    for error in ("Unreachable",) if after else RETRYABLE:
        row, task = SCENES[scene](hybrid, error.lower())
        fail_everywhere(hybrid, method, error, after=after)
        hybrid.finish(task)
        heal_everywhere(hybrid)
        state, holdings = END[scene]
        assert (error, hybrid.vm(row.id).state, hybrid.holdings(row.id)) == (error, state, holdings)
        hybrid.finish(vm.delete(hybrid.broker, hybrid.member, row.id)[1])
        assert hybrid.nothing_left(row.id), error


@ONE_DATABASE
@pytest.mark.parametrize(
    ("scene", "method"), [pair for pair in EVERY_CALL if pair[0] in ("create", "burst", "bring_home")]
)
@pytest.mark.parametrize("after", [False, True], ids=["refused", "answer-lost"])
def test_launch_that_can_never_succeed_leaves_a_reason_and_nothing_else(
    hybrid: Stage, scene: str, method: str, after: bool
) -> None:
    for error in ("InvalidSpec",) if after else FINAL:
        row, task = SCENES[scene](hybrid, error.lower())
        fail_everywhere(hybrid, method, error, after=after)
        task = hybrid.drive(task)
        heal_everywhere(hybrid)
        row = hybrid.vm(row.id)
        assert (error, task.state, row.state) == (error, OperationState.FAILED, "error")
        assert "as ordered" in row.status_reason
        assert "as ordered" in (task.error or "")
        hybrid.wait(3)  # what was told to go is gone after stop_s
        if scene == "bring_home" and row.elastic:
            # It is still in its cloud, where a failed way home leaves it to its owner.
            assert row.status_reason.startswith("it could not come home")
            hybrid.finish(vm.delete(hybrid.broker, hybrid.member, row.id)[1])
        assert hybrid.nothing_left(row.id), error


@ONE_DATABASE
@pytest.mark.parametrize(("scene", "method"), [pair for pair in EVERY_CALL if pair[0] in POWER])
def test_power_change_that_can_never_succeed_leaves_a_reason_and_the_vm(
    hybrid: Stage, scene: str, method: str
) -> None:
    for error in (*FINAL, "NotFound"):
        row, task = SCENES[scene](hybrid, error.lower())
        fail_everywhere(hybrid, method, error)
        task = hybrid.drive(task)
        heal_everywhere(hybrid)
        row = hybrid.vm(row.id)
        assert (error, task.state, row.state) == (error, OperationState.FAILED, "error")
        assert "as ordered" in row.status_reason
        assert hybrid.holdings(row.id) == LOCAL


@ONE_DATABASE
@pytest.mark.parametrize(
    ("scene", "method"), [pair for pair in EVERY_CALL if pair[0] in ("delete", "delete_burst", "drain")]
)
def test_delete_is_never_given_up(hybrid: Stage, scene: str, method: str) -> None:
    row, task = SCENES[scene](hybrid, "web")
    fail_everywhere(hybrid, method, "AuthenticationFailed", times=3)
    hybrid.drive(task, until=lambda: hybrid.vm(row.id).status_reason == "as ordered")
    assert hybrid.vm(row.id).status_reason == "as ordered"
    hybrid.finish(task)
    assert hybrid.nothing_left(row.id)


def test_launch_moves_on_when_a_host_has_no_room_after_all(stage: Stage) -> None:
    stage.worlds["campus"].fail("ensure_vm", "OutOfCapacity", "no room after all", host="sim-01", times=-1)
    row = stage.create("web", rank='name == "sim-01" ? 1 : 0')
    assert stage.there(row.host).name == "sim-02"
    assert row.launch == 2
    assert "vm.unplaced" in stage.events(target=row.id)


@pytest.mark.parametrize("phase", ["image", "launch", "boot"])
def test_launch_taken_back_by_a_broker_that_died_right_then_goes_on(hybrid: Stage, phase: str) -> None:
    """What it had taken back at the provider is not written: the VM still holds its room."""
    method, error = {"image": ("ensure_image", "NotFound"), "launch": ("ensure_vm", "OutOfCapacity")}.get(
        phase, ("", "")
    )
    row, task = hybrid.request("web")
    hybrid.drive(task, until=lambda: hybrid.operation(task.id).phase == phase)
    if method:
        fail_everywhere(hybrid, method, error)
    else:
        hybrid.worlds["campus"].destroy_vm(row.id)
    lost: list[bool] = []

    def die_once(_operation: str, _phase: str, point: str) -> None:
        if point == "after" and not lost:
            lost.append(True)
            raise ConnectionError("what came of this step is lost")

    hybrid.broker.trace = die_once
    hybrid.step(task)
    assert lost
    assert hybrid.vm(row.id).host is not None
    assert hybrid.operation(task.id).phase == phase
    hybrid.finish(task)
    assert hybrid.holdings(row.id) == LOCAL


def test_launch_is_given_up_after_five_tries(stage: Stage) -> None:
    stage.add_local(hosts=9, name="annex", part=2)
    fail_everywhere(stage, "ensure_vm", "OutOfCapacity", times=-1)
    row, task = stage.request("web")
    task = stage.drive(task)
    assert task.state == OperationState.FAILED
    assert "given up after 5 launches" in stage.vm(row.id).status_reason
    assert stage.nothing_left(row.id)


def test_vm_that_never_comes_up_is_given_up(bare_stage: Stage) -> None:
    bare_stage.catalogue()
    bare_stage.add_local(boot_s=100_000)
    row, task = bare_stage.request("web")
    task = bare_stage.drive(task)
    assert task.state == OperationState.FAILED
    assert "not running" in bare_stage.vm(row.id).status_reason
    assert bare_stage.nothing_left(row.id)


def test_burst_vm_that_never_enrols_is_given_up(hybrid: Stage) -> None:
    hybrid.agents[0].guests_enrol = False
    row, task = hybrid.request("web", requirements="elastic")
    hybrid.drive(task, until=lambda: hybrid.operation(task.id).phase == "enrol")
    hybrid.worlds["cloud"].say(row.id, "isthmus: cannot join: wg is missing")
    task = hybrid.drive(task)
    assert task.state == OperationState.FAILED
    assert "did not enrol" in hybrid.vm(row.id).status_reason
    assert "its console says: cannot join: wg is missing" in hybrid.vm(row.id).status_reason
    hybrid.wait(3)
    assert hybrid.nothing_left(row.id)


def test_burst_vm_that_its_cloud_ends_before_it_enrols_is_launched_anew(hybrid: Stage) -> None:
    hybrid.agents[0].guests_enrol = False
    row, task = hybrid.request("web", requirements="elastic")
    hybrid.drive(task, until=lambda: hybrid.operation(task.id).phase == "enrol")
    hybrid.worlds["cloud"].destroy_vm(row.id, "spot interruption")
    hybrid.agents[0].guests_enrol = True
    hybrid.finish(task)
    assert hybrid.vm(row.id).launch == 2
    assert hybrid.holdings(row.id) == CLOUD


def test_launch_that_was_not_written_is_found_again_after_its_guest_enrolled(hybrid: Stage) -> None:
    row, task = hybrid.request("web", requirements="elastic")
    hybrid.drive(task, until=lambda: hybrid.operation(task.id).phase == "launch")
    lost: list[bool] = []

    def die_once(_operation: str, _phase: str, point: str) -> None:
        if point == "after" and not lost:
            lost.append(True)
            raise ConnectionError("what came of this step is lost")

    hybrid.broker.trace = die_once
    hybrid.step(task)
    hybrid.wait(5)
    for _ in range(3):
        hybrid.agents[0].turn()
    assert hybrid.vm(row.id).enrolled_at is not None
    assert hybrid.operation(task.id).phase == "launch"
    hybrid.finish(task)
    assert hybrid.holdings(row.id) == CLOUD
    assert hybrid.vm(row.id).launch == 1


def test_guest_that_does_not_listen_is_forced_after_its_grace(stage: Stage) -> None:
    row = stage.create("web")
    stage.worlds["campus"].deafen_vm(row.id)
    began = stage.clock.now()
    stage.finish(power.stop(stage.broker, stage.member, row.id)[1])
    waited = (stage.clock.now() - began).total_seconds()
    assert stage.settings.timing.stop_grace_s < waited < stage.settings.timing.stop_grace_s + 60
    assert stage.vm(row.id).state == "stopped"


def test_forced_stop_waits_for_nobody(stage: Stage) -> None:
    row = stage.create("web")
    stage.worlds["campus"].deafen_vm(row.id)
    began = stage.clock.now()
    stage.finish(power.stop(stage.broker, stage.member, row.id, force=True)[1])
    assert (stage.clock.now() - began).total_seconds() < 5


@pytest.mark.parametrize("phase", ["place", "image", "network", "launch", "boot"])
def test_vm_can_be_deleted_in_every_phase_of_its_creation(bare_stage: Stage, phase: str) -> None:
    bare_stage.catalogue()
    bare_stage.add_local(boot_s=30)
    row, task = bare_stage.request("web")
    bare_stage.drive(task, until=lambda: bare_stage.operation(task.id).phase == phase)
    bare_stage.finish(vm.delete(bare_stage.broker, bare_stage.member, row.id)[1])
    assert bare_stage.operation(task.id).state == OperationState.CANCELLED
    assert bare_stage.vm(row.id).state == "terminated"
    assert bare_stage.nothing_left(row.id)


@pytest.mark.parametrize("phase", ["peer", "launch", "boot", "enrol"])
def test_burst_vm_can_be_deleted_in_every_phase_of_its_creation(stage: Stage, phase: str) -> None:
    stage.add_cloud(boot_s=30)
    row, task = stage.request("web", requirements="elastic")
    stage.drive(task, until=lambda: stage.operation(task.id).phase == phase)
    stage.finish(vm.delete(stage.broker, stage.member, row.id)[1])
    assert stage.operation(task.id).state == OperationState.CANCELLED
    assert stage.nothing_left(row.id)


@pytest.mark.parametrize(
    "phase", ["shutdown", "unpeer", "terminate", "home", "place", "image", "network", "launch"]
)
def test_vm_can_be_deleted_in_every_phase_of_its_return(hybrid: Stage, phase: str) -> None:
    row, task = bring_home(hybrid, "web")
    hybrid.drive(task, until=lambda: hybrid.operation(task.id).phase == phase)
    assert hybrid.operation(task.id).phase == phase
    hybrid.finish(vm.delete(hybrid.broker, hybrid.member, row.id)[1])
    assert hybrid.nothing_left(row.id)


def test_gateway_that_is_away_delays_a_delete_but_does_not_stop_it(hybrid: Stage) -> None:
    row = hybrid.burst("web")
    hybrid.agents[0].awake = False
    began = hybrid.clock.now()
    hybrid.finish(vm.delete(hybrid.broker, hybrid.member, row.id)[1])
    waited = (hybrid.clock.now() - began).total_seconds()
    assert hybrid.settings.timing.gateway_s < waited < hybrid.settings.timing.gateway_s + 30
    assert hybrid.nothing_left(row.id)


def test_peer_is_gone_from_the_gateway_before_its_vm_is_terminated(hybrid: Stage) -> None:
    from broker import gateway

    row = hybrid.burst("web")
    shown = []

    def look(_operation: str, phase: str, point: str) -> None:
        if (phase, point) == ("terminate", "before"):
            shown.append(gateway.document(hybrid.broker, hybrid.agents[0].actor).peers)
            assert hybrid.machines(row.id)

    hybrid.broker.trace = look
    hybrid.finish(vm.delete(hybrid.broker, hybrid.member, row.id)[1])
    assert shown == [()]


def test_other_project_does_not_see_an_operation(stage: Stage) -> None:
    _, task = stage.request("web")
    from broker.errors import NotFound

    with pytest.raises(NotFound):
        operation.get(stage.broker, stage.outsider, task.id)
    assert operation.list_operations(stage.broker, stage.outsider) == []
    assert [row.id for row in operation.list_operations(stage.broker, stage.member)] == [task.id]


def test_wait_answers_when_the_operation_is_over(stage: Stage) -> None:
    _, task = stage.request("web")
    stage.finish(task)
    assert operation.wait(stage.broker, stage.member, task.id, 5).state == OperationState.DONE
    _, waiting = stage.request("big", requirements="cpu_total > 1000")
    assert operation.wait(stage.broker, stage.member, waiting.id, 0).state == OperationState.RUNNING
