"""The matchmaker: nothing is given away twice, whoever asks at once, and who waits is told why."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from broker import claim, launch, operation, policy, pool, power, project, queue, site, vm, why
from broker.actor import SYSTEM
from broker.broker import Broker
from broker.errors import BrokerError
from broker.states import OperationState
from broker.store import AddressRow, HostRow, OperationRow, ProjectRow, VMRow
from placement.request import Decision

if TYPE_CHECKING:
    from tests.broker.conftest import Stage

LIVE = VMRow.state != "terminated"


def check_invariants(stage: Stage) -> None:
    """What must hold at every moment, whatever happens."""
    with stage.broker.store.reading() as session:
        assert claim.differences(session) == {}, "what is held is not what VMs hold"
        for host in session.scalars(select(HostRow).where(HostRow.elastic.is_(False))):
            vcpus, mem = session.execute(
                select(
                    func.coalesce(func.sum(VMRow.vcpus), 0), func.coalesce(func.sum(VMRow.mem_mb), 0)
                ).where(VMRow.host_id == host.id, LIVE)
            ).one()
            assert vcpus <= host.vcpus_total, f"{host.name} is over-committed"
            assert mem <= host.mem_total_mb, f"{host.name} is over-committed"
        leases = session.execute(select(AddressRow.subnet_id, AddressRow.address)).all()
        assert len(set(leases)) == len(leases), "an address is leased twice"
        for row in session.scalars(select(VMRow).where(LIVE, VMRow.host_id.is_not(None))):
            assert row.nics, f"{row.name} has a host and no NIC"
            assert all(nic.addresses for nic in row.nics), f"{row.name} has a host and no address"
        for row in session.scalars(select(VMRow).where(VMRow.host_id.is_(None))):
            assert not any(nic.addresses for nic in row.nics), f"{row.name} has an address and no host"
        for owner in session.scalars(select(ProjectRow).where(ProjectRow.quota_vms.is_not(None))):
            used = session.scalars(
                select(func.count()).select_from(VMRow).where(VMRow.project_id == owner.id, LIVE)
            ).one()
            assert used <= stage.there(owner.quota_vms), f"{owner.name} is over its quota"
    for world in stage.worlds.values():
        marks = [machine.vm_id for machine in world.live_vms() if machine.vm_id]
        assert len(set(marks)) == len(marks), "a VM exists twice"


Answer = TypeVar("Answer")


def together(*works: Callable[[], Answer]) -> list[Answer]:
    """Run at once, in threads; the results in order."""
    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result(60) for future in [pool.submit(work) for work in works]]


def meet_before(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, parties: int = 2, timeout: float = 1.0
) -> None:
    """Let ``parties`` callers arrive before any of them runs the function; they do not wait for ever."""
    barrier = threading.Barrier(parties)
    plain = getattr(module, name)

    def meet(*args: object, **kwargs: object) -> object:
        with contextlib.suppress(threading.BrokenBarrierError):
            barrier.wait(timeout)
        return plain(*args, **kwargs)

    monkeypatch.setattr(module, name, meet)


def test_two_matchmakers_with_the_same_snapshot_never_give_the_same_room_away(
    bare_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare_stage.catalogue()
    bare_stage.add_local(hosts=3, cpus=8)
    # Each knows of other VMs than the other one, so that only the hosts' generations can tell.
    for number in range(12):
        bare_stage.request(f"web-{number}", flavor_ref="small" if number % 2 else "large")
    brokers = [bare_stage.broker, bare_stage.another()]
    plain = queue._claim
    barrier = threading.Barrier(2)
    turns = {id(broker): number for number, broker in enumerate(brokers)}
    met = set()

    def claim(
        broker: Broker, seen: pool.Snapshot, decisions: Sequence[Decision]
    ) -> tuple[list[OperationRow], set[str]]:
        number = turns[id(broker)]
        if number not in met:
            met.add(number)
            barrier.wait(20)
            decisions = [
                decision
                if (index // 2) % 2 == number
                else type(decision)(**{**vars_of(decision), "host": None})
                for index, decision in enumerate(decisions)
            ]
        return plain(broker, seen, decisions)

    monkeypatch.setattr(queue, "_claim", claim)
    together(*(lambda broker=broker: queue.place_pending(broker) for broker in brokers))
    check_invariants(bare_stage)
    with bare_stage.broker.store.reading() as session:
        placed = session.scalars(select(VMRow.id).where(VMRow.host_id.is_not(None))).all()
    assert len(placed) >= 3


def vars_of(decision: Decision) -> dict[str, Any]:
    from dataclasses import fields

    return {field.name: getattr(decision, field.name) for field in fields(decision)}


@pytest.mark.parametrize("attempt", range(3))
def test_matchmakers_at_once_place_everybody_and_over_commit_nobody(
    bare_stage: Stage, monkeypatch: pytest.MonkeyPatch, attempt: int
) -> None:
    bare_stage.catalogue()
    bare_stage.add_local(hosts=4, cpus=8)
    tasks = [bare_stage.request(f"web-{number}")[1] for number in range(14)]
    brokers = [bare_stage.broker, bare_stage.another(), bare_stage.another()]
    meet_before(monkeypatch, queue, "_claim", parties=len(brokers), timeout=0.5)
    together(*(lambda broker=broker: queue.place_pending(broker) for broker in brokers))
    check_invariants(bare_stage)
    for task in tasks:
        bare_stage.finish(task)
    check_invariants(bare_stage)


def test_two_sites_of_one_network_are_claimed_from_both_ends_without_a_deadlock(
    bare_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each matchmaker takes first what the other one takes last."""
    bare_stage.catalogue()
    bare_stage.add_local(hosts=4, cpus=8)
    tasks = [
        bare_stage.request(f"web-{number}", rank=f'name == "sim-0{number % 4 + 1}" ? 1 : 0')[1]
        for number in range(8)
    ]
    brokers = [bare_stage.broker, bare_stage.another()]
    plain = queue._claim
    barrier = threading.Barrier(2)
    met = set()

    def claim(
        broker: Broker, seen: pool.Snapshot, decisions: Sequence[Decision]
    ) -> tuple[list[OperationRow], set[str]]:
        if id(broker) not in met:
            met.add(id(broker))
            barrier.wait(20)
            if broker is not brokers[0]:
                seen.waiting.reverse()
                decisions = list(reversed(decisions))
        return plain(broker, seen, decisions)

    monkeypatch.setattr(queue, "_claim", claim)
    together(*(lambda broker=broker: queue.place_pending(broker) for broker in brokers))
    check_invariants(bare_stage)
    for task in tasks:
        bare_stage.finish(task)


