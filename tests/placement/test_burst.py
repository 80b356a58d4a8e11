"""Burst decisions: open, close, go, come back."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placement.burst import BurstState, BurstVM, CloudUse, decide, leavers, may_burst
from placement.policy import Policy, parse

TEXT = """version: 1
burst:
  to: [aws-eu, partner]
  open: {any: ['queue.wait_p95 > 60', 'local.cpu_used > 0.90']}
  close: {all: ['local.cpu_used < 0.60', 'queue.length == 0'], for: 15m}
  never: 'vm.labels["data"] == "restricted"'
  dwell: 20m
  limits: {vms: 3, vcpus: 8}
"""
POLICY = parse(TEXT)
OFF = parse("version: 1\n")
QUIET = {"queue.wait_p95": 0.0, "queue.length": 0.0, "local.cpu_used": 0.3}
BUSY = {"queue.wait_p95": 0.0, "queue.length": 2.0, "local.cpu_used": 0.95}
BETWEEN = {"queue.wait_p95": 0.0, "queue.length": 0.0, "local.cpu_used": 0.75}
CLOSED = BurstState(False, 0.0)
OPENED = BurstState(True, 0.0)


def variant(**lines: str) -> Policy:
    text = TEXT
    for key, line in lines.items():
        text += f"  {key}: {line}\n" if f"  {key}:" not in text else ""
        text = (
            "\n".join(f"  {key}: {line}" if old.startswith(f"  {key}:") else old for old in text.splitlines())
            + "\n"
        )
    return parse(text)


def test_closed_policy_opens_when_one_open_clause_holds() -> None:
    decision = decide(POLICY, CLOSED, BUSY, 100.0)
    assert decision.changed
    assert decision.state == BurstState(True, 100.0)
    assert decision.reason == "opened: local.cpu_used > 0.90 (now 0.95)"
    assert [(clause.text, clause.holds, clause.value) for clause in decision.open_clauses] == [
        ("queue.wait_p95 > 60", False, 0.0),
        ("local.cpu_used > 0.90", True, 0.95),
    ]


def test_closed_policy_stays_closed_between_the_thresholds() -> None:
    decision = decide(POLICY, CLOSED, BETWEEN, 100.0)
    assert not decision.changed
    assert decision.state == CLOSED
    assert decision.reason.startswith("closed: waits for one of queue.wait_p95 > 60 (now 0)")


def test_open_policy_closes_only_after_close_held_for_its_time_without_a_break() -> None:
    state, closed_at = OPENED, []
    for minute, metrics in enumerate([QUIET] * 10 + [BETWEEN] + [QUIET] * 20):
        decision = decide(POLICY, state, metrics, minute * 60.0)
        if decision.changed:
            closed_at.append(minute)
        state = decision.state
    assert closed_at == [11 + 15]
    assert state == BurstState(False, 26 * 60.0)


def test_close_without_for_closes_at_once() -> None:
    policy = variant(close="{all: ['local.cpu_used < 0.60']}")
    decision = decide(policy, OPENED, QUIET, 5.0)
    assert decision.changed
    assert decision.state == BurstState(False, 5.0)


def test_open_wins_while_both_hold_so_that_it_does_not_flap() -> None:
    both = {"queue.wait_p95": 90.0, "queue.length": 0.0, "local.cpu_used": 0.3}
    state = BurstState(True, 0.0, close_holds_since=1.0)
    decision = decide(POLICY, state, both, 10_000.0)
    assert (decision.changed, decision.state) == (False, BurstState(True, 0.0, None))


def test_missing_metric_neither_opens_nor_closes() -> None:
    assert decide(POLICY, CLOSED, {}, 1.0).state == CLOSED
    decision = decide(POLICY, OPENED, {"local.cpu_used": math.nan, "queue.length": 0.0}, 1.0)
    assert decision.state == OPENED
    assert [(clause.holds, clause.value) for clause in decision.close_clauses] == [(None, None), (True, 0.0)]


def test_clock_that_was_set_back_starts_the_wait_anew() -> None:
    state = BurstState(True, 0.0, close_holds_since=1_000_000.0)
    first = decide(POLICY, state, QUIET, 100.0)
    assert first.state.close_holds_since == 100.0
    assert decide(POLICY, first.state, QUIET, 1000.0).changed


def test_policy_without_burst_part_closes_what_was_open() -> None:
    decision = decide(OFF, OPENED, BUSY, 7.0)
    assert (decision.changed, decision.state) == (True, BurstState(False, 7.0))
    assert not decide(OFF, CLOSED, BUSY, 7.0).changed


metrics = st.fixed_dictionaries(
    {},
    optional={
        "queue.wait_p95": st.sampled_from([0.0, 61.0, 90.0]),
        "queue.length": st.sampled_from([0.0, 2.0]),
        "local.cpu_used": st.sampled_from([0.1, 0.59, 0.6, 0.75, 0.9, 0.91, math.nan]),
    },
)


@given(st.lists(st.tuples(st.floats(0.0, 1000.0), metrics), max_size=60))
def test_policy_never_opens_and_closes_at_once_nor_closes_before_its_time(
    steps: list[tuple[float, dict[str, float]]],
) -> None:
    state, now, quiet_since = CLOSED, 0.0, None
    for pause, values in steps:
        now += pause
        decision = decide(POLICY, state, values, now)
        opens = any(clause.holds for clause in decision.open_clauses)
        closes = all(clause.holds for clause in decision.close_clauses)
        quiet = closes and not opens
        quiet_since = (now if quiet_since is None else quiet_since) if state.open and quiet else None
        assert decision.changed == (decision.state.open != state.open)
        if decision.changed and decision.state.open:
            assert opens
        elif decision.changed:
            assert quiet
            assert quiet_since is not None
            assert now - quiet_since >= 900.0
        elif state.open:
            assert quiet_since is None or now - quiet_since < 900.0
        else:
            assert not opens
        if decision.changed:
            assert decision.state.since == now
            quiet_since = None
        state = decision.state


VM = {"vcpus": 2, "labels": {"data": "public"}}


def test_vm_may_burst_when_the_policy_is_open() -> None:
    assert may_burst(POLICY, OPENED, VM, CloudUse(1, 2), "aws-eu").ok


@pytest.mark.parametrize(
    ("policy", "state", "vm", "usage", "site", "reason"),
    [
        (OFF, OPENED, VM, CloudUse(), "aws-eu", "the policy has no burst part"),
        (POLICY, CLOSED, VM, CloudUse(), "aws-eu", "the burst policy is closed"),
        (POLICY, OPENED, VM, CloudUse(), "azure", 'site "azure" is not in burst.to (aws-eu, partner)'),
        (
            POLICY,
            OPENED,
            {"vcpus": 2, "labels": {"data": "restricted"}},
            CloudUse(),
            "aws-eu",
            'burst.never holds: vm.labels["data"] == "restricted"',
        ),
        (
            POLICY,
            OPENED,
            VM,
            CloudUse(3, 3),
            "aws-eu",
            "burst.limits.vms is 3: 3 in use, 1 more asked for",
        ),
        (
            POLICY,
            OPENED,
            VM,
            CloudUse(1, 7),
            "aws-eu",
            "burst.limits.vcpus is 8: 7 in use, 2 more asked for",
        ),
    ],
)
def test_vm_may_not_burst_and_is_told_why(
    policy: Policy, state: BurstState, vm: dict[str, object], usage: CloudUse, site: str, reason: str
) -> None:
    verdict = may_burst(policy, state, vm, usage, site)
    assert (verdict.ok, verdict.reason) == (False, reason)


def test_never_rule_can_name_the_site() -> None:
    policy = variant(never="'site == \"partner\"'")
    assert not may_burst(policy, OPENED, VM, CloudUse(), "partner").ok
    assert may_burst(policy, OPENED, VM, CloudUse(), "aws-eu").ok


VMS = [
    BurstVM("young", launched_at=9_000.0, vcpus=1, price_hour=9.0),
    BurstVM("cheap", launched_at=0.0, vcpus=1, price_hour=0.01),
    BurstVM("dear", launched_at=5_000.0, vcpus=4, price_hour=0.5),
    BurstVM("dear-and-old", launched_at=4_000.0, vcpus=2, price_hour=0.5),
    BurstVM("starting", launched_at=None, vcpus=1),
]


def test_burst_vms_leave_when_their_dwell_is_over_the_dearest_first_then_the_oldest() -> None:
    found = leavers(POLICY, CLOSED, VMS, 10_000.0)
    assert [(leaver.id, leaver.how) for leaver in found] == [
        ("dear-and-old", "drain"),
        ("dear", "drain"),
        ("cheap", "drain"),
    ]
    assert found[-1].reason == "the burst is closed and the VM stayed 2h46m40s, its dwell of 20m is over"


def test_burst_vm_stays_until_the_very_second_its_dwell_is_over() -> None:
    vm = BurstVM("a", launched_at=100.0, vcpus=1)
    assert leavers(POLICY, CLOSED, [vm], 1299.0) == []
    assert [leaver.id for leaver in leavers(POLICY, CLOSED, [vm], 1300.0)] == ["a"]


def test_nobody_leaves_while_the_policy_is_open_or_returns_never() -> None:
    assert leavers(POLICY, OPENED, VMS, 10_000.0) == []
    assert leavers(variant(**{"return": "never"}), CLOSED, VMS, 10_000.0) == []
    assert leavers(OFF, CLOSED, VMS, 10_000.0) == []


def test_recreate_brings_back_no_more_than_fits() -> None:
    policy = variant(**{"return": "recreate"})
    found = leavers(policy, CLOSED, VMS, 10_000.0, room=3.0)
    assert [(leaver.id, leaver.how) for leaver in found] == [
        ("dear-and-old", "recreate"),
        ("cheap", "recreate"),
    ]


@given(
    st.lists(st.tuples(st.floats(0, 1e5), st.integers(1, 8), st.floats(0, 10)), max_size=8),
    st.floats(0, 2e5),
    st.floats(0, 30),
)
def test_dwell_and_room_are_never_overstepped(
    vms: list[tuple[float, int, float]], now: float, room: float
) -> None:
    policy = variant(**{"return": "recreate"})
    burst_vms = [BurstVM(str(index), *vm) for index, vm in enumerate(vms)]
    found = leavers(policy, CLOSED, burst_vms, now, room)
    launched_at = {str(index): at for index, (at, _, _) in enumerate(vms)}
    by_id = {vm.id: vm for vm in burst_vms}
    assert all(now - launched_at[leaver.id] >= 1200.0 for leaver in found)
    assert sum(by_id[leaver.id].vcpus for leaver in found) <= room


def test_with_a_billing_boundary_a_vm_leaves_near_the_end_of_a_paid_period() -> None:
    policy = variant(billing_boundary="60m")
    ages = [age for age in range(0, 7300, 60) if leavers(policy, CLOSED, [BurstVM("a", 0.0, 1)], float(age))]
    assert ages == [*range(3300, 3600, 60), *range(6900, 7200, 60)]
