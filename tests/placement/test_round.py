"""The round: its order, and what it does for those it would leave behind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from placement.lease import Book
from placement.match import feasible
from placement.order import order
from placement.policy import Policy, Queue, parse
from placement.pool import Pool, Reserved, Resident, Waiting
from placement.request import Request
from placement.round import run
from placement.table import HostTable

HOUR = 3600.0


def pool(*cores: float, residents: tuple[Resident, ...] = (), **more: object) -> Pool:
    rows = [
        {"name": f"h{i}", "cpu_free": cpu, "cpu_total": 16.0, "mem_free_mb": 65536.0, "disk_free_gb": 99.0}
        for i, cpu in enumerate(cores)
    ]
    return Pool(HostTable.from_rows(rows), residents, **more)  # type: ignore[arg-type]


def vm(name: str, cpu: float = 1, *, project: str = "web", since: float = 0, **more: object) -> Waiting:
    request = Request(name, cpu, 1024, requirement=more.pop("requirement", None))  # type: ignore[arg-type]
    return Waiting(request, project, since, **more)  # type: ignore[arg-type]


def policy(**queue: Any) -> Policy:
    return replace(parse("version: 1\n"), queue=Queue(**queue))


def names(queue: list[Waiting], rules: Queue, usage: dict[str, float] | None = None, now: float = 0) -> str:
    return " ".join(queue[index].request.id for index in order(queue, now, rules, usage or {}))


def test_priority_goes_first_then_age() -> None:
    queue = [vm("young", since=2), vm("old", since=1), vm("urgent", since=3, priority=5)]
    assert names(queue, Queue()) == "urgent old young"


def test_waiting_long_raises_a_priority() -> None:
    queue = [vm("patient", since=0), vm("urgent", since=HOUR * 6, priority=5)]
    assert names(queue, Queue(), now=HOUR * 4.9) == "urgent patient"
    assert names(queue, Queue(), now=HOUR * 6) == "patient urgent"


def test_project_that_used_less_of_its_share_goes_first() -> None:
    queue = [vm("a1", project="a"), vm("b1", project="b", since=1)]
    assert names(queue, Queue(), {"a": 100.0}) == "b1 a1"
    assert names(queue, Queue(shares={"a": 4.0}), {"a": 100.0, "b": 50.0}) == "a1 b1"


def test_two_projects_with_equal_shares_take_turns() -> None:
    queue = [vm(f"a{i}", project="a") for i in range(3)] + [
        vm(f"b{i}", project="b", since=1) for i in range(3)
    ]
    assert names(queue, Queue()) == "a0 b0 a1 b1 a2 b2"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(-3, 3), st.integers(0, 9)), max_size=30))
def test_order_loses_nobody_and_never_puts_a_lower_priority_first(
    wishes: list[tuple[str, int, int]],
) -> None:
    queue = [
        vm(f"{i:02}", project=project, priority=priority, since=since)
        for i, (project, priority, since) in enumerate(wishes)
    ]
    found = order(queue, 10.0, Queue(aging_s=0), {})
    assert sorted(found) == list(range(len(queue)))
    priorities = [queue[index].priority for index in found]
    assert priorities == sorted(priorities, reverse=True)


def test_vm_that_fits_nowhere_holds_up_nobody() -> None:
    decided = run(pool(4), [vm("huge", 99), vm("small", 1, since=1)], 5.0)
    assert [decision.host for decision in decided.decisions] == [None, 0]


def test_repair_places_what_greedy_leaves_behind() -> None:
    queue = [vm("a", 2), vm("b", 4, since=1, requirement='name == "h0"')]
    greedy = run(pool(4, 2), queue, 5.0)
    assert [decision.host for decision in greedy.decisions] == [0, None]
    mended = run(pool(4, 2), queue, 5.0, policy=policy(repair=10))
    assert [decision.host for decision in mended.decisions] == [1, 0]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, 8), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 5)), max_size=10),
)
def test_repair_never_places_fewer_and_never_over_commits(
    cores: list[int], wishes: list[tuple[int, int]]
) -> None:
    queue = [
        vm(f"{i:02}", cpu, requirement=f'name != "h{bad}"' if bad < 4 else None)
        for i, (cpu, bad) in enumerate(wishes)
    ]
    before = [one.host for one in run(pool(*cores), queue, 0.0).decisions]
    after = [one.host for one in run(pool(*cores), queue, 0.0, policy=policy(repair=50)).decisions]
    assert sum(host is not None for host in after) >= sum(host is not None for host in before)
    assert all(now is not None for was, now in zip(before, after, strict=True) if was is not None)
    table = pool(*cores).table
    for host, waiting in zip(after, queue, strict=True):
        if host is not None:
            assert feasible(table, waiting.request)[host]
            table.take(host, waiting.request)


def guest(name: str, cpu: float, *, host: int = 0, **more: object) -> Resident:
    known = {"preemptible": True, "suspendable": True, **more}
    return Resident(name, "batch", host, cpu, 1024, **known)  # type: ignore[arg-type]


def test_preemptible_vm_makes_room_for_a_higher_priority() -> None:
    residents = (guest("old", 2, since=1), guest("young", 2, since=9), guest("firm", 2, preemptible=False))
    decided = run(
        pool(0, residents=residents), [vm("urgent", 2, priority=1)], 10.0, policy=policy(preempt=True)
    )
    assert [(one.id, one.for_id) for one in decided.suspensions] == [("young", "urgent")]
    assert decided.decisions[0].host is None  # it comes when the room is there


def test_nobody_is_suspended_in_vain() -> None:
    for queue, residents in (
        ([vm("urgent", 9, priority=1)], (guest("a", 2),)),
        ([vm("equal", 2)], (guest("a", 2),)),
        ([vm("urgent", 2, priority=1, preemptible=True)], (guest("a", 2),)),
        ([vm("urgent", 2, priority=1, requirement='name == "h1"')], (guest("a", 2),)),
        ([vm("urgent", 2, priority=1)], (guest("a", 2, suspendable=False),)),
    ):
        decided = run(pool(0, residents=residents), queue, 10.0, policy=policy(preempt=True))
        assert not decided.suspensions


def test_room_is_made_once() -> None:
    making = pool(0, residents=(guest("a", 2),), making_room=frozenset({"urgent"}))
    decided = run(making, [vm("urgent", 2, priority=1)], 10.0, policy=policy(preempt=True))
    assert not decided.suspensions


# Reservations and backfill


def reserved(start: float, end: float, *, cpu: float = 4, count: int = 1, host: int = 0) -> Reserved:
    return Reserved("res", "web", count, cpu, 1024, start, end, slots={host: count})


def test_vm_does_not_start_where_it_would_make_a_reservation_late() -> None:
    decided = run(pool(4, reserved=(reserved(100, 200),)), [vm("a", 2)], 0.0)
    assert decided.decisions[0].host is None
    assert decided.reasons[0].tolist() == ["it is reserved in 1m40s"]


def test_short_vm_is_backfilled_before_a_reservation() -> None:
    short, long = vm("short", 2, runtime_s=30), vm("long", 2, since=1, runtime_s=300)
    decided = run(pool(4, reserved=(reserved(1000, 2000),)), [short, long], 800.0)
    assert [one.host for one in decided.decisions] == [0, None]


def test_preemptible_vm_is_backfilled_and_suspended_in_time() -> None:
    book = (reserved(1000, 2000),)
    waiting = vm("batch", 2, preemptible=True)
    assert run(pool(4, reserved=book), [waiting], 0.0).decisions[0].host == 0
    resident = guest("batch", 2)
    assert not run(pool(2, residents=(resident,), reserved=book), [], 900.0).suspensions
    suspended = run(pool(2, residents=(resident,), reserved=book), [], 950.0).suspensions
    assert [(one.id, one.for_id) for one in suspended] == [("batch", "res")]


def test_vm_of_a_reservation_takes_its_room_and_no_other_does() -> None:
    book = (reserved(0, 2000),)
    owner, other = vm("owner", 4, since=1, reservation="res"), vm("other", 1)
    decided = run(pool(4, reserved=book), [other, owner], 10.0)
    assert [one.host for one in decided.decisions] == [None, 0]


def test_reservation_waits_for_its_time() -> None:
    decided = run(pool(4, reserved=(reserved(100, 200),)), [vm("owner", 4, reservation="res")], 0.0)
    assert decided.reasons[0].tolist() == ["the VM's reservation starts in 1m40s"]


def test_aggressive_backfill_delays_the_first_that_waits_not_at_all() -> None:
    running = Resident("r", "web", 0, 3, 1024, since=0.0, runtime_s=1000.0, suspendable=True)
    first = vm("big", 4, runtime_s=500)
    late, quick = vm("late", 1, since=1, runtime_s=5000), vm("quick", 1, since=2, runtime_s=500)
    decided = run(pool(1, residents=(running,)), [first, late, quick], 100.0)
    assert [one.host for one in decided.decisions] == [None, None, 0]
    nobody = run(pool(1, residents=(running,)), [first, late, quick], 100.0, policy=policy(backfill="none"))
    assert [one.host for one in nobody.decisions] == [None, None, None]


def test_who_waits_for_its_reservation_or_its_own_host_holds_up_nobody() -> None:
    strict = policy(backfill="none")
    early = vm("early", 4, reservation="res")
    decided = run(
        pool(4, 4, reserved=(reserved(5000, 6000),)), [early, vm("a", 2, since=1)], 0.0, policy=strict
    )
    assert [one.host for one in decided.decisions] == [None, 1]
    saved = vm("saved", 4, only_host=0)
    decided = run(pool(2, 4), [saved, vm("a", 2, since=1)], 10.0, policy=strict)
    assert [one.host for one in decided.decisions] == [None, 0]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_reservation_is_ever_late(data: st.DataObject) -> None:
    """Days of arrivals on a few hosts: whenever a reservation starts, its room is free of everybody else."""
    many = data.draw(st.integers(1, 3))
    mode = data.draw(st.sampled_from(["none", "aggressive", "conservative"]))
    rules = policy(backfill=mode, preempt=True)
    capacity = np.full(many, 8.0)
    kept: list[Reserved] = []
    for number in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(2, 30)) * 60.0
        one = Reserved(
            f"res{number}", "web", data.draw(st.integers(1, 3)), float(data.draw(st.integers(1, 6))), 64,
            start, start + data.draw(st.integers(1, 20)) * 60.0,
        )  # fmt: skip
        book = Book(pool(*capacity).table, (), kept, 0.0)
        slots = book.room(one, np.ones(many, dtype=np.bool_))
        if slots is not None:
            kept.append(
                Reserved(one.id, one.project, one.count, one.cpu, 64, one.start, one.end, slots=slots)
            )
    residents: list[Resident] = []
    ends: dict[str, float] = {}
    queue: list[Waiting] = []
    for minute in range(40):
        now = minute * 60.0
        residents = [one for one in residents if ends[one.id] > now]
        for number in range(data.draw(st.integers(0, 2))):
            member = data.draw(st.sampled_from([None, None, *kept]))
            declared = data.draw(st.sampled_from([None, 120.0, 600.0, 1800.0]))
            queue.append(
                vm(
                    f"{minute:02}-{number}",
                    member.cpu if member else float(data.draw(st.integers(1, 8))),
                    since=now,
                    reservation=member.id if member else None,
                    preemptible=data.draw(st.booleans()),
                    runtime_s=declared,
                    priority=data.draw(st.integers(0, 2)),
                )
            )
        free = capacity.copy()
        for resident in residents:
            free[resident.host] -= resident.cpu
        decided = run(pool(*free, residents=tuple(residents), reserved=tuple(kept)), queue, now, policy=rules)
        gone = {one.id for one in decided.suspensions}
        residents = [one for one in residents if one.id not in gone]
        left = []
        for waiting, decision in zip(queue, decided.decisions, strict=True):
            if decision.host is None:
                left.append(waiting)
                continue
            request = waiting.request
            residents.append(
                Resident(
                    request.id, waiting.project, decision.host, request.cpu, request.mem_mb, since=now,
                    preemptible=waiting.preemptible, runtime_s=waiting.runtime_s, suspendable=True,
                    priority=waiting.priority, reservation=waiting.reservation,
                )
            )  # fmt: skip
            # It may run longer than it said: then it is suspended when its room is wanted.
            truth = data.draw(st.sampled_from([0.5, 1.0, 3.0]))
            ends[request.id] = now + (waiting.runtime_s or 3600.0) * truth
        queue = left
        used = np.zeros(many)
        for resident in residents:
            used[resident.host] += resident.cpu
        assert (used <= capacity).all()
        for reservation in kept:
            if reservation.start <= now < reservation.end:
                for host, count in reservation.slots.items():
                    inside = [
                        one for one in residents if (one.reservation, one.host) == (reservation.id, host)
                    ]
                    assert len(inside) <= count
                    used[host] += (count - len(inside)) * reservation.cpu
        assert (used <= capacity).all(), f"a reservation is late at {now}"


def test_reservation_of_what_cannot_be_suspended_is_followed_by_none_on_the_same_hardware() -> None:
    """Its VM may stand there after its end, and nobody may take it away: the next one would be late."""
    host = {"cpu_free": 9.0, "mem_free_mb": 9e4, "disk_free_gb": 9.0, "gpu_free": 1.0}
    table, everywhere = HostTable.from_rows([host]), np.ones(1, dtype=np.bool_)
    for gpus, next_one in ((1.0, None), (0.0, {0: 1})):
        first = Reserved("first", "web", 1, 5, 1024, 100.0, 200.0, gpus=gpus)
        book = Book(table, (), (), 0.0)
        kept = replace(first, slots=book.room(first, everywhere) or {})
        assert kept.slots == {0: 1}
        second = replace(first, id="second", start=200.0, end=300.0)
        assert Book(table, (), [kept], 0.0).room(second, everywhere) == next_one
        # In its time its own VM stands there, and a stranger does not.
        mine = Waiting(Request("mine", 5, 1024, gpus=gpus), "web", 0.0, reservation="first")
        stranger = Waiting(Request("theirs", 5, 1024, gpus=gpus), "web", 0.0)
        decided = run(Pool(table.copy(), reserved=[kept]), [stranger, mine], 150.0)
        assert [one.host for one in decided.decisions] == [None, 0]
        # One that is never suspended is not let in before, whatever it says of its runtime.
        short = Waiting(Request("short", 5, 1024, gpus=gpus), "web", 0.0, runtime_s=20.0)
        (early,) = run(Pool(table.copy(), reserved=[kept]), [short], 10.0).decisions
        assert early.host == (None if gpus else 0)
