"""What is over goes when it was kept long enough; what lives, and what that refers to, stays."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, event, func, select, update

from broker import image, launch, operation, power, project, reservation, retention, usage, vm, why
from broker.actor import Actor
from broker.errors import InUse, InvalidRequest
from broker.states import OperationState, PeerState, VMState
from broker.store import (
    EventRow,
    ImageRow,
    MetaRow,
    OperationRow,
    PeerRow,
    ReservationRow,
    Row,
    UsageMonthRow,
    UsageRow,
    VMRow,
)
from placement.policy import parse

if TYPE_CHECKING:
    from tests.broker.conftest import Stage


class Cursor(Protocol):
    """What is read of a database's cursor."""

    rowcount: int


MONTHS = [datetime(2029, month, 1, tzinfo=UTC) for month in range(1, 13)] + [datetime(2030, 1, 1, tzinfo=UTC)]


def count(stage: Stage, row: type[Row]) -> int:
    with stage.broker.store.reading() as session:
        return session.scalars(select(func.count()).select_from(row)).one()


def keeps(stage: Stage, **days: Any) -> None:
    """Only these are kept for a while, and everything else for ever."""
    kept = stage.broker.settings.retention
    for name in type(kept).model_fields:
        if name.endswith("_days"):
            setattr(kept, name, days.get(name, 0))


def gone(stage: Stage, name: str = "gone", **asked: Any) -> VMRow:
    """A VM that is terminated."""
    row = stage.create(name, **asked)
    stage.finish(vm.delete(stage.broker, stage.member, row.id)[1])
    return row


def days(stage: Stage, number: int) -> None:
    stage.wait(number * 86400)


def test_terminated_vms_go_with_their_tunnels_when_they_were_kept_long_enough(hybrid: Stage) -> None:
    old = gone(hybrid, "old", requirements="elastic")
    days(hybrid, 20)
    young, living = gone(hybrid, "young", requirements="elastic"), hybrid.create("living")
    days(hybrid, 15)
    done = retention.prune(hybrid.broker)
    assert done["vms"] == 1
    with hybrid.broker.store.reading() as session:
        assert set(session.scalars(select(VMRow.id))) == {young.id, living.id}
        assert old.id not in set(session.scalars(select(PeerRow.vm_id)))
    assert retention.prune(hybrid.broker) == {}


def test_a_vm_that_is_terminated_but_worked_on_stays(stage: Stage) -> None:
    row = gone(stage)
    days(stage, 40)
    with stage.broker.store.transaction() as session:
        operation.add(stage.broker, session, "vm.delete", row.id)
    assert "vms" not in retention.prune(stage.broker)
    assert stage.vm(row.id).state == VMState.TERMINATED


def test_operations_go_but_not_those_that_a_vm_refers_to(stage: Stage) -> None:
    row = stage.create("web")
    made = stage.task_of(row)
    for _ in range(2):
        stage.finish(reboot(stage, row))
    stage.request("waits", requirements='name == "nowhere"')
    days(stage, 31)
    assert retention.prune(stage.broker)["operations"] == 1
    with stage.broker.store.reading() as session:
        left = {(task.id, task.state) for task in session.scalars(select(OperationRow))}
    assert {one for one, _ in left} >= {made.id, stage.task_of(row).id}
    assert [state for _, state in left].count(OperationState.RUNNING) == 1


def reboot(stage: Stage, row: VMRow) -> OperationRow:
    return power.reboot(stage.broker, stage.member, row.id)[1]


def test_a_repeated_request_finds_its_operation_however_old(stage: Stage) -> None:
    keeps(stage, operations_days=1, events_days=1)
    row, task = stage.request("web", token="once")
    stage.finish(task)
    stage.finish(reboot(stage, row))
    days(stage, 10)
    retention.prune(stage.broker)
    again, same = stage.request("web", token="once")
    assert (again.id, same.id) == (row.id, task.id)


