"""The reconciler: one test per row of the table in ``broker/reconcile.py``, and that silence proves nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select

from broker import network, power, site, vm
from broker.broker import Broker
from broker.reconcile import hear, reconcile
from broker.states import OperationState
from broker.store import HostRow, OperationRow, SiteRow, VMRow
from providers import port
from providers.port import Capability, require
from providers.simulated import World
from providers.simulated.world import State

if TYPE_CHECKING:
    from tests.broker.conftest import Stage


def set_provider_state(world: World, vm_id: str, state: str, reason: str) -> None:
    with world.transaction() as state_of_world:
        for found in state_of_world.vms.values():
            if found.vm_id == vm_id:
                state_of_world.move(found, state, reason=reason)


def test_vm_stopped_by_its_owner_behind_our_back_is_recorded_as_stopped(stage: Stage) -> None:
    row = stage.create("web")
    stage.worlds["campus"].power_off_vm(row.id, "shutdown")
    reconcile(stage.broker)
    row = stage.vm(row.id)
    assert (row.state, row.desired) == ("stopped", "stopped")
    assert "stopped outside Isthmus" in row.status_reason
    assert "shutdown" in row.status_reason
    reconcile(stage.broker)
    assert stage.events(kind="vm.stopped_outside") == ["vm.stopped_outside"]
    assert stage.holdings(row.id)["claims"] == 1


def test_vm_started_by_its_owner_behind_our_back_is_recorded_as_running(stage: Stage) -> None:
    row = stage.create("web")
    stage.finish(power.stop(stage.broker, stage.member, row.id)[1])
    set_provider_state(stage.worlds["campus"], row.id, port.VMState.RUNNING, "")
    reconcile(stage.broker)
    row = stage.vm(row.id)
    assert (row.state, row.desired, row.status_reason) == ("running", "running", "")
    assert stage.events(kind="vm.started_outside") == ["vm.started_outside"]


def test_crashed_vm_is_in_error_with_the_reason_of_its_provider(stage: Stage) -> None:
    row = stage.create("web")
    set_provider_state(stage.worlds["campus"], row.id, port.VMState.ERROR, "the guest panicked")
    reconcile(stage.broker)
    row = stage.vm(row.id)
    assert (row.state, row.status_reason) == ("error", "the guest panicked")
    reconcile(stage.broker)
    assert stage.events(kind="vm.crashed") == ["vm.crashed"]


def test_vm_that_recovered_from_an_error_keeps_the_error_as_its_reason(stage: Stage) -> None:
    row = stage.create("web")
    set_provider_state(stage.worlds["campus"], row.id, port.VMState.ERROR, "the guest panicked")
    reconcile(stage.broker)
    set_provider_state(stage.worlds["campus"], row.id, port.VMState.RUNNING, "")
    reconcile(stage.broker)
    row = stage.vm(row.id)
    assert (row.state, row.desired, row.status_reason) == (
        "running",
        "running",
        "after an error: the guest panicked",
    )
    assert stage.events(kind="vm.recovered") == ["vm.recovered"]


def other_host(stage: Stage, row: VMRow) -> str:
    with stage.broker.store.reading() as session:
        names = session.scalars(select(HostRow.name).where(HostRow.site_id == row.site_id))
        return next(name for name in names if name != stage.there(row.host).name)


def test_vm_that_was_moved_by_hand_is_followed_to_its_new_host(stage: Stage) -> None:
    row = stage.create("web")
    there = other_host(stage, row)
    stage.worlds["campus"].move_vm(row.id, there)
    reconcile(stage.broker)
    moved = stage.vm(row.id)
    assert (moved.state, stage.there(moved.host).name) == ("running", there)
    assert stage.events(kind="vm.moved") == ["vm.moved"]
    stage.finish(vm.delete(stage.broker, stage.member, row.id)[1])
    assert stage.nothing_left(row.id)


def test_second_machine_of_one_vm_is_stopped_and_told_once(stage: Stage) -> None:
    row = stage.create("web")
    there = other_host(stage, row)
    ref = stage.worlds["campus"].double_vm(row.id, there)
    reconcile(stage.broker)
    stage.wait(3)
    reconcile(stage.broker)
    states = {machine.ref: machine.state for machine in stage.worlds["campus"].live_vms()}
    assert states == {row.provider_ref: port.VMState.RUNNING, ref: port.VMState.STOPPED}
    assert stage.there(stage.vm(row.id).host).name == stage.there(row.host).name
    assert stage.events(kind="vm.double") == ["vm.double"]


def test_mend_that_failed_is_tried_again_after_a_while_and_not_at_once(stage: Stage) -> None:
    row = stage.create("web")
    world = stage.worlds["campus"]
    world.fail("ensure_vm", "InvalidSpec", "as ordered", times=1)
    world.destroy_vm(row.id)
    reconcile(stage.broker)
    assert stage.drive(stage.task_of(row)).state == OperationState.FAILED
    for _ in range(3):
        reconcile(stage.broker)
    assert stage.events(kind="vm.mending") == ["vm.mending"]
    stage.wait(301)
    reconcile(stage.broker)
    stage.finish(stage.task_of(row))
    assert stage.vm(row.id).state == "running"


def test_vm_whose_definition_was_removed_from_its_host_is_made_again(stage: Stage) -> None:
    row = stage.create("web")
    stage.worlds["campus"].destroy_vm(row.id)
    reconcile(stage.broker)
    assert stage.vm(row.id).state == "pending"
    task = stage.finish(stage.task_of(row))
    assert task.kind == "vm.start"
    made = stage.vm(row.id)
    assert (made.state, made.host_id) == ("running", row.host_id)
    assert [machine.address for machine in stage.machines(row.id)] == [row.nics[0].address]
    reconcile(stage.broker)
    assert stage.task_of(row).id == task.id


def test_vm_is_made_again_on_a_host_that_lost_its_networks_too(stage: Stage) -> None:
    row = stage.create("web")
    world = stage.worlds["campus"]
    world.destroy_vm(row.id)
    with world.transaction() as state:
        state.networks.clear()
        state.images.clear()
    reconcile(stage.broker)
    stage.finish(stage.task_of(row))
    assert len(stage.machines(row.id)) == 1


def test_stopped_vm_whose_definition_was_removed_is_made_again_when_it_starts(stage: Stage) -> None:
    row = stage.create("web")
    stage.finish(power.stop(stage.broker, stage.member, row.id)[1])
    stage.worlds["campus"].destroy_vm(row.id)
    reconcile(stage.broker)
    assert stage.vm(row.id).state == "stopped"
    stage.finish(power.start(stage.broker, stage.member, row.id)[1])
    assert len(stage.machines(row.id)) == 1


def test_instance_that_is_gone_from_its_cloud_gives_back_what_it_held(hybrid: Stage) -> None:
    row = hybrid.burst("web")
    hybrid.worlds["cloud"].destroy_vm(row.id, "Client.InstanceInitiatedShutdown")
    reconcile(hybrid.broker)
    hybrid.finish(hybrid.task_of(row))
    row = hybrid.vm(row.id)
    assert (row.state, row.status_reason) == ("terminated", "Client.InstanceInitiatedShutdown")
    assert hybrid.nothing_left(row.id)
    hybrid.agents[0].turn()  # its document, without the peer, is one an agent may apply


def test_terminated_vm_that_still_runs_at_its_provider_is_deleted(stage: Stage) -> None:
    row = stage.create("web")
    machine = stage.machines(row.id)[0]
    stage.finish(vm.delete(stage.broker, stage.member, row.id)[1])
    with stage.worlds["campus"].transaction() as state:
        machine.state = port.VMState.RUNNING
        state.add(machine)
    assert len(stage.machines(row.id)) == 1
    reconcile(stage.broker)
    assert stage.machines(row.id) == []
    assert stage.events(kind="vm.orphan") == ["vm.orphan"]


def test_vm_with_our_mark_that_no_row_knows_is_left_alone_and_told_once(stage: Stage) -> None:
    row = stage.create("web")
    machine = stage.machines(row.id)[0]
    with stage.worlds["campus"].transaction() as state:
        state.remove(machine)
        machine.vm_id, machine.leases = "vm-ffffffffffffffff0", []
        state.add(machine)
    reconcile(stage.broker)
    reconcile(stage.broker)
    assert len(stage.machines("vm-ffffffffffffffff0")) == 1
    assert stage.events(kind="vm.unknown") == ["vm.unknown"]


def test_strangers_vm_is_left_alone_told_once_and_its_size_counts(stage: Stage) -> None:
    from broker import host

    stage.worlds["campus"].add_stranger("sim-01", name="theirs", vcpus=15)
    reconcile(stage.broker)
    reconcile(stage.broker)
    assert len([found for found in stage.worlds["campus"].live_vms() if found.name == "theirs"]) == 1
    assert stage.events(kind="host.stranger") == ["host.stranger"]
    assert host.get(stage.broker, stage.reader, "sim-01").vcpus_free == 1
    assert stage.there(stage.create("web", rank='name == "sim-01" ? 1 : 0').host).name == "sim-02"


def test_host_that_does_not_answer_is_marked_and_nothing_is_concluded(stage: Stage) -> None:
    row = stage.create("web")
    world = stage.worlds["campus"]
    world.set_unreachable(stage.there(row.host).name, "no route to host")
    reconcile(stage.broker)
    at = stage.host(stage.there(row.host).name)
    assert (at.state, at.status_reason) == ("unreachable", "no route to host")
    assert stage.vm(row.id).state == "running"
    assert stage.holdings(row.id)["claims"] == 1
    others = [stage.create(f"web-{number}") for number in range(3)]
    assert {stage.there(other.host).name for other in others} == {"sim-01", "sim-02"} - {
        stage.there(row.host).name
    }
    world.set_reachable(stage.there(row.host).name)
    reconcile(stage.broker)
    assert stage.host(stage.there(row.host).name).state == "up"
    assert stage.vm(row.id).state == "running"


def test_site_that_does_not_answer_is_marked_with_all_its_hosts(stage: Stage) -> None:
    row = stage.create("web")
    stage.worlds["campus"].fail("*", "Unreachable", "the switch is dead", times=-1)
    reconcile(stage.broker)
    assert stage.vm(row.id).state == "running"
    assert {stage.host(name).state for name in ("sim-01", "sim-02")} == {"unreachable"}
    assert stage.events(kind="site.unreachable") == ["site.unreachable"]
    waiting, task = stage.request("more")
    assert stage.drive(task, most_s=60).state == OperationState.RUNNING
    assert "unreachable" in stage.vm(waiting.id).status_reason
    stage.worlds["campus"].heal()
    reconcile(stage.broker)
    stage.finish(task)


def test_host_that_the_site_no_longer_lists_is_kept_while_it_holds_vms(stage: Stage) -> None:
    from broker.store import SiteRow

    row = stage.create("web", rank='name == "sim-02" ? 1 : 0')
    with stage.broker.store.transaction() as session:
        at = session.get_one(SiteRow, stage.sites["campus"])
        at.options = {**at.options, "hosts": 1}
    reconcile(stage.broker)
    assert stage.host("sim-02").state == "unreachable"
    assert stage.vm(row.id).host_id == row.host_id


def test_old_listing_convinces_nobody(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A VM that is missing from a listing is asked for by itself before anything is concluded."""
    from providers.port import Listing
    from providers.simulated import SimulatedProvider

    row = stage.create("web")
    monkeypatch.setattr(
        SimulatedProvider, "list_vms", lambda _self: Listing([], frozenset({"sim-01", "sim-02"}))
    )
    reconcile(stage.broker)
    assert stage.vm(row.id).state == "running"
    assert stage.task_of(row).kind == "vm.create"


