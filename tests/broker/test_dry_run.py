"""A dry run checks what the real thing checks, and leaves nothing behind; what it says of a new VM comes true."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
import structlog.testing
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from broker import (
    dry_run,
    engine_port,
    event,
    flavor,
    host,
    keypair,
    launch,
    migration,
    policy,
    power,
    project,
    queue,
    reservation,
    vm,
)
from broker.actor import Actor
from broker.broker import Broker
from broker.engine.registry import OPERATIONS
from broker.errors import BrokerError
from broker.forecast import forecast
from broker.launch import Wishes
from broker.migration import PlanView
from broker.queue import MOST_WAITING
from broker.size import Size
from broker.store import MetaRow, OperationRow, Row, VMRow
from placement.rebalance import Goal

if TYPE_CHECKING:
    from tests.broker.conftest import Stage

Begin = Callable[[], tuple[VMRow, OperationRow]]
"""A request that is ready to be made."""
Act = Callable[[Broker, Actor, str], tuple[VMRow, OperationRow]]
"""What begins an operation on a VM."""

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDMmqOD3D8j3yqXBEVAhcYSg4+sZaMS8uQd+pZ0Q0F0g me@example"


def contents(stage: Stage) -> dict[str, list[str]]:
    """Every row of every table, and what the database would number the next ones with."""
    found: dict[str, list[str]] = {}
    with stage.broker.store.engine.connect() as connection:
        for table in Row.metadata.sorted_tables:
            rows = connection.execute(text(f'SELECT * FROM "{table.name}"'))  # noqa: S608 - names of ours
            found[table.name] = sorted(map(repr, rows))
        if not stage.broker.store.is_sqlite:
            sequences = connection.execute(
                text("SELECT sequencename, last_value FROM pg_sequences ORDER BY 1")
            )
            found["sequences"] = list(map(repr, sequences))
        connection.rollback()
    return found


def calls(stage: Stage) -> dict[str, int]:
    return {name: world.calls() for name, world in stage.worlds.items()}


def traces(stage: Stage) -> tuple[dict[str, list[str]], dict[str, int], list[Path], int, int]:
    """All that somebody could see of a request, or be woken by."""
    broker = stage.broker
    files = sorted(path.relative_to(stage.folder) for path in stage.folder.rglob("*") if path.is_file())
    files = [path for path in files if not path.name.startswith("isthmus.sqlite3")]
    return contents(stage), calls(stage), files, broker.signals._last, broker.store.changes.version


class Engine:
    """Remembers what it was given to drive."""

    def __init__(self) -> None:
        self.given: list[str] = []

    def submit(self, operation_id: str, site_id: str | None = None) -> None:
        self.given.append(operation_id)


# -- each kind of operation -----------------------------------------------------------------------------------------


def create(stage: Stage) -> Begin:
    asked: dict[str, Any] = {
        "name": "new",
        "image_ref": "tiny",
        "flavor_ref": "small",
        "labels": {"tier": "front"},
    }
    asked |= {"user_data": "#!/bin/sh\n", "token": "t-1", "wishes": Wishes(site="campus")}
    return partial(launch.create, stage.broker, stage.member, **asked)


def start(stage: Stage) -> Begin:
    row = stage.create("web")
    stage.finish(power.stop(stage.broker, stage.member, row.id)[1])
    return partial(power.start, stage.broker, stage.member, "web")


def stop(stage: Stage) -> Begin:
    stage.create("web")
    return partial(power.stop, stage.broker, stage.member, "web", force=True)


def reboot(stage: Stage) -> Begin:
    stage.create("web")
    return partial(power.reboot, stage.broker, stage.member, "web")


def suspend(stage: Stage) -> Begin:
    stage.create("web")
    return partial(power.suspend, stage.broker, stage.member, "web")


def resume(stage: Stage) -> Begin:
    stage.finish(power.suspend(stage.broker, stage.member, stage.create("web").id)[1])
    return partial(power.start, stage.broker, stage.member, "web")


def reserve(stage: Stage) -> None:
    end = stage.broker.clock.now() + timedelta(days=1)
    wanted: dict[str, Any] = {"flavor_ref": "small", "count": 1, "start_at": None, "end_at": end}
    reservation.create(stage.broker, stage.member, name="exam", **wanted)


def migrate(stage: Stage) -> Begin:
    reserve(stage)
    stage.create("web", wishes=Wishes(reservation="exam"))
    return partial(migration.migrate, stage.broker, stage.admin, "web")


def delete(stage: Stage) -> Begin:
    stage.request("web", requirements="cpu_total > 99")
    return partial(vm.delete, stage.broker, stage.member, "web")


SCENES: dict[str, Callable[[Stage], Begin]] = {
    "vm.create": create,
    "vm.start": start,
    "vm.stop": stop,
    "vm.reboot": reboot,
    "vm.suspend": suspend,
    "vm.resume": resume,
    "vm.migrate": migrate,
    "vm.delete": delete,
}
"""Kind -> what makes everything ready, and gives what begins it."""
BY_THE_BROKER = {"vm.preempt", "vm.return", "vm.relaunch"}
"""Begun by nobody's request."""


