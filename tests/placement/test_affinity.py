"""Affinity, anti-affinity and spread, alone and in a round."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from placement.pool import Pool, Resident, Rule, Waiting
from placement.request import Request
from placement.round import run
from placement.table import HostTable


def hosts(*racks: str | None, cpu: float = 4.0) -> HostTable:
    return HostTable.from_rows(
        [
            {"name": f"h{i}", "rack": rack, "cpu_free": cpu, "mem_free_mb": 8192.0, "site": "home"}
            for i, rack in enumerate(racks)
        ]
    )


def vm(name: str, *rules: Rule, project: str = "web", rank: str | None = None, since: float = 0) -> Waiting:
    return Waiting(Request(name, 1, 1024, rank=rank), project, since, rules=rules)


def placed(table: HostTable, *queue: Waiting, residents: tuple[Resident, ...] = ()) -> list[int | None]:
    return [decision.host for decision in run(Pool(table, residents), queue, 0.0).decisions]


def test_anti_affine_pair_goes_to_two_hosts() -> None:
    rule = Rule("anti-affinity", "db")
    assert placed(hosts("a", "a"), vm("1", rule), vm("2", rule), vm("3", rule)) == [0, 1, None]


def test_why_names_the_group_that_is_in_the_way() -> None:
    rule = Rule("anti-affinity", "db")
    decided = run(Pool(hosts("a")), [vm("1", rule), vm("2", rule)], 0.0)
    assert decided.reasons[1].tolist() == ['anti-affinity: a VM of group "db" is on the same host']


def test_soft_anti_affinity_gives_way_when_there_is_no_other_host() -> None:
    rule = Rule("anti-affinity", "db", hard=False)
    assert placed(hosts("a", "a"), vm("1", rule), vm("2", rule), vm("3", rule)) == [0, 1, 0]


def test_soft_rule_goes_before_rank() -> None:
    rule = Rule("anti-affinity", "db", hard=False)
    table = HostTable.from_rows(
        [{"name": n, "w": w, "cpu_free": 4, "mem_free_mb": 9999} for n, w in (("a", 9), ("b", 1))]
    )
    assert placed(table, vm("1", rule, rank="w"), vm("2", rule, rank="w")) == [0, 1]


def test_affine_vms_share_a_rack() -> None:
    rule = Rule("affinity", "app", "rack")
    assert placed(hosts("a", "b", "b", cpu=1), vm("1", rule), vm("2", rule)) == [0, None]
    assert placed(hosts("b", "a", "b", cpu=1), vm("1", rule), vm("2", rule)) == [0, 2]


def test_host_without_the_scope_is_refused_by_a_hard_rule() -> None:
    rule = Rule("anti-affinity", "db", "rack")
    decided = run(Pool(hosts(None)), [vm("1", rule)], 0.0)
    assert decided.decisions[0].host is None
    assert decided.reasons[0].tolist() == ["anti-affinity: the host has no rack"]


def test_vm_that_wants_nobody_near_keeps_others_of_its_group_away() -> None:
    loner = Resident("r", "web", 0, 1, 1024, rules=(Rule("anti-affinity", "db"),))
    near = vm("1", Rule("affinity", "db", "rack", hard=False))
    assert placed(hosts("a", "a"), near, residents=(loner,)) == [1]


def test_groups_of_two_projects_are_two_groups() -> None:
    rule = Rule("anti-affinity", "db")
    assert placed(hosts("a"), vm("1", rule), vm("2", rule, project="other")) == [0, 0]


def test_spread_keeps_racks_even() -> None:
    rule = Rule("spread", "web", "rack")
    found = placed(hosts("a", "a", "b"), *[vm(str(i), rule) for i in range(4)])
    assert sorted("aab"[host] for host in found if host is not None) == ["a", "a", "b", "b"]


@settings(max_examples=150, deadline=None)
@given(
    racks=st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=8),
    count=st.integers(1, 12),
    skew=st.integers(1, 3),
    scope=st.sampled_from(["rack", "host"]),
)
def test_spread_is_never_wider_than_its_skew_and_leaves_nobody_without_need(
    racks: list[str | None], count: int, skew: int, scope: str
) -> None:
    rule = Rule("spread", "web", scope, skew=skew)
    found = placed(hosts(*racks, cpu=3), *[vm(f"{i:02}", rule) for i in range(count)])
    values = racks if scope == "rack" else [str(host) for host in range(len(racks))]
    inside: dict[str | None, int] = {value: 0 for value in values if value is not None}
    room = [0 if value is None else 3 for value in values]
    for host in found:
        open_to = [
            at
            for at, left in enumerate(room)
            if left and inside[values[at]] + 1 - min(inside.values()) <= skew
        ]
        if host is None:
            assert not open_to
            continue
        assert host in open_to
        inside[values[host]] += 1
        room[host] -= 1


RULES = st.builds(
    Rule,
    st.sampled_from(["affinity", "anti-affinity", "spread"]),
    st.sampled_from(["x", "y"]),
    st.sampled_from(["host", "rack"]),
    st.booleans(),
    st.integers(1, 2),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=6),
    st.lists(st.lists(RULES, max_size=2), max_size=10),
)
def test_no_hard_rule_is_ever_broken(racks: list[str | None], wishes: list[list[Rule]]) -> None:
    queue = [vm(f"{i:02}", *rules) for i, rules in enumerate(wishes)]
    found = placed(hosts(*racks), *queue)
    scope_of: dict[str, Sequence[str | int | None]] = {"host": range(len(racks)), "rack": racks}
    for at, (waiting, host) in enumerate(zip(queue, found, strict=True)):
        if host is None:
            continue
        for rule in waiting.rules:
            if not rule.hard:
                continue
            mine = scope_of[rule.scope][host]
            assert mine is not None
            earlier = [
                scope_of[rule.scope][other]
                for other, its in zip(found[:at], queue[:at], strict=True)
                if other is not None and any(one.group == rule.group for one in its.rules)
            ]
            if rule.kind == "anti-affinity":
                assert mine not in earlier
                later = [
                    scope_of[rule.scope][other]
                    for other, its in zip(found[at + 1 :], queue[at + 1 :], strict=True)
                    if other is not None and any(one.group == rule.group for one in its.rules)
                ]
                assert mine not in later
            if rule.kind == "affinity" and any(scope is not None for scope in earlier):
                assert mine in earlier