def test_quota_holds_for_callers_at_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    small = project.create(stage.broker, SYSTEM, name="small", quota={"vms": 1})
    actor = type(stage.member)(small.id, "member", "sam")
    meet_before(monkeypatch, project, "check_quota")
    other = stage.another()

    def ask(broker: Broker, name: str) -> str:
        try:
            launch.create(broker, actor, name=name, image_ref="tiny", flavor_ref="small")
            return "made"
        except BrokerError as error:
            return error.code

    said = together(lambda: ask(stage.broker, "one"), lambda: ask(other, "two"))
    assert sorted(said) == ["made", "quota_exceeded"]
    check_invariants(stage)


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("create"), st.sampled_from(["small", "large"]), st.integers(1, 3)),
        st.tuples(st.just("delete"), st.integers(0, 9)),
        st.tuples(st.just("stop"), st.integers(0, 9)),
        st.tuples(st.just("start"), st.integers(0, 9)),
        st.tuples(st.just("step"), st.integers(0, 1), st.integers(0, 9)),
        st.tuples(st.just("step"), st.integers(0, 1), st.integers(0, 9)),
        st.tuples(st.just("run"), st.integers(0, 1)),
        st.tuples(st.just("wait"), st.sampled_from([1, 16, 130, 200])),
        st.tuples(
            st.just("fail"),
            st.sampled_from(["ensure_vm", "ensure_image", "delete_vm", "observe_vm"]),
            st.sampled_from(["Unreachable", "OutOfCapacity", "InvalidSpec"]),
        ),
        st.tuples(st.just("destroy"), st.integers(0, 9)),
        st.tuples(st.just("host"), st.sampled_from(["sim-01", "sim-02"]), st.booleans()),
        st.tuples(st.just("reconcile")),
    ),
    min_size=5,
    max_size=40,
)


