"""Running VMs change hosts: one that is told to, all of a host, or those that a plan names."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from broker import host, migration, power, reconcile, reservation, vm, why
from broker.errors import InvalidRequest, NoRoom, WrongState
from broker.launch import Wishes
from broker.migration import Limits
from broker.states import OperationState
from broker.store import HostRow, ReservationRow, VMRow

if TYPE_CHECKING:
    from tests.broker.conftest import Stage

NOW = Limits(rest_s=0)


def on(stage: Stage, row: VMRow) -> str:
    return stage.there(stage.vm(row.id).host).name


def claims(stage: Stage, name: str) -> int:
    return host.get(stage.broker, stage.admin, name).vms


def test_vm_moves_to_the_host_that_is_named_and_twice_moves_once(stage: Stage) -> None:
    row = stage.create("web", requirements='name == "sim-01" || name == "sim-02"', rank='name == "sim-01"')
    assert on(stage, row) == "sim-01"
    _, task = migration.migrate(stage.broker, stage.admin, row.id, host_ref="sim-02")
    assert stage.vm(row.id).state == "migrating"
    assert migration.migrate(stage.broker, stage.admin, row.id, host_ref="sim-02")[1].id == task.id
    assert (claims(stage, "sim-01"), claims(stage, "sim-02")) == (1, 1), "room is held at both ends"
    stage.finish(task)
    assert (on(stage, row), stage.vm(row.id).state) == ("sim-02", "running")
    assert (claims(stage, "sim-01"), claims(stage, "sim-02")) == (0, 1)
    assert [(machine.host, machine.boots) for machine in stage.machines(row.id)] == [("sim-02", 1)]
    assert {"vm.migrating", "vm.migrated"} <= set(stage.events(target=row.id))
    assert migration.migrate(stage.broker, stage.admin, row.id, host_ref="sim-02")[1].id == task.id
    reconcile.reconcile(stage.broker)
    assert on(stage, row) == "sim-02"


def test_vm_is_not_moved_where_it_may_not_be(stage: Stage) -> None:
    bound = stage.create("bound", requirements='name == "sim-01"')
    for asked in ("sim-02", None):
        with pytest.raises(NoRoom):
            migration.migrate(stage.broker, stage.admin, bound.id, host_ref=asked)
    near = stage.create("near", wishes=Wishes(affinity=({"kind": "affinity", "group": "g"},)))
    stage.create("too", wishes=Wishes(affinity=({"kind": "affinity", "group": "g"},)))
    with pytest.raises(NoRoom):
        migration.migrate(stage.broker, stage.admin, near.id)
    stage.finish(power.stop(stage.broker, stage.member, bound.id)[1])
    with pytest.raises(WrongState, match="it is stopped"):
        migration.migrate(stage.broker, stage.admin, bound.id)
    stage.add_local(name="other", part=2)
    with pytest.raises(InvalidRequest, match="another site"):
        migration.migrate(stage.broker, stage.admin, near.id, host_ref="other/sim-01")


def test_move_that_fails_leaves_the_vm_where_it_is(stage: Stage) -> None:
    row = stage.create("web", rank='name == "sim-01"')
    stage.worlds["campus"].fail("migrate_vm", "InvalidSpec", "the CPUs differ")
    _, task = migration.migrate(stage.broker, stage.admin, row.id)
    assert stage.drive(task).state == OperationState.FAILED
    row = stage.vm(row.id)
    assert (row.state, stage.there(row.host).name, row.target_host_id) == ("running", "sim-01", None)
    assert "the CPUs differ" in row.status_reason
    assert (claims(stage, "sim-01"), claims(stage, "sim-02")) == (1, 0)


def test_move_whose_answer_was_lost_for_good_is_seen_to_have_arrived(stage: Stage) -> None:
    row = stage.create("web", rank='name == "sim-01"')
    stage.worlds["campus"].fail("migrate_vm", "InvalidSpec", "so it seemed", after=True)
    _, task = migration.migrate(stage.broker, stage.admin, row.id)
    stage.finish(task)
    assert (stage.vm(row.id).state, on(stage, row)) == ("running", "sim-02")


def test_vm_that_is_deleted_on_its_way_leaves_nothing_at_either_end(stage: Stage) -> None:
    row = stage.create("web", rank='name == "sim-01"')
    _, task = migration.migrate(stage.broker, stage.admin, row.id)
    stage.drive(task, until=lambda: stage.operation(task.id).phase == "move")
    stage.worlds["campus"].move_vm(row.id, "sim-02")
    stage.finish(vm.delete(stage.broker, stage.member, row.id)[1])
    assert stage.nothing_left(row.id)
    assert (claims(stage, "sim-01"), claims(stage, "sim-02")) == (0, 0)


def test_drained_host_is_empty_and_takes_nobody(stage: Stage) -> None:
    rows = [stage.create(f"web-{number}", rank='name == "sim-01"') for number in range(3)]
    bound = stage.create("bound", requirements='name == "sim-01"')
    view = migration.drain(stage.broker, stage.admin, "sim-01")
    assert sorted(move.vm for move in view.moves) == ["web-0", "web-1", "web-2"]
    assert [name for name, _ in view.stuck] == ["bound"]
    stage.finish_all()
    assert {on(stage, row) for row in rows} == {"sim-02"}
    assert on(stage, bound) == "sim-01"
    assert host.get(stage.broker, stage.admin, "sim-01").row.maintenance
    again = migration.drain(stage.broker, stage.admin, "sim-01")
    assert (again.moves, [name for name, _ in again.stuck]) == ([], ["bound"])


def test_host_of_a_cloud_is_not_drained_and_stays_as_it_is(hybrid: Stage) -> None:
    offer = next(view.row for view in host.list_hosts(hybrid.broker, hybrid.admin) if view.row.elastic)
    with pytest.raises(WrongState, match="is a cloud's"):
        migration.drain(hybrid.broker, hybrid.admin, offer.name)
    assert not host.get(hybrid.broker, hybrid.admin, offer.name).row.maintenance


def test_plan_is_told_and_not_done_until_it_is_applied(stage: Stage) -> None:
    rows = [stage.create(f"web-{number}", rank='name == "sim-01"') for number in range(4)]
    plan = migration.rebalance(stage.broker, stage.admin, goal="balance", limits=NOW, apply=False)
    assert len(plan.moves) == 2
    assert plan.spread_after < plan.spread_before
    assert {on(stage, row) for row in rows} == {"sim-01"}
    applied = migration.rebalance(stage.broker, stage.admin, goal="balance", limits=NOW, apply=True)
    assert [move.vm for move in applied.moves] == [move.vm for move in plan.moves]
    stage.finish_all()
    assert sorted(on(stage, row) for row in rows) == ["sim-01", "sim-01", "sim-02", "sim-02"]
    assert not migration.rebalance(stage.broker, stage.admin, goal="balance", limits=NOW, apply=False).moves


def test_packing_empties_a_host(stage: Stage) -> None:
    for number in range(4):
        stage.create(f"web-{number}", rank=f'name == "sim-0{1 + number % 2}"')
    plan = migration.rebalance(stage.broker, stage.admin, goal="pack", limits=NOW, apply=True)
    assert (plan.hosts_before, plan.hosts_after, len(plan.moves)) == (2, 1, 2)
    stage.finish_all()
    assert sorted((claims(stage, "sim-01"), claims(stage, "sim-02"))) == [0, 4]


def test_vm_that_was_moved_only_just_now_stays(stage: Stage) -> None:
    for number in range(4):
        stage.create(f"web-{number}", rank='name == "sim-01"')
    plan = migration.rebalance(stage.broker, stage.admin, goal="balance", limits=Limits(), apply=False)
    assert plan.moves == []
    assert plan.resting == 4
    with pytest.raises(InvalidRequest, match="no goal"):
        migration.rebalance(stage.broker, stage.admin, goal="tidy", limits=NOW, apply=False)  # type: ignore[arg-type]


def test_why_of_a_moved_vm_is_not_that_of_the_host_where_it_began(stage: Stage) -> None:
    row = stage.create("web", rank='name == "sim-01"')
    stage.finish(migration.migrate(stage.broker, stage.admin, row.id)[1])
    found = why.why(stage.broker, stage.member, row.id)
    assert (found.host, found.rank, found.runner_up) == ("campus/sim-02", None, None)
    assert "was moved to campus/sim-02; it began on campus/sim-01" in found.summary


def test_host_in_maintenance_is_no_target(stage: Stage) -> None:
    row = stage.create("web", rank='name == "sim-01"')
    host.set_maintenance(stage.broker, stage.admin, "sim-02", True)
    with pytest.raises(WrongState, match="it is maintenance"):
        migration.migrate(stage.broker, stage.admin, row.id, host_ref="sim-02")


def booked(stage: Stage) -> tuple[VMRow, str]:
    """A VM in the room of a reservation, and that room."""
    made = reservation.create(
        stage.broker,
        stage.member,
        name="exam",
        flavor_ref="small",
        count=1,
        start_at=None,
        end_at=stage.clock.now() + timedelta(hours=5),
    )
    row = stage.create("web", wishes=Wishes(reservation=made.id))
    return row, made.id


def kept(stage: Stage, ref: str) -> dict[str, int]:
    """Host -> how many VMs a reservation keeps room for there."""
    with stage.broker.store.reading() as session:
        slots = session.get_one(ReservationRow, ref).slots
        return {session.get_one(HostRow, host_id).name: count for host_id, count in slots.items()}


def test_vm_in_a_reservation_takes_its_room_along(stage: Stage) -> None:
    row, ref = booked(stage)
    assert kept(stage, ref) == {on(stage, row): 1}
    before = on(stage, row)
    _, task = migration.migrate(stage.broker, stage.admin, row.id)
    stage.finish(task)
    assert on(stage, row) != before
    assert kept(stage, ref) == {on(stage, row): 1}


def test_room_of_a_reservation_comes_back_with_a_vm_that_could_not_move(stage: Stage) -> None:
    row, ref = booked(stage)
    before = kept(stage, ref)
    stage.worlds["campus"].fail("migrate_vm", "InvalidSpec", "the CPUs differ")
    _, task = migration.migrate(stage.broker, stage.admin, row.id)
    assert kept(stage, ref) != before
    stage.drive(task)
    assert on(stage, row) in before
    assert kept(stage, ref) == before