def test_vm_with_an_operation_under_way_is_left_to_it(stage: Stage) -> None:
    row, task = stage.request("web")
    stage.drive(task, until=lambda: stage.operation(task.id).phase == "launch")
    reconcile(stage.broker)
    assert stage.events(kind="vm.mending") == []
    stage.finish(task)
    assert stage.vm(row.id).state == "running"


def test_site_that_hangs_does_not_delay_the_others(stage: Stage) -> None:
    stage.add_local(name="annex", part=2)
    here = stage.create("here", requirements='site == "campus"')
    there = stage.create("there", requirements='site == "annex"')
    for row in (here, there):
        stage.worlds[stage.there(row.site).name].power_off_vm(row.id)
    thaw = threading.Event()
    hangs(stage, "campus", thaw)
    at_work = threading.Thread(target=reconcile, args=(stage.broker,))
    at_work.start()
    try:
        until(lambda: stage.vm(there.id).state == "stopped")
        assert stage.vm(here.id).state == "running"
    finally:
        thaw.set()
        at_work.join(30)
    assert stage.vm(here.id).state == "stopped"


def test_launch_goes_elsewhere_while_a_site_hangs(stage: Stage) -> None:
    stage.add_local(name="annex", part=2)
    slow, slow_task = stage.request("slow", requirements='site == "campus"')
    stage.drive(slow_task, until=lambda: stage.operation(slow_task.id).phase == "launch")
    thaw = threading.Event()
    hangs(stage, "campus", thaw)
    at_work = threading.Thread(target=stage.step, args=(slow_task,))
    at_work.start()
    try:
        quick = stage.create("quick", requirements='site == "annex"')
        assert quick.state == "running"
        assert stage.vm(slow.id).state == "pending"
    finally:
        thaw.set()
        at_work.join(30)
    assert stage.vm(slow.id).state == "running"


