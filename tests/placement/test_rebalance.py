"""Plans of migrations: what they reach, and what they must never do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from placement.pool import Pool, Reserved, Resident, Rule
from placement.rebalance import Limits, Plan, balance, drain, pack
from placement.request import Request
from placement.table import HostTable

ANY = Limits(rest_s=0)
CORES = 8.0


def resident(name: str, host: int, cpu: float = 2, **more: object) -> Resident:
    requirement = more.pop("requirement", None)
    known: dict[str, object] = {"movable": True, **more}
    request = Request(name, cpu, 1024, requirement=requirement)  # type: ignore[arg-type]
    return Resident(name, "web", host, cpu, 1024, request=request, **known)  # type: ignore[arg-type]


def pool(hosts: int, residents: list[Resident], **more: object) -> Pool:
    rows = [
        {
            "name": f"h{index}",
            "cpu_total": CORES,
            "cpu_free": CORES - sum(one.cpu for one in residents if one.host == index),
            "mem_total_mb": 65536.0,
            "mem_free_mb": 65536.0 - sum(one.mem_mb for one in residents if one.host == index),
        }
        for index in range(hosts)
    ]
    return Pool(HostTable.from_rows(rows), residents, **more)  # type: ignore[arg-type]


def anywhere(hosts: int) -> Callable[[Resident], NDArray[np.bool_]]:
    return lambda _: np.ones(hosts, dtype=np.bool_)


def moves(plan: Plan) -> list[tuple[str, int, int]]:
    return [(move.id, move.source, move.target) for move in plan.moves]


def test_balance_ends_when_no_move_evens_out_any_more() -> None:
    plan = balance(pool(2, [resident(f"v{n}", 0) for n in range(4)]), 0.0, anywhere(2), ANY)
    assert len(plan.moves) == 2
    assert plan.spread_after == 0 < plan.spread_before
    again = pool(2, [resident("a", 0), resident("b", 0), resident("c", 1), resident("d", 1)])
    assert balance(again, 0.0, anywhere(2), ANY).moves == []


def test_pack_empties_a_host_whole_or_leaves_it_alone() -> None:
    plan = pack(pool(2, [resident("a", 0, 6), resident("b", 1)]), 0.0, anywhere(2), ANY)
    assert moves(plan) == [("b", 1, 0)]
    assert (plan.hosts_before, plan.hosts_after) == (2, 1)
    half = pool(2, [resident("a", 0, 5), resident("b", 1, 2), resident("c", 1, 2)])
    assert pack(half, 0.0, anywhere(2), ANY).moves == []
    fixed = pool(2, [resident("a", 0, 2), resident("b", 1, 1), resident("c", 1, 1, movable=False)])
    assert ("b", 1, 0) not in moves(pack(fixed, 0.0, anywhere(2), ANY))


def test_drain_says_who_stays_and_why() -> None:
    residents = [
        resident("a", 0),
        resident("bound", 0, requirement='name == "h0"'),
        resident("off", 0, movable=False),
    ]
    plan = drain(pool(2, residents), 0, 0.0, anywhere(2), ANY)
    assert moves(plan) == [("a", 0, 1)]
    assert dict(plan.stuck).keys() == {"bound", "off"}
    assert "does not run" in dict(plan.stuck)["off"]


def test_rules_and_reservations_hold_for_moves() -> None:
    apart = (Rule("anti-affinity", "db"),)
    pair = [resident("a", 0, rules=apart), resident("b", 1, rules=apart)]
    assert drain(pool(2, pair), 0, 0.0, anywhere(2), ANY).moves == []
    kept = Reserved("res", "web", 1, CORES, 1024, 100.0, 200.0, slots={1: 1})
    assert drain(pool(2, [resident("a", 0)], reserved=[kept]), 0, 0.0, anywhere(2), ANY).moves == []


def test_vm_in_a_reservation_takes_its_room_along_and_nobody_elses() -> None:
    """Half of a host; the reservation lasts longer than what the others have reserved."""
    half = CORES / 2
    mine = Reserved("mine", "web", 1, half, 1024, -10.0, 1000.0, slots={0: 1})
    stands = resident("a", 0, half, reservation="mine")
    assert moves(drain(pool(2, [stands], reserved=[mine]), 0, 0.0, anywhere(2), ANY)) == [("a", 0, 1)]
    theirs = Reserved("theirs", "web", 1, CORES, 1024, 500.0, 600.0, slots={1: 1})
    plan = drain(pool(2, [stands], reserved=[mine, theirs]), 0, 0.0, anywhere(2), ANY)
    assert plan.moves == [], "it would be in the way of theirs, which may not be late"
    plan = drain(pool(3, [stands], reserved=[mine, theirs]), 0, 0.0, anywhere(3), ANY)
    assert moves(plan) == [("a", 0, 2)]
    bound = resident("a", 0, half, reservation="mine", requirement='name == "h0"')
    assert drain(pool(2, [bound], reserved=[mine]), 0, 0.0, anywhere(2), ANY).moves == []


@pytest.mark.parametrize(
    ("limits", "most"),
    [(Limits(rest_s=0, max_moves=1), 1), (Limits(rest_s=0, max_cost_s=25, mb_per_s=100), 2), (Limits(), 0)],
)
def test_limits_bound_a_plan(limits: Limits, most: int) -> None:
    plan = balance(pool(3, [resident(f"v{n}", 0, 1) for n in range(8)]), 60.0, anywhere(3), limits)
    assert len(plan.moves) <= most


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_plan_over_commits_nothing_in_any_order_and_moves_nobody_twice(data: st.DataObject) -> None:
    hosts = data.draw(st.integers(1, 4))
    residents: list[Resident] = []
    left = [CORES] * hosts
    for number in range(data.draw(st.integers(0, 10))):
        host, cpu = data.draw(st.integers(0, hosts - 1)), float(data.draw(st.integers(1, 4)))
        if left[host] >= cpu:
            left[host] -= cpu
            residents.append(resident(f"v{number}", host, cpu, movable=data.draw(st.booleans())))
    planner = data.draw(st.sampled_from([pack, balance]))
    plan = planner(pool(hosts, residents), 0.0, anywhere(hosts), ANY)
    known = {one.id: one for one in residents}
    assert len({move.id for move in plan.moves}) == len(plan.moves)
    for move in plan.moves:
        assert known[move.id].movable
        assert known[move.id].host == move.source != move.target
        left[move.target] -= known[move.id].cpu  # nothing is given back: the moves may come in any order
    assert min(left) >= 0
    assert plan.hosts_after <= plan.hosts_before or planner is balance
    assert planner is pack or plan.spread_after <= plan.spread_before + 1e-9