def test_every_kind_of_operation_has_a_scene_or_is_begun_by_no_request() -> None:
    assert SCENES.keys() | BY_THE_BROKER == OPERATIONS.keys()


@pytest.mark.parametrize("kind", SCENES)
def test_dry_run_of_an_operation_leaves_everything_as_it_was_and_the_real_one_does_what_it_said(
    stage: Stage, kind: str
) -> None:
    begin = SCENES[kind](stage)
    engine = Engine()
    stage.broker.engine = cast(engine_port.Engine, engine)
    before = traces(stage)
    with structlog.testing.capture_logs() as logged:
        said = forecast(stage.broker, begin)
    assert traces(stage) == before
    assert (engine.given, logged) == ([], [])
    assert (said.task.kind, said.begins, said.creates) == (kind, True, kind == "vm.create")
    assert said.vm.name in said.message

    row, task = begin()
    assert (task.kind, task.phase) == (kind, said.task.phase)
    known = {"vm", "target", "id"}
    assert {k: v for k, v in task.params.items() if k not in known} == {
        k: v for k, v in said.task.params.items() if k not in known
    }
    for name in ("name", "state", "status_reason", "desired", "flavor", "vcpus", "labels", "target_host_id"):
        assert getattr(row, name) == getattr(said.vm, name), name
    assert [nic.network_name for nic in row.nics] == [nic.network_name for nic in said.vm.nics]
    # A second one finds it begun, and says so.
    if kind in ("vm.create", "vm.delete", "vm.stop", "vm.migrate"):
        before = traces(stage)
        again = forecast(stage.broker, begin)
        assert (again.begins, again.task.id) == (False, task.id)
        assert "nothing would begin" in again.message
        assert traces(stage) == before
    assert contents(stage) != {}
    if kind != "vm.create":
        stage.finish(task)


@pytest.mark.parametrize("goal", ["drain", "pack", "balance"])
def test_dry_run_of_a_plan_names_the_moves_that_would_be_begun(stage: Stage, goal: Goal) -> None:
    for number, at in enumerate(("sim-01", "sim-01", "sim-01", "sim-02")):
        stage.create(f"vm-{number}", rank=f'name == "{at}"')
    begin = partial(migration.drain, stage.broker, stage.admin, "sim-02")
    if goal != "drain":
        limits = migration.Limits(rest_s=0)
        begin = partial(migration.rebalance, stage.broker, stage.admin, goal=goal, limits=limits, apply=True)
    before = traces(stage)
    with dry_run.nothing_stays():
        said = begin()
    assert traces(stage) == before
    done = begin()
    moves = [(move.vm, move.source, move.target) for move in done.moves]
    assert moves
    assert moves == [(move.vm, move.source, move.target) for move in said.moves]
    assert done.stuck == said.stuck


# -- refusals -------------------------------------------------------------------------------------------------------


def asked(stage: Stage, actor: Actor | None = None, **wanted: Any) -> Begin:
    known: dict[str, Any] = {"name": "new", "image_ref": "tiny", "flavor_ref": "small"}
    return partial(launch.create, stage.broker, actor or stage.member, **(known | wanted))


def taken(stage: Stage) -> Begin:
    stage.request("new")
    return asked(stage)


def no_quota(stage: Stage) -> Begin:
    row = project.create(stage.broker, stage.admin, name="tight", quota={"vcpus": 1})
    return asked(stage, type(stage.member)(row.id, "member", "tina"))


def other_request(stage: Stage) -> Begin:
    asked(stage, token="t")()
    return asked(stage, name="other", token="t")


def under_way(stage: Stage) -> Begin:
    row = stage.create("web")
    power.stop(stage.broker, stage.member, row.id)
    return partial(power.reboot, stage.broker, stage.member, "web")


def stopped(stage: Stage, act: Act = power.reboot, actor: Actor | None = None) -> Begin:
    row = stage.create("web")
    stage.finish(power.stop(stage.broker, stage.member, row.id)[1])
    return partial(act, stage.broker, actor or stage.member, "web")