@pytest.fixture
def new_stage(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    sqlite_template: Path,
    database: str,
) -> Iterator[Callable[[type[Stage]], Stage]]:
    """Makes a stage per example, and closes the one before it."""
    import shutil

    stages: list[Stage] = []

    def make(of: type[Stage]) -> Stage:
        while stages:
            stages.pop().close()
        folder = tmp_path_factory.mktemp("example")
        if database == "sqlite":
            shutil.copyfile(sqlite_template, folder / "isthmus.sqlite3")
            url = f"sqlite:///{folder / 'isthmus.sqlite3'}"
        else:
            url = request.getfixturevalue("postgresql").database(template="template_isthmus")
        stages.append(of(folder, url))
        return stages[-1]

    yield make
    for stage in stages:
        stage.close()


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(actions=ACTIONS)
def test_no_history_gives_room_or_an_address_away_twice(
    new_stage: Callable[[type[Stage]], Stage], stage_class: type[Stage], actions: list[tuple[Any, ...]]
) -> None:
    stage = new_stage(stage_class)
    stage.catalogue()
    stage.add_local(cpus=12)
    stage.driver_of(stage.another())
    with stage.broker.store.transaction() as session:
        session.get_one(ProjectRow, stage.owner.id).quota_vms = 6
    names = iter(range(10_000))
    for action in actions:
        act(stage, action, names)
        check_invariants(stage)
    stage.worlds["campus"].heal()
    stage.worlds["campus"].set_reachable()
    stage.wait(200)
    act(stage, ("reconcile",), names)
    for row in vm.list_vms(stage.broker, stage.admin):
        stage.finish(vm.delete(stage.broker, stage.admin, row.id)[1])
    act(stage, ("reconcile",), names)
    check_invariants(stage)
    assert [machine for machine in stage.worlds["campus"].live_vms() if machine.vm_id] == []


def act(stage: Stage, action: tuple[Any, ...], names: Iterator[int]) -> None:
    from broker.reconcile import reconcile

    kind, *rest = action
    rows = vm.list_vms(stage.broker, stage.admin)
    row = rows[rest[0] % len(rows)] if rows and rest and isinstance(rest[0], int) else None
    try:
        match kind:
            case "create":
                launch.create_many(
                    stage.broker,
                    stage.member,
                    count=rest[1],
                    name=f"vm-{next(names)}",
                    image_ref="tiny",
                    flavor_ref=rest[0],
                )
            case "delete" | "stop" | "start" if row is not None:
                getattr(vm if kind == "delete" else power, kind)(stage.broker, stage.member, row.id)
            case "step" | "run":
                live = [
                    task.id for task in operation.list_operations(stage.broker, stage.admin, state="running")
                ]
                chosen = live if kind == "run" else live[rest[1] % len(live) :][:1] if live else []
                queue.place_pending(stage._made[rest[0]])
                for task in chosen:
                    stage._drivers[rest[0]].step(task, most=20)
            case "wait":
                stage.wait(rest[0])
                stage.broker.signals.set("place")
            case "fail":
                stage.worlds["campus"].fail(rest[0], rest[1])
            case "destroy" if row is not None:
                stage.worlds["campus"].destroy_vm(row.id)
            case "host":
                world = stage.worlds["campus"]
                (world.set_reachable if rest[1] else world.set_unreachable)(rest[0])
            case "reconcile":
                reconcile(stage.broker)
    except BrokerError:
        pass  # a refusal is a good answer here