def test_old_events_go_and_the_next_one_has_a_higher_number(stage: Stage) -> None:
    row = stage.create("web")
    with stage.broker.store.reading() as session:
        highest = session.scalars(select(EventRow.seq).order_by(EventRow.seq.desc())).first()
    assert highest is not None
    days(stage, 91)
    told = why.why(stage.broker, stage.reader, row.id).summary
    assert retention.prune(stage.broker)["events"] > 5
    with stage.broker.store.reading() as session:
        left = session.scalars(select(EventRow).order_by(EventRow.seq)).all()
    assert [one.kind for one in left][-1] == "retention.pruned"
    assert left[-1].seq > highest
    assert "web" in left[0].message
    assert [one.kind for one in left].count("vm.placed") == 1
    assert why.why(stage.broker, stage.reader, row.id).summary == told


def test_events_of_the_kept_time_stay(stage: Stage) -> None:
    days(stage, 80)
    row = stage.create("web")
    days(stage, 20)
    before = stage.events(target=row.id)
    assert retention.prune(stage.broker)["events"] > 0
    assert stage.events(target=row.id) == before


def test_tunnels_that_are_over_go_and_live_ones_stay(hybrid: Stage) -> None:
    row = hybrid.burst("web")
    with hybrid.broker.store.transaction() as session:
        (live,) = session.scalars(select(PeerRow))
        values = {column.key: getattr(live, column.key) for column in PeerRow.__mapper__.column_attrs}
        values |= {"id": "peer-past", "state": PeerState.REMOVED, "public_key": None}
        session.add(PeerRow(**values | {"bootstrap_public_key": "past"}))
    days(hybrid, 31)
    with hybrid.broker.store.transaction() as session:
        task = operation.add(hybrid.broker, session, "vm.stop", row.id)
    assert "peers" not in retention.prune(hybrid.broker)  # what waits for a gateway may need to see it
    with hybrid.broker.store.transaction() as session:
        session.get_one(OperationRow, task.id).state = OperationState.CANCELLED
    assert retention.prune(hybrid.broker)["peers"] == 1
    assert hybrid.holdings(row.id)["peers"] == 1


def test_reservations_that_ended_go_when_no_vm_is_left_in_them(stage: Stage) -> None:
    end = stage.clock.now() + timedelta(days=1)
    for name in ("empty", "used"):
        reservation.create(
            stage.broker, stage.member, name=name, flavor_ref="small", count=1, start_at=None, end_at=end
        )
    stage.create("web", wishes=launch.Wishes(reservation="used"))
    days(stage, 92)
    reservation.tick(stage.broker)
    assert retention.prune(stage.broker)["reservations"] == 1
    with stage.broker.store.reading() as session:
        assert list(session.scalars(select(ReservationRow.name))) == ["used"]


def test_deleted_images_go_with_the_last_vm_that_was_made_of_them(stage: Stage) -> None:
    gone(stage)
    image.delete(stage.broker, stage.admin, "tiny")
    assert count(stage, ImageRow) == 1
    days(stage, 31)
    assert retention.prune(stage.broker)["images"] == 1
    assert count(stage, ImageRow) == 0


def test_a_project_with_a_history_stays_when_its_vms_are_pruned(stage: Stage) -> None:
    days(stage, 1)
    owner = project.create(stage.broker, stage.admin, name="past")
    actor = Actor(owner.id, "member", "pat")
    row, task = stage.request("web", actor=actor)
    stage.finish(task)
    stage.finish(vm.delete(stage.broker, actor, row.id)[1])
    days(stage, 300)
    retention.prune(stage.broker)
    assert count(stage, VMRow) == count(stage, UsageRow) == 0
    with pytest.raises(InUse, match="history"):
        project.delete(stage.broker, stage.admin, "past")


def test_zero_days_keep_for_ever(stage: Stage) -> None:
    keeps(stage)
    gone(stage, token="once")
    days(stage, 4000)
    assert retention.prune(stage.broker) == {}


def test_it_is_told_once_and_counted(stage: Stage) -> None:
    gone(stage)
    days(stage, 200)
    done = retention.prune(stage.broker)
    # The newest event stays until there is a newer one.
    assert retention.prune(stage.broker) == {"events": 1}
    assert retention.prune(stage.broker) == {}
    assert stage.events(kind="retention.pruned") == ["retention.pruned"] * 2
    done["events"] += 1
    assert retention.totals(stage.broker, stage.reader) == dict.fromkeys(retention.KINDS, 0) | done