def test_burst_launch_that_was_frozen_over_a_delete_finds_its_peer_gone_and_makes_nothing(
    hybrid: Stage,
) -> None:
    row, task = hybrid.request("web", requirements="elastic")
    hybrid.drive(task, until=lambda: hybrid.operation(task.id).phase == "launch")
    frozen = hybrid.another()
    sleeper = hybrid.driver_of(frozen)
    sleeper.claims.stop()

    def sleep(_operation: str, _phase: str, point: str) -> None:
        if point == "before":
            _, deletion = vm.delete(hybrid.broker, hybrid.member, row.id)
            hybrid.wait(20)
            hybrid.finish(deletion)

    frozen.trace = sleep
    assert sleeper.step(task.id) is None
    assert hybrid.machines(row.id) == []
    assert hybrid.nothing_left(row.id)


def test_machine_made_by_a_broker_that_was_frozen_over_a_delete_is_found_and_removed(hybrid: Stage) -> None:
    """The worst case: a driver sleeps right before its call, and wakes when the VM has been deleted."""
    row, task = hybrid.request("web", requirements="!elastic")
    hybrid.drive(task, until=lambda: hybrid.operation(task.id).phase == "launch")
    frozen = hybrid.another()
    sleeper = hybrid.driver_of(frozen)
    sleeper.claims.stop()

    def sleep(_operation: str, _phase: str, point: str) -> None:
        if point == "before":
            _, deletion = vm.delete(hybrid.broker, hybrid.member, row.id)
            hybrid.wait(20)
            hybrid.finish(deletion)

    frozen.trace = sleep
    assert sleeper.step(task.id) is None
    assert hybrid.vm(row.id).state == "terminated"
    assert len(hybrid.machines(row.id)) == 1
    reconcile(hybrid.broker)
    assert hybrid.nothing_left(row.id)