def test_vm_without_a_host_waits_with_its_reason_until_one_frees_up(bare_stage: Stage) -> None:
    bare_stage.catalogue()
    bare_stage.add_local(hosts=1, cpus=8)
    first = bare_stage.create("first", flavor_ref="large")
    row, task = bare_stage.request("second", flavor_ref="large")
    assert bare_stage.drive(task, most_s=600).state == OperationState.RUNNING
    row = bare_stage.vm(row.id)
    assert (row.state, row.host) == ("pending", None)
    assert "cpu" in row.status_reason.lower()
    assert bare_stage.nothing_left(row.id)
    bare_stage.finish(vm.delete(bare_stage.broker, bare_stage.member, first.id)[1])
    bare_stage.finish(task)
    assert bare_stage.vm(row.id).state == "running"


def test_requirement_that_no_host_meets_is_the_reason(stage: Stage) -> None:
    row, task = stage.request("web", requirements='gpu_model == "H100"')
    stage.drive(task, most_s=60)
    assert "gpu_model" in stage.vm(row.id).status_reason
    view = why.why(stage.broker, stage.member, "web")
    assert view.host is None
    assert "gpu_model" in view.summary


def test_oldest_request_is_placed_first(bare_stage: Stage) -> None:
    bare_stage.catalogue()
    bare_stage.add_local(hosts=1, cpus=8)
    bare_stage.create("here", flavor_ref="large")
    tasks = []
    for number in range(3):
        bare_stage.wait(1)
        tasks.append(bare_stage.request(f"wait-{number}", flavor_ref="large")[1])
    bare_stage.finish(vm.delete(bare_stage.broker, bare_stage.member, "here")[1])
    for task in tasks:
        bare_stage.finish(task)
        bare_stage.finish(vm.delete(bare_stage.broker, bare_stage.member, task.target)[1])
    times = [bare_stage.there(bare_stage.operation(task.id).ended_at) for task in tasks]
    assert all(earlier <= later for earlier, later in pairwise(times))


def test_host_in_maintenance_takes_no_new_vm(stage: Stage) -> None:
    from broker import host

    host.set_maintenance(stage.broker, stage.admin, "campus/sim-01", True)
    assert {stage.there(stage.create(f"web-{number}").host).name for number in range(3)} == {"sim-02"}
    host.set_maintenance(stage.broker, stage.admin, "campus/sim-01", False)
    assert stage.there(stage.create("last", rank='name == "sim-01" ? 1 : 0').host).name == "sim-01"


def test_why_names_the_host_the_rank_and_the_runner_up(stage: Stage) -> None:
    stage.create("web", rank='name == "sim-02" ? 2 : 1')
    view = why.why(stage.broker, stage.member, "web")
    assert (view.host, view.rank) == ("campus/sim-02", 2.0)
    assert (view.runner_up, view.runner_up_rank) == ("sim-01", 1.0)


def test_limits_of_the_policy_hold_within_one_round_and_over_rounds(stage: Stage, policy_open: str) -> None:
    stage.add_cloud(policy_text=policy_open + "  limits: {vms: 3, vcpus: 5}\n")
    tasks = [stage.request(f"web-{number}", requirements="elastic")[1] for number in range(4)]
    for _ in range(2):
        stage.broker.signals.set("place")
        queue.place_pending(stage.broker)
    elastic = [row for row in vm.list_vms(stage.broker, stage.admin) if row.elastic]
    assert len(elastic) == 2
    stage.drive(tasks[3], most_s=30)
    assert "burst.limits.vcpus" in stage.vm(tasks[3].target).status_reason