def nowhere_else(stage: Stage) -> Begin:
    stage.create("web", requirements='name == "sim-01"')
    return partial(migration.migrate, stage.broker, stage.admin, "web")


def to_maintenance(stage: Stage) -> Begin:
    stage.create("web", requirements='name == "sim-01" || name == "sim-02"', rank='name == "sim-01"')
    host.set_maintenance(stage.broker, stage.admin, "sim-02", True)
    return partial(migration.migrate, stage.broker, stage.admin, "web", host_ref="sim-02")


def of_a_cloud(stage: Stage) -> Callable[[], PlanView]:
    stage.add_cloud()
    return partial(migration.drain, stage.broker, stage.admin, "z1/t.small")


def cannot_suspend(stage: Stage) -> Begin:
    stage.add_local(name="plain", part=2, without=["suspend"])
    stage.create("web", wishes=Wishes(site="plain"))
    return partial(power.suspend, stage.broker, stage.member, "web")


def many_labels(stage: Stage) -> Begin:
    return asked(stage, labels={str(number): "" for number in range(51)})


def unknown_key_pair(stage: Stage) -> Begin:
    keypair.create(stage.broker, stage.outsider, name="me", public_key=KEY)
    return asked(stage, key_pair="me")


def late(stage: Stage) -> Begin:
    wishes = Wishes(runtime_s=60, deadline=stage.broker.clock.now())
    return asked(stage, wishes=wishes)


def somebody_elses(stage: Stage, act: Act) -> Begin:
    stage.create("web")
    return partial(act, stage.broker, stage.outsider, "web")


REFUSALS: dict[str, Callable[[Stage], Callable[[], object]]] = {
    "a name that is taken": taken,
    "a quota that is used up": no_quota,
    "a token of another request": other_request,
    "an unknown flavor": lambda stage: asked(stage, flavor_ref="huge"),
    "an unknown image": lambda stage: asked(stage, image_ref="none"),
    "an unknown network": lambda stage: asked(stage, networks=["none"]),
    "an unknown site": lambda stage: asked(stage, wishes=Wishes(site="none")),
    "an unknown reservation": lambda stage: asked(stage, wishes=Wishes(reservation="none")),
    "a key pair of another project": unknown_key_pair,
    "an address of no subnet": lambda stage: asked(stage, address="192.0.2.1"),
    "a requirement that is none": lambda stage: asked(stage, requirements="cpu_free >> 1"),
    "too many labels": many_labels,
    "too much user data": lambda stage: asked(stage, user_data="x" * 20000),
    "a deadline that cannot be met": late,
    "a reader": lambda stage: asked(stage, stage.reader),
    "a reader who stops": lambda stage: partial(power.stop, stage.broker, stage.reader, "web"),
    "a member who migrates": lambda stage: partial(migration.migrate, stage.broker, stage.member, "web"),
    "a member who drains": lambda stage: partial(migration.drain, stage.broker, stage.member, "sim-01"),
    "an unknown VM": lambda stage: partial(power.start, stage.broker, stage.member, "none"),
    "an unknown VM to delete": lambda stage: partial(vm.delete, stage.broker, stage.member, "none"),
    "an unknown host": lambda stage: partial(migration.drain, stage.broker, stage.admin, "none"),
    "somebody else's VM": lambda stage: somebody_elses(stage, power.stop),
    "somebody else's VM to delete": lambda stage: somebody_elses(stage, vm.delete),
    "another operation under way": under_way,
    "a reboot of what is stopped": stopped,
    "a suspension of what is stopped": lambda stage: stopped(stage, power.suspend),
    "a resumption of what is stopped": lambda stage: stopped(stage, power.resume),
    "a migration of what is stopped": lambda stage: stopped(stage, migration.migrate, stage.admin),
    "no other host": nowhere_else,
    "a host in maintenance": to_maintenance,
    "a cloud's host": of_a_cloud,
    "a site that does not suspend": cannot_suspend,
}


@pytest.mark.parametrize("scene", REFUSALS)
def test_dry_run_is_refused_as_the_real_one_is(stage: Stage, scene: str) -> None:
    begin = REFUSALS[scene](stage)
    before = traces(stage)
    with pytest.raises(BrokerError) as said, dry_run.nothing_stays():
        begin()
    assert traces(stage) == before
    with pytest.raises(BrokerError) as real:
        begin()
    assert type(said.value) is type(real.value)
    for name in ("code", "message", "hint", "details"):
        assert getattr(said.value, name) == getattr(real.value, name), name