def test_no_transaction_removes_more_than_a_batch(stage: Stage) -> None:
    many = 3 * retention.BATCH + 7
    with stage.broker.store.transaction() as session:
        for _ in range(many):
            operation.add(stage.broker, session, "vm.delete", "vm-past")
    with stage.broker.store.transaction() as session:
        values = {"state": OperationState.DONE, "ended_at": stage.clock.now()}
        session.execute(update(OperationRow).values(values))
    days(stage, 31)
    removed: list[int] = []

    def seen(_connection: object, cursor: Cursor, text: str, *_rest: object) -> None:
        if text.startswith("DELETE"):
            removed.append(cursor.rowcount)

    event.listen(stage.broker.store.engine, "after_cursor_execute", seen)
    assert retention.prune(stage.broker)["operations"] == many
    assert removed == [retention.BATCH] * 3 + [7]


def test_several_brokers_at_once_remove_everything_and_nothing_twice(stage: Stage) -> None:
    keeps(stage, usage_days=1, vms_days=1, operations_days=1, events_days=1)
    for number in range(5):
        days(stage, 1)
        gone(stage, f"vm-{number}")
    days(stage, 100)
    brokers = [stage.broker, stage.another(), stage.another()]
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(retention.prune, brokers))
    assert sum(one.get("vms", 0) for one in done) == 5
    assert sum(one.get("months", 0) for one in done) == 3
    assert count(stage, VMRow) == count(stage, UsageRow) == 0
    (month,) = usage.report(
        stage.broker,
        stage.admin,
        since=datetime(2030, 1, 1, tzinfo=UTC),
        until=datetime(2030, 4, 1, tzinfo=UTC),
    )
    assert month.vms == 5


# -- usage by month ----------------------------------------------------------------------------------------------

HOUR = st.integers(0, 12 * 30 * 24)
STAY = st.tuples(HOUR, st.integers(0, 100 * 24) | st.none(), st.sampled_from(["campus", "cloud"]))
VM = st.tuples(
    STAY,
    st.none() | st.tuples(st.integers(0, 20 * 24), st.integers(0, 900)),
    st.integers(1, 8),
    st.sampled_from([None, 0.0123, 0.7]),
)
Stays = tuple[tuple[int, int | None, str], tuple[int, int] | None, int, float | None]


def write(stage: Stage, vms: list[Stays]) -> None:
    """Rows of stays: each VM has one, or a second one on the same site less than a month later."""
    first = MONTHS[0]
    with stage.broker.store.transaction() as session:
        session.execute(delete(UsageRow))
        session.execute(delete(UsageMonthRow))
        session.execute(delete(MetaRow).where(MetaRow.key != "broker_id"))
        for number, ((begin, length, site), again, vcpus, price) in enumerate(vms):
            stays = [(begin, None if length is None else begin + length)]
            if again is not None and length is not None:
                stays.append((begin + length + again[0], begin + length + again[0] + again[1]))
            for index, (start, end) in enumerate(stays):
                started = first + timedelta(hours=start, seconds=7 * number)
                ended = None if end is None else first + timedelta(hours=end, seconds=7 * number + index)
                if started > stage.clock.now() or (ended is not None and ended > stage.clock.now()):
                    continue
                owner = (stage.owner, stage.stranger)[number % 2]
                session.add(
                    UsageRow(
                        id=f"use-{number}-{index}",
                        vm_id=f"vm-{number}",
                        project_id=owner.id,
                        project=owner.name,
                        site=site,
                        host="h",
                        elastic=site == "cloud",
                        vcpus=vcpus,
                        mem_mb=512 * vcpus,
                        disk_gb=10 * vcpus,
                        gpus=vcpus % 2,
                        price_hour=price,
                        started_at=started,
                        ended_at=ended,
                    )
                )


def reports(stage: Stage) -> dict[tuple[str, datetime, datetime | None, str, str, bool], tuple[float, ...]]:
    """All that can be asked by whole months, as admin and as a project."""
    found = {}
    for actor in (stage.admin, stage.reader):
        for index, since in enumerate(MONTHS[:-1]):
            for until in (*MONTHS[index + 1 :], None):
                for view in usage.report(stage.broker, actor, since=since, until=until):
                    key = (actor.role, since, until, view.project, view.site, view.elastic)
                    hours = (*view.held.as_hours().values(), view.unpriced_hours)
                    found[key] = (view.vms, *hours, view.cost)
    return found