def test_image_that_is_not_mapped_keeps_a_vm_out_of_the_cloud(hybrid: Stage) -> None:
    from broker import image

    image.map_sites(hybrid.broker, hybrid.admin, "tiny", {})
    row, task = hybrid.request("web", requirements="elastic")
    hybrid.drive(task, most_s=30)
    assert "not mapped" in hybrid.vm(row.id).status_reason
    image.map_sites(hybrid.broker, hybrid.admin, "tiny", {"cloud": "ami-1"})
    hybrid.finish(task)


def test_gateway_that_was_not_seen_for_long_keeps_vms_out_of_the_cloud(hybrid: Stage) -> None:
    hybrid.agents[0].awake = False
    hybrid.wait(300)
    row, task = hybrid.request("web", requirements="elastic")
    hybrid.drive(task, most_s=30)
    assert "the agent of gateway gate does not answer" in hybrid.vm(row.id).status_reason
    hybrid.agents[0].awake = True
    hybrid.finish(task)


def test_site_with_a_full_subnet_takes_no_vm(bare_stage: Stage) -> None:
    from broker import network

    bare_stage.catalogue()
    bare_stage.add_site("campus", hosts=1)
    network.add_subnet(bare_stage.broker, bare_stage.admin, "net", site_ref="campus", cidr="10.20.1.0/30")
    bare_stage.create("only")
    row, task = bare_stage.request("more")
    bare_stage.drive(task, most_s=30)
    assert "10.20.1.0/30 is full" in bare_stage.vm(row.id).status_reason
    assert site.host_counts(bare_stage.broker, bare_stage.reader) == {bare_stage.sites["campus"]: 1}


def test_default_requirement_of_the_policy_is_anded_to_the_vms_own(stage: Stage) -> None:
    text = "version: 1\nplacement: {requirements: 'name == \"sim-02\"', rank: '1'}\n"
    policy.apply(stage.broker, stage.admin, text)
    assert stage.there(stage.create("web", rank='name == "sim-01" ? 9 : 0').host).name == "sim-02"
    row, task = stage.request("never", requirements='name == "sim-01" || name == "sim-03"')
    stage.drive(task, most_s=30)
    assert stage.vm(row.id).host is None


def test_long_queue_is_decided_on_in_parts_and_the_last_is_placed_too(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "MOST_WAITING", 3)
    for number in range(8):
        stage.request(f"never-{number}", requirements="cpu_total > 1000")
    row, _ = stage.request("web")
    for _ in range(6):
        queue.place_pending(stage.broker)
    assert stage.vm(row.id).host is not None


def test_vm_of_a_higher_priority_stands_further_ahead_in_a_long_queue(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "MOST_WAITING", 3)
    stage.add_local(hosts=1, name="small", part=9, cpus=2)
    for number in range(8):
        stage.request(f"low-{number}", requirements='site == "small"')
    high, _ = stage.request("high", requirements='site == "small"', wishes=launch.Wishes(priority=5))
    for _ in range(6):
        queue.place_pending(stage.broker)
    assert stage.vm(high.id).host is not None


def test_queue_that_was_looked_at_in_vain_is_left_alone_until_something_changes(stage: Stage) -> None:
    from broker import host

    stage.broker.store.changes.whole = True
    row, _ = stage.request("big", requirements="rack == 'r7'")
    queue.place_pending(stage.broker)
    queue.place_pending(stage.broker)
    mine = stage.broker.part(queue.Matchmaker)
    assert mine.settled is not None
    stage.wait(queue._SAME_ROUND_S + 1)
    rounds_before = mine.rests_until
    queue.place_pending(stage.broker)
    assert mine.rests_until == rounds_before, "a round ran"
    with stage.broker.store.transaction() as session:
        at = host.find(session, "sim-02")
        at.attributes = {**at.attributes, "rack": "r7"}
    queue.place_pending(stage.broker)
    assert stage.there(stage.vm(row.id).host).name == "sim-02"