# -- what is said of a new VM ---------------------------------------------------------------------------------------


def plain(stage: Stage) -> dict[str, Any]:
    return {}


def of_a_rank(stage: Stage) -> dict[str, Any]:
    return {"rank": 'name == "sim-02" ? 2.5 : 1'}


def apart(stage: Stage) -> dict[str, Any]:
    rule = {"kind": "anti-affinity", "group": "g"}
    stage.create("first", rank='name == "sim-02"', wishes=Wishes(affinity=(rule,)))
    return {"rank": 'name == "sim-02"', "wishes": Wishes(affinity=(rule,))}


def after_others(stage: Stage) -> dict[str, Any]:
    """One who waits before it takes the host that it would like best."""
    flavor.create(stage.broker, stage.admin, name="whole", size=Size(vcpus=16, mem_mb=1024, disk_gb=10))
    stage.request("first", flavor_ref="whole", rank='name == "sim-02"')
    return {"rank": 'name == "sim-02"'}


def before_others(stage: Stage) -> dict[str, Any]:
    """One who waits behind it takes nothing from it."""
    flavor.create(stage.broker, stage.admin, name="whole", size=Size(vcpus=16, mem_mb=1024, disk_gb=10))
    stage.request("first", flavor_ref="whole", rank='name == "sim-02"')
    return {"rank": 'name == "sim-02"', "wishes": Wishes(priority=5)}


def into_the_cloud(stage: Stage) -> dict[str, Any]:
    stage.add_cloud()
    return {"requirements": "elastic", "rank": "-price_hour"}


def of_an_address(stage: Stage) -> dict[str, Any]:
    return {"address": "10.20.1.77"}


def in_its_reservation(stage: Stage) -> dict[str, Any]:
    reserve(stage)
    return {"wishes": Wishes(reservation="exam")}


@pytest.mark.parametrize(
    "scene",
    [
        plain,
        of_a_rank,
        apart,
        after_others,
        before_others,
        into_the_cloud,
        of_an_address,
        in_its_reservation,
    ],
)
def test_vm_goes_where_its_dry_run_said(stage: Stage, scene: Callable[[Stage], dict[str, Any]]) -> None:
    wanted = asked(stage, **scene(stage))
    said = forecast(stage.broker, wanted)
    assert said.place is not None, said.reason
    row, _ = wanted()
    queue.place_pending(stage.broker)
    placed = stage.vm(row.id)
    at_site, on_host = stage.there(placed.site).name, stage.there(placed.host).name
    assert (said.place.site, said.place.host) == (at_site, on_host)
    assert said.place.elastic == placed.elastic
    assert (said.place.price_hour is not None) == placed.elastic
    (told,) = event.list_events(stage.broker, stage.admin, kind="vm.placed", target=row.id)
    assert said.place.rank == told.data["rank"]
    assert said.message.startswith(f"new would be placed on {on_host} at {at_site}")
    if placed.elastic:
        assert said.message.endswith("(rank -0.05, 0.05 per hour)")


def too_large(stage: Stage) -> tuple[dict[str, Any], str]:
    return {"requirements": "cpu_total > 99"}, "cpu_total > 99"


def at_once(stage: Stage) -> tuple[dict[str, Any], str]:
    return {"requirements": "cpu_total > 99", "wishes": Wishes(immediate=True)}, "would end in error"


def taken_address(stage: Stage) -> tuple[dict[str, Any], str]:
    stage.create("first", address="10.20.1.77")
    return {"address": "10.20.1.77"}, "10.20.1.77 is taken"


def gateway_address(stage: Stage) -> tuple[dict[str, Any], str]:
    return {"address": "10.20.1.1"}, "10.20.1.1 is the gateway"


def no_budget(stage: Stage) -> tuple[dict[str, Any], str]:
    stage.add_cloud()
    spent = "version: 1\nburst:\n  to: [cloud]\n  open: {any: ['queue.length >= 0']}\n"
    spent += "  close: {all: ['queue.length < 0']}\nbudget: {hourly: 0}\n"
    policy.apply(stage.broker, stage.admin, spent)
    return {"requirements": "elastic"}, "budget.hourly"


def closed_policy(stage: Stage) -> tuple[dict[str, Any], str]:
    stage.add_cloud(policy_text=None)
    return {"requirements": "elastic"}, "no policy is in force"