@pytest.fixture
def watched(hybrid: Stage) -> Stage:
    """Sites that tell what happens to two VMs; that they were made is heard."""
    broker, signals = hybrid.broker, hybrid.broker.signals
    broker.providers.watch()
    hybrid.create("home")
    hybrid.burst("away")
    for world in hybrid.worlds.values():
        seen = signals.count("news")
        while (
            signals.wait("news", seen, 0.1) == seen
        ):  # its watcher hears what happens after it began to listen
            world.announce("vm-of-nobody", "sim-01")
    while broker.providers.take_news():
        signals.wait("news", signals.count("news"), 0.2)
    return hybrid


def asks_for_a_pass(stage: Stage, what: Callable[[], object]) -> bool:
    """Whether what a site tells of something has all sites compared."""
    signals = stage.broker.signals
    heard, passes = signals.count("news"), signals.count("reconcile")
    what()
    assert signals.wait("news", heard, 10) > heard
    hear(stage.broker)
    return signals.count("reconcile") > passes


def test_news_of_a_vm_that_is_not_as_its_row_says_has_all_sites_compared(watched: Stage) -> None:
    home, away = watched.vm("home"), watched.vm("away")
    campus = watched.worlds["campus"]
    assert asks_for_a_pass(watched, lambda: campus.power_off_vm(home.id))
    assert asks_for_a_pass(watched, lambda: watched.worlds["cloud"].destroy_vm(away.id))


def test_site_that_tells_of_no_vm_in_particular_has_all_sites_compared(watched: Stage) -> None:
    passes = watched.broker.signals.count("reconcile")
    watched.worlds["campus"].set_unreachable("sim-01", "unplugged")
    assert watched.broker.signals.wait("reconcile", passes, 10) > passes


def test_news_of_a_second_machine_of_a_vm_has_all_sites_compared(watched: Stage) -> None:
    home = watched.vm("home")
    other = next(name for name in ("sim-01", "sim-02") if name != watched.there(home.host).name)
    assert asks_for_a_pass(watched, lambda: watched.worlds["campus"].double_vm(home.id, other))


