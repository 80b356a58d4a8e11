"""Room is kept for a time, and made free in time; a VM that makes way goes on where it was."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from broker import host, load, operation, policy, power, project, queue, reservation, vm, why
from broker.actor import Actor
from broker.errors import Exists, InvalidRequest, NoRoom, NotFound, QuotaExceeded, WrongState
from broker.launch import Wishes
from broker.reconcile import reconcile
from broker.states import OperationState, ReservationState, VMState
from broker.store import ReservationRow, VMRow

if TYPE_CHECKING:
    from tests.broker.conftest import Stage

MINUTE = timedelta(minutes=1)


@pytest.fixture
def one_host(bare_stage: Stage) -> Stage:
    """A host of 8 cores, which is full with one large VM, or four small ones."""
    bare_stage.catalogue()
    bare_stage.add_local(hosts=1, cpus=8)
    return bare_stage


def reserve(
    stage: Stage,
    name: str = "exam",
    *,
    flavor: str = "large",
    count: int = 1,
    start: float | None = 10,
    length: float = 60,
    **more: Any,
) -> ReservationRow:
    """``start`` and ``length`` in minutes."""
    begin = stage.clock.now() + start * MINUTE if start is not None else None
    return reservation.create(
        stage.broker, stage.member, name=name, flavor_ref=flavor, count=count, start_at=begin,
        end_at=(begin or stage.clock.now()) + length * MINUTE, **more,
    )  # fmt: skip


def pass_time(stage: Stage, minutes: float) -> None:
    """As the duties would: reservations begin and end, rounds are run, operations go on. Every ten seconds; of a long time every
    minute, but for the last ten."""
    coarse = max(0, int(minutes) - 10)
    for seconds in [60] * coarse + [10] * int((minutes - coarse) * 6):
        stage.wait(seconds)
        reservation.tick(stage.broker)
        stage.broker.signals.set("place")
        queue.place_pending(stage.broker)
        for task in operation.list_operations(stage.broker, stage.admin, state="running"):
            stage.driver.step(task.id, most=20)


def state(stage: Stage, row: VMRow) -> VMState:
    return stage.vm(row.id).state


def test_reservation_takes_the_pool_at_its_time(one_host: Stage) -> None:
    stage = one_host
    batch = stage.create("batch", flavor_ref="large", wishes=Wishes(preemptible=True))
    booked = reserve(stage)
    exam, task = stage.request("exam-1", flavor_ref="large", wishes=Wishes(reservation="exam"))
    pass_time(stage, 5)
    assert (state(stage, batch), state(stage, exam)) == ("running", "pending")
    assert "reservation starts in" in why.why(stage.broker, stage.member, exam.id).summary
    pass_time(stage, 6)
    assert (state(stage, batch), state(stage, exam)) == ("suspended", "running")
    assert reservation.get(stage.broker, stage.member, "exam").state == ReservationState.ACTIVE
    assert stage.operation(task.id).state == OperationState.DONE
    assert [machine.state for machine in stage.machines(batch.id)] == ["suspended"]
    assert "goes on when its host has room" in stage.vm(batch.id).status_reason

    stage.finish(vm.delete(stage.broker, stage.member, exam.id)[1])
    pass_time(stage, 1)
    assert state(stage, batch) == "suspended", "its room is reserved still, whether it is used or not"
    pass_time(stage, 60)
    assert reservation.get(stage.broker, stage.member, booked.id).state == ReservationState.ENDED
    assert state(stage, batch) == "running"
    assert [machine.boots for machine in stage.machines(batch.id)] == [1], "it went on; it did not boot"
    assert {"reservation.created", "reservation.started", "reservation.ended"} <= set(
        stage.events(target=booked.id)
    )
    assert {"vm.preempted", "vm.suspended"} <= set(stage.events(target=batch.id))


def test_reservation_that_nobody_can_be_sure_of_is_refused_with_the_time_when_it_can(one_host: Stage) -> None:
    one_host.create("firm", flavor_ref="small")
    with pytest.raises(NoRoom) as refused:
        reserve(one_host)
    assert "preemptible" in refused.value.hint
    assert not reservation.list_reservations(one_host.broker, one_host.member, include_over=True)
    reserve(one_host, "morning", flavor="small", count=3)
    with pytest.raises(NoRoom) as refused:
        reserve(one_host, "noon", flavor="small", count=3, start=30)
    earliest = datetime.fromisoformat(refused.value.details["earliest"])
    assert earliest == one_host.clock.now() + 70 * MINUTE


def test_vm_is_not_placed_where_it_would_make_a_reservation_late(one_host: Stage) -> None:
    reserve(one_host, flavor="small", count=3)
    row, _ = one_host.request("firm", flavor_ref="small")
    other, _ = one_host.request("other", flavor_ref="small")
    queue.place_pending(one_host.broker)
    assert one_host.vm(row.id).host is not None, "two of eight cores are nobody's"
    assert one_host.vm(other.id).host is None
    assert "reserved" in one_host.vm(other.id).status_reason
    reservation.delete(one_host.broker, one_host.member, "exam")
    reservation.delete(
        one_host.broker,
        one_host.member,
        reservation.list_reservations(one_host.broker, one_host.member, include_over=True)[0].id,
    )
    one_host.broker.signals.set("place")
    queue.place_pending(one_host.broker)
    assert one_host.vm(other.id).host is not None


def test_short_vm_is_backfilled_and_suspended_when_it_is_late(one_host: Stage) -> None:
    reserve(one_host, start=60)
    short, _ = one_host.request("short", flavor_ref="large", wishes=Wishes(runtime_s=1800))
    long, _ = one_host.request("long", flavor_ref="small", wishes=Wishes(runtime_s=7200))
    pass_time(one_host, 1)
    assert (state(one_host, short), state(one_host, long)) == ("running", "pending")
    pass_time(one_host, 60)
    assert state(one_host, short) == "suspended", "it ran longer than it said"


def test_reservation_now_needs_room_now(one_host: Stage) -> None:
    one_host.create("batch", flavor_ref="large", wishes=Wishes(preemptible=True))
    with pytest.raises(NoRoom):
        reserve(one_host, start=None)
    assert reserve(one_host, start=2).state == ReservationState.SCHEDULED


def test_bad_reservations_are_refused_in_words(one_host: Stage) -> None:
    stage, now = one_host, one_host.clock.now()
    for start, end, said in (
        (now - MINUTE, now + MINUTE, "is over"),
        (now + MINUTE, now, "starts at"),
        (now.replace(tzinfo=None), now + MINUTE, "time zone"),
        (now, now + timedelta(days=400), "366"),
    ):
        with pytest.raises(InvalidRequest, match=said):
            reservation.create(
                stage.broker, stage.member, name="x", flavor_ref="small", count=1, start_at=start, end_at=end
            )
    with pytest.raises(InvalidRequest, match="column"):
        reserve(stage, requirements="cpu_free >")
    with pytest.raises(NoRoom):
        reserve(stage, requirements='name == "nowhere"')
    reserve(stage, flavor="small")
    with pytest.raises(Exists):
        reserve(stage, flavor="small")
    with pytest.raises(InvalidRequest, match="larger than"):
        stage.request("big", flavor_ref="large", wishes=Wishes(reservation="exam"))
    with pytest.raises(NotFound):
        stage.request("lost", wishes=Wishes(reservation="none"))


def test_reservations_stay_within_the_quota_and_the_project(one_host: Stage) -> None:
    stage = one_host
    owner = project.create(stage.broker, stage.admin, name="small-team", quota={"vcpus": 4})
    member = Actor(project_id=owner.id, role="member", name="eve")
    reserve(stage)
    with pytest.raises(NotFound):
        reservation.get(stage.broker, member, "exam")
    with pytest.raises(QuotaExceeded, match="reserved"):
        reservation.create(
            stage.broker, member, name="x", flavor_ref="large", count=1, start_at=None,
            end_at=stage.clock.now() + MINUTE,
        )  # fmt: skip


def test_suspended_vm_gives_its_room_back_and_waits_for_it(one_host: Stage) -> None:
    stage = one_host
    row = stage.create("web", flavor_ref="large")
    stage.finish(power.suspend(stage.broker, stage.member, row.id)[1])
    assert state(stage, row) == "suspended"
    again, _ = power.suspend(stage.broker, stage.member, row.id)
    assert again.state == "suspended"
    stage.finish_all()
    other = stage.create("other", flavor_ref="large")
    _, resumed = power.resume(stage.broker, stage.member, row.id)
    stage.drive(resumed, most_s=60)
    assert state(stage, row) == "suspended", "the other one has its room"
    assert stage.vm(row.id).status_reason
    with pytest.raises(WrongState, match="resume"):
        power.stop(stage.broker, stage.member, row.id, force=True)
    stage.finish(vm.delete(stage.broker, stage.member, other.id)[1])
    stage.finish(resumed)
    assert state(stage, row) == "running"
    assert len(stage.vm(row.id).nics) == 1


def test_start_resumes_what_is_suspended(one_host: Stage) -> None:
    row = one_host.create("web")
    one_host.finish(power.suspend(one_host.broker, one_host.member, row.id)[1])
    _, task = power.start(one_host.broker, one_host.member, row.id)
    assert task.kind == "vm.resume"
    one_host.finish(task)
    assert state(one_host, row) == "running"


def test_preemptible_vm_makes_room_for_a_higher_priority_and_comes_back(one_host: Stage) -> None:
    stage = one_host
    policy.apply(stage.broker, stage.admin, "version: 1\nqueue: {preempt: true}\n")
    batch = stage.create("batch", flavor_ref="large", wishes=Wishes(preemptible=True))
    urgent, task = stage.request("urgent", flavor_ref="large", wishes=Wishes(priority=5))
    pass_time(stage, 1)
    assert (state(stage, batch), state(stage, urgent)) == ("suspended", "running")
    assert "goes on when" in stage.vm(batch.id).status_reason
    stage.finish(vm.delete(stage.broker, stage.member, urgent.id)[1])
    pass_time(stage, 1)
    assert state(stage, batch) == "running"
    assert stage.operation(task.id).state == OperationState.DONE


def test_nobody_is_preempted_unless_the_policy_says_so(one_host: Stage) -> None:
    batch = one_host.create("batch", flavor_ref="large", wishes=Wishes(preemptible=True))
    one_host.request("urgent", flavor_ref="large", wishes=Wishes(priority=5))
    pass_time(one_host, 1)
    assert state(one_host, batch) == "running"


def test_owner_may_keep_or_delete_what_was_preempted(one_host: Stage) -> None:
    stage = one_host
    policy.apply(stage.broker, stage.admin, "version: 1\nqueue: {preempt: true}\n")
    first = stage.create("first", flavor_ref="small", wishes=Wishes(preemptible=True))
    second = stage.create("second", flavor_ref="small", wishes=Wishes(preemptible=True))
    stage.create("firm", flavor_ref="small")
    stage.request("urgent", flavor_ref="large", wishes=Wishes(priority=5, reservation=None))
    pass_time(stage, 1)
    assert state(stage, first) == "running", "eight cores will not be free with the firm one there"
    stage.request("fits", flavor_ref="small", wishes=Wishes(priority=5))
    stage.request("fits-too", flavor_ref="small", wishes=Wishes(priority=5))
    pass_time(stage, 1)
    suspended = [row for row in (first, second) if state(stage, row) == "suspended"]
    assert len(suspended) == 1
    kept = suspended[0]
    stage.finish(power.suspend(stage.broker, stage.member, kept.id)[1])
    assert stage.vm(kept.id).desired == "suspended"
    stage.finish(vm.delete(stage.broker, stage.member, kept.id)[1])
    assert stage.nothing_left(kept.id)


def test_cancelled_reservation_gives_its_room_back(one_host: Stage) -> None:
    reserve(one_host)
    reservation.delete(one_host.broker, one_host.member, "exam")
    reserve(one_host)
    assert len(reservation.list_reservations(one_host.broker, one_host.member)) == 1
    assert len(reservation.list_reservations(one_host.broker, one_host.member, include_over=True)) == 2


def test_vm_that_waits_for_its_reservation_opens_no_burst(one_host: Stage) -> None:
    reserve(one_host)
    one_host.request("exam-1", flavor_ref="large", wishes=Wishes(reservation="exam"))
    with one_host.broker.store.reading() as session:
        assert load.metrics(one_host.broker, session)["queue.length"] == 0


def test_time_is_told_in_utc(one_host: Stage) -> None:
    with pytest.raises(NoRoom, match="2030-01-01 00:10:00Z"):
        reserve(one_host, count=5)


def test_immediate_vm_starts_now_or_not_at_all(one_host: Stage) -> None:
    assert one_host.create("now", flavor_ref="large", wishes=Wishes(immediate=True)).state == "running"
    row, task = one_host.request("too-late", flavor_ref="small", wishes=Wishes(immediate=True))
    assert one_host.drive(task).state == OperationState.FAILED
    row = one_host.vm(row.id)
    assert row.state == "error"
    assert "now or not at all" in row.status_reason
    assert "cpu_free" in row.status_reason
    assert one_host.nothing_left(row.id)
    with pytest.raises(InvalidRequest, match="starts now, or in a reservation"):
        one_host.request("both", wishes=Wishes(immediate=True, reservation="exam"))


def test_room_on_a_host_that_is_away_is_kept_elsewhere(stage: Stage) -> None:
    begin = stage.clock.now() + 30 * MINUTE
    reservation.create(
        stage.broker,
        stage.member,
        name="exam",
        flavor_ref="large",
        count=1,
        start_at=begin,
        end_at=begin + 60 * MINUTE,
    )
    assert reservation.host_names(stage.broker, reservation.get(stage.broker, stage.member, "exam")) == {
        "campus/sim-01": 1
    }
    host.set_maintenance(stage.broker, stage.admin, "sim-01", True)
    reservation.tick(stage.broker)
    row = reservation.get(stage.broker, stage.member, "exam")
    assert reservation.host_names(stage.broker, row) == {"campus/sim-02": 1}
    assert "reservation.moved" in stage.events(target=row.id)
    reservation.tick(stage.broker)
    assert stage.events(target=row.id).count("reservation.moved") == 1
    host.set_maintenance(stage.broker, stage.admin, "sim-02", True)
    for _ in range(2):
        reservation.tick(stage.broker)
    assert stage.events(target=row.id).count("reservation.at_risk") == 1
    host.set_maintenance(stage.broker, stage.admin, "sim-01", False)
    reservation.tick(stage.broker)
    row = reservation.get(stage.broker, stage.member, "exam")
    assert reservation.host_names(stage.broker, row) == {"campus/sim-01": 1}


def test_short_silence_of_a_host_moves_nothing(stage: Stage) -> None:
    begin = stage.clock.now() + 30 * MINUTE
    row = reservation.create(
        stage.broker,
        stage.member,
        name="exam",
        flavor_ref="large",
        count=1,
        start_at=begin,
        end_at=begin + 60 * MINUTE,
    )
    stage.worlds["campus"].set_unreachable("sim-01")
    reconcile(stage.broker)
    reservation.tick(stage.broker)
    assert stage.events(target=row.id) == ["reservation.created"]
    stage.wait(90)
    reconcile(stage.broker)
    reservation.tick(stage.broker)
    assert "reservation.moved" in stage.events(target=row.id)


def test_vm_in_a_reservation_keeps_its_place_on_a_host_that_is_away(stage: Stage) -> None:
    reservation.create(
        stage.broker, stage.member, name="now", flavor_ref="small", count=2, start_at=None,
        end_at=stage.clock.now() + 60 * MINUTE,
    )  # fmt: skip
    stage.create("member", flavor_ref="small", wishes=Wishes(reservation="now"))
    host.set_maintenance(stage.broker, stage.admin, "sim-01", True)
    reservation.tick(stage.broker)
    row = reservation.get(stage.broker, stage.member, "now")
    assert reservation.host_names(stage.broker, row) == {"campus/sim-01": 1, "campus/sim-02": 1}
    assert (
        stage.there(stage.create("second", flavor_ref="small", wishes=Wishes(reservation="now")).host).name
        == "sim-02"
    )