@pytest.mark.parametrize(
    "scene", [too_large, at_once, taken_address, gateway_address, no_budget, closed_policy]
)
def test_vm_waits_where_its_dry_run_said_so(
    stage: Stage, scene: Callable[[Stage], tuple[dict[str, Any], str]]
) -> None:
    wanted, words = scene(stage)
    begin = asked(stage, **wanted)
    said = forecast(stage.broker, begin)
    assert said.place is None
    assert words in said.message
    row, task = begin()
    queue.place_pending(stage.broker)
    stage.drive(task, until=lambda: True)
    waits = stage.vm(row.id)
    assert waits.host is None
    assert waits.status_reason == said.reason


def test_vm_that_others_would_make_room_for_is_told_so(stage: Stage) -> None:
    policy.apply(stage.broker, stage.admin, "version: 1\nqueue: {preempt: true}\n")
    for number in range(2):
        flavor_ref = f"whole-{number}"
        size = Size(vcpus=16, mem_mb=1024, disk_gb=10)
        flavor.create(stage.broker, stage.admin, name=flavor_ref, size=size)
        stage.create(f"idle-{number}", flavor_ref=flavor_ref, wishes=Wishes(preemptible=True))
    said = forecast(stage.broker, asked(stage, wishes=Wishes(priority=9)))
    assert said.reason == "1 preemptible VM would be suspended to make room for it"


def test_who_is_far_back_in_the_queue_is_told_so(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_WAITING > 100
    monkeypatch.setattr(queue, "MOST_WAITING", 2)
    for number in range(3):
        stage.request(f"first-{number}", requirements="cpu_total > 99")
    assert "more than 2 VMs are before it" in forecast(stage.broker, asked(stage)).message
    assert forecast(stage.broker, asked(stage, wishes=Wishes(priority=1))).place is not None


def test_migration_is_told_with_its_target(stage: Stage) -> None:
    stage.create("web", rank='name == "sim-01"')
    said = forecast(stage.broker, partial(migration.migrate, stage.broker, stage.admin, "web"))
    assert said.message == "web would move to sim-02 at campus"
    there = partial(migration.migrate, stage.broker, stage.admin, "web", host_ref="sim-01")
    assert forecast(stage.broker, there).message == (
        "nothing would begin: web is running, and its vm.create is done"
    )


# -- the store ------------------------------------------------------------------------------------------------------


def note(stage: Stage, key: str) -> MetaRow:
    with stage.broker.store.transaction() as session:
        row = MetaRow(key=key, value="v")
        session.add(row)
        return row


def noted(stage: Stage) -> set[str]:
    with stage.broker.store.reading() as session:
        return {row.key for row in session.query(MetaRow)} - {"broker_id"}


def test_rows_that_leave_a_dry_transaction_stay_readable(bare_stage: Stage) -> None:
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


def test_database_has_its_say_in_a_dry_run(bare_stage: Stage) -> None:
    note(bare_stage, "a")
    with pytest.raises(IntegrityError), dry_run.nothing_stays():
        note(bare_stage, "a")
    note(bare_stage, "b")
    assert noted(bare_stage) == {"a", "b"}


def test_dry_run_ends_with_what_asked_for_it(bare_stage: Stage) -> None:
    with pytest.raises(ZeroDivisionError), dry_run.nothing_stays():
        raise ZeroDivisionError
    note(bare_stage, "a")
    with dry_run.nothing_stays():
        with dry_run.nothing_stays():
            note(bare_stage, "b")
        note(bare_stage, "c")
    assert noted(bare_stage) == {"a"}


def test_dry_run_is_nothing_to_other_threads(bare_stage: Stage) -> None:
    """In turns, each in the middle of the other's: of five dry and five real ones the real ones stay."""
    barrier = threading.Barrier(10)

    def run(number: int) -> None:
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


def test_dry_run_is_nothing_to_other_coroutines_of_its_thread(bare_stage: Stage) -> None:
    begun = asyncio.Event()

    async def dry() -> None:
        with dry_run.nothing_stays():
            begun.set()
            await asyncio.sleep(0)
            await asyncio.to_thread(note, bare_stage, "dry")

    async def real() -> None:
        await begun.wait()
        await asyncio.to_thread(note, bare_stage, "real")

    async def both() -> None:
        await asyncio.gather(dry(), real())

    asyncio.run(both())
    assert noted(bare_stage) == {"real"}


def test_thread_that_a_dry_run_starts_is_not_dry(bare_stage: Stage) -> None:
    """What outlives the call, such as a watcher of a site, must not go on as if nothing it does counted."""
    with dry_run.nothing_stays():
        thread = threading.Thread(target=note, args=(bare_stage, "a"))
        thread.start()
        thread.join(30)
    assert noted(bare_stage) == {"a"}