def test_news_that_says_what_the_row_says_costs_one_look_at_the_vm(watched: Stage) -> None:
    home, campus = watched.vm("home"), watched.worlds["campus"]
    provider = require(watched.broker.providers.of(watched.there(home.site)), Capability.REBOOT)
    listed, looked = campus.calls("inventory"), campus.calls("observe_vm")
    assert not asks_for_a_pass(
        watched, lambda: provider.reboot_vm(watched.there(home.host).name, watched.there(home.provider_ref))
    )
    assert (campus.calls("inventory"), campus.calls("observe_vm")) == (listed, looked + 1)


def test_news_of_a_vm_with_an_operation_under_way_only_wakes_that(watched: Stage) -> None:
    home, signals = watched.vm("home"), watched.broker.signals
    _, task = power.reboot(watched.broker, watched.member, "home")
    seen = signals.count(f"{home.id}.seen")
    assert not asks_for_a_pass(watched, lambda: watched.step(task))
    assert signals.count(f"{home.id}.seen") > seen


def hangs(stage: Stage, name: str, thaw: threading.Event) -> None:
    """From now on every call of this site waits for ``thaw``."""
    from providers.simulated import SimulatedProvider

    broker: Broker = stage.broker
    provider = broker.providers.of(next(row for row in sites_of(stage) if row.name == name))
    assert isinstance(provider, SimulatedProvider)
    plain = provider._call

    def call(*args: Any) -> AbstractContextManager[State]:
        assert thaw.wait(30)
        return plain(*args)

    setattr(provider, "_call", call)  # noqa: B010 - a method of this one alone


def sites_of(stage: Stage) -> Sequence[SiteRow]:
    from broker import site

    return site.list_sites(stage.broker, stage.admin)


def until(holds: Callable[[], object], most_s: float = 20.0) -> None:
    deadline = time.monotonic() + most_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def test_nothing_is_under_way_after_a_quiet_round(stage: Stage) -> None:
    stage.create("web")
    reconcile(stage.broker)
    with stage.broker.store.reading() as session:
        assert session.query(OperationRow).filter_by(state="running").count() == 0


def networks_on(stage: Stage, name: str = "campus") -> set[str]:
    with stage.worlds[name].transaction() as state:
        return {network for _, network in state.networks}


def test_subnet_that_was_removed_is_taken_from_the_hosts(stage: Stage) -> None:
    row = stage.create("web")
    assert networks_on(stage) == {row.nics[0].subnet_id}
    reconcile(stage.broker)
    assert networks_on(stage) == {row.nics[0].subnet_id}
    stage.finish(vm.delete(stage.broker, stage.member, row.id)[1])
    woken = stage.broker.signals.count("reconcile")
    network.remove_subnet(stage.broker, stage.admin, "net", "campus")
    assert stage.broker.signals.count("reconcile") > woken
    reconcile(stage.broker)
    assert networks_on(stage) == set()


def test_subnet_stays_on_a_host_that_is_away_or_has_a_machine_on_it_until_it_can_go(stage: Stage) -> None:
    world = stage.worlds["campus"]
    reconcile(stage.broker)
    provider = stage.broker.providers.of(site.get(stage.broker, stage.admin, "campus"))
    hosts = sorted(report.name for report in provider.inventory())[:2]
    for name in hosts:
        provider.ensure_network(name, port.NetworkSpec("sub-gone", "gone", "nat", "10.9.0.0/24", "10.9.0.1"))
    reconcile(stage.broker)
    assert networks_on(stage) == {"sub-gone"}, "nobody removed one: it is not looked for again"
    world.set_unreachable(hosts[0], "power failure")
    stage.broker.signals.set("subnets")
    reconcile(stage.broker)
    with world.transaction() as state:
        assert set(state.networks) == {(hosts[0], "sub-gone")}
    world.set_reachable(hosts[0])
    reconcile(stage.broker)
    assert networks_on(stage) == set()


def test_subnets_of_a_site_that_cannot_tell_them_are_left_alone(stage: Stage) -> None:
    stage.add_site("quiet", without=["subnets"])
    stage.broker.signals.set("subnets")
    reconcile(stage.broker)
    quiet = site.get(stage.broker, stage.admin, "quiet")
    assert quiet.state == "up"