# Each example fills a database: to shrink one that fails would take minutes.
@settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(vms=st.lists(VM, max_size=12), kept=st.lists(st.integers(1, 330), min_size=1, max_size=3))
def test_reports_are_the_same_after_the_stays_are_summed_up_and_pruned(
    bare_stage: Stage, vms: list[Stays], kept: list[int]
) -> None:
    stage = bare_stage
    write(stage, vms)
    before = reports(stage)
    for number in sorted(kept, reverse=True):
        keeps(stage, usage_days=number)
        retention.prune(stage.broker)
        after = reports(stage)
        assert after.keys() == before.keys()
        for key, values in before.items():
            assert after[key] == pytest.approx(values, rel=1e-12, abs=1e-9), key


def test_a_stay_over_the_end_of_a_month_and_one_that_still_goes_on_are_in_both_months(
    bare_stage: Stage,
) -> None:
    stage = bare_stage
    write(stage, [((31 * 24 - 10, 20, "cloud"), None, 2, 0.5), ((31 * 24 - 5, None, "cloud"), None, 1, 1.0)])
    keeps(stage, usage_days=60)
    assert retention.prune(stage.broker) == {"months": 10, "stays": 1}
    assert count(stage, UsageRow) == 1  # the one that goes on

    def cost(since: datetime, until: datetime) -> dict[str, float]:
        views = usage.report(stage.broker, stage.admin, since=since, until=until)
        return {view.project: round(view.cost, 6) for view in views}

    assert cost(MONTHS[0], MONTHS[1]) == {"lab": 5.0, "elsewhere": round(5 - 7 / 3600, 6)}
    assert cost(MONTHS[1], MONTHS[2]) == {"lab": 5.0, "elsewhere": 28 * 24.0}


def test_a_time_within_a_month_that_is_summed_up_is_refused_in_words(bare_stage: Stage) -> None:
    stage = bare_stage
    write(stage, [((24, 1000, "cloud"), None, 2, 0.5)])
    keeps(stage, usage_days=60)
    retention.prune(stage.broker)
    with pytest.raises(InvalidRequest, match="only the sum of the whole month"):
        usage.report(stage.broker, stage.admin, since=MONTHS[0] + timedelta(days=3))
    with pytest.raises(InvalidRequest, match="2029-02"):
        usage.report(stage.broker, stage.admin, since=MONTHS[0], until=MONTHS[1] + timedelta(days=1))
    # Where there is nothing, nothing is lost.
    assert usage.report(stage.broker, stage.admin, since=MONTHS[4] + timedelta(days=3)) == []


def test_fair_shares_go_on_with_sums(bare_stage: Stage) -> None:
    stage = bare_stage
    write(stage, [((0, None, "campus"), None, 4, None), ((24 * 100, 24 * 200, "campus"), None, 2, None)])
    half_life = 30 * 86400.0

    def used() -> dict[str, float]:
        with stage.broker.store.reading() as session:
            return usage.decayed(stage.broker, session, half_life)

    before = used()
    keeps(stage, usage_days=40)
    retention.prune(stage.broker)
    after = used()
    assert set(after) == set(before)
    for name in before:
        assert after[name] == pytest.approx(before[name], rel=0.03)


POLICY = """\
version: 1
burst:
  to: [cloud]
  open: {any: ['queue.length >= 0']}
  close: {all: ['queue.length < 0']}
budget: {monthly: 1000}
"""


def test_the_budget_is_the_same_before_and_after(bare_stage: Stage) -> None:
    stage = bare_stage
    stage.wait(15 * 86400)
    write(stage, [((24 * 360, 48, "cloud"), None, 2, 0.7), ((24 * 300, None, "cloud"), None, 2, 0.7)])
    rules = parse(POLICY, "policy.yaml")

    def spent() -> float:
        with stage.broker.store.reading() as session:
            ledger = usage.ledger(stage.broker, session, rules)
            assert ledger is not None
            return ledger.account().spent

    before = spent()
    assert before > 0
    keeps(stage, usage_days=1)
    assert retention.prune(stage.broker)["months"] > 1
    assert spent() == before
