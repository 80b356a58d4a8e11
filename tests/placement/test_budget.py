"""The budget: what is spent and bound, who may come, who must leave; and that the hard limit is never passed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement.budget import Charge, Ledger, month_of
from placement.policy import Budget, Cap, PolicyError, parse

HOUR = 3600.0
START, END = month_of(datetime(2026, 11, 10, tzinfo=UTC).timestamp())


def ledger(budget: Budget, *charges: Charge, now: float = START + 10 * HOUR, **more: float) -> Ledger:
    return Ledger(budget, charges, now, **more)  # type: ignore[arg-type]


def refused(book: Ledger, price: float, *, project: str = "web", urgent: bool = False) -> list[str]:
    return [why for passed, why in book.refusal(project, np.array([price]), urgent=urgent) if passed.any()]


def test_month_is_a_calendar_month_in_utc() -> None:
    assert datetime.fromtimestamp(START, UTC).isoformat() == "2026-11-01T00:00:00+00:00"
    assert datetime.fromtimestamp(END, UTC).isoformat() == "2026-12-01T00:00:00+00:00"


def test_account_says_what_is_spent_bound_and_forecast() -> None:
    charges = (Charge("a", "web", 2.0, START), Charge("b", "db", 1.0, START, START + HOUR))
    book = ledger(Budget(), *charges, tick_s=HOUR, grace_s=HOUR)
    account = book.account()
    assert (account.spent, account.bound, account.rate) == (21.0, 25.0, 2.0)
    assert account.forecast == pytest.approx(2 * 720 + 1)
    assert book.account("db").spent == 1.0


def test_period_that_has_begun_is_paid_for_whole() -> None:
    charge = Charge("a", "web", 6.0, START + 10.0, START + 20.0)
    assert ledger(Budget(), charge, billing_s=HOUR).account().spent == 6.0
    assert ledger(Budget(), charge).account().spent == pytest.approx(6 * 10 / HOUR)


def test_last_month_is_not_this_ones_business() -> None:
    old = Charge("a", "web", 1.0, START - 5 * HOUR, START + HOUR)
    assert ledger(Budget(), old).account().spent == 1.0


def test_hard_limit_keeps_the_next_one_out() -> None:
    book = ledger(Budget(monthly=Cap(None, 20.0)), Charge("a", "web", 2.0, START), tick_s=60, grace_s=600)
    assert refused(book, 1.0) == ["budget.monthly.hard: 20.37 of 20 USD are spent or bound"]


def test_soft_limit_lets_only_the_urgent_in() -> None:
    book = ledger(Budget(monthly=Cap(10.0, 500.0)), Charge("a", "web", 2.0, START))
    assert refused(book, 1.0) == ["budget.monthly.soft: 20.37 of 10 USD are spent or bound"]
    assert refused(book, 1.0, urgent=True) == []


def test_hourly_limit_counts_what_all_cost_together() -> None:
    book = ledger(Budget(hourly=Cap(None, 3.0)), Charge("a", "web", 2.0, START))
    assert refused(book, 1.0) == []
    assert refused(book, 1.5) == ["budget.hourly: 2.00 of 3 USD an hour are in use"]


def test_project_that_spent_its_part_waits_while_others_go_on() -> None:
    book = ledger(Budget(per_project=20.0), Charge("a", "web", 2.0, START))
    assert refused(book, 1.0) != []
    assert refused(book, 1.0, project="db") == []


def test_most_expensive_leaves_first_when_the_money_ends() -> None:
    charges = (Charge("cheap", "web", 0.1, START), Charge("dear", "web", 1.9, START))
    book = ledger(Budget(monthly=Cap(None, 20.4)), *charges, tick_s=600, grace_s=600)
    assert [vm_id for vm_id, _ in book.leavers()] == ["dear"]


def test_budget_of_a_policy_file_is_checked() -> None:
    burst = "burst: {to: [x], open: {any: ['queue.length > 1']}, close: {all: ['queue.length < 1']}}"
    for text, message in (
        ("budget: {monthly: {soft: 9, hard: 5}}", "3:19: the soft limit 9 is above the hard one 5"),
        ("budget: {monthly: {hard: 5, per_project: 9}}", "3:19: a project may spend 9"),
        ("budget: {hourly: -1}", "3:18: must be a number, 0 or more"),
        ("budget: {currency: EUR}", "3:9: budget limits nothing"),
        ("budget: {currency: euro, hourly: 1}", '3:20: "euro" is no currency'),
    ):
        with pytest.raises(PolicyError, match=message.replace("(", "\\(")):
            parse(f"version: 1\n{burst}\n{text}\n")
    found = parse(
        f"version: 1\n{burst}\nbudget: {{hourly: 5, monthly: {{hard: 9, per_project: {{web: 2}}}}}}\n"
    )
    assert found.budget is not None
    assert (found.budget.hourly, found.budget.project_cap("web"), found.budget.project_cap("db")) == (
        Cap(None, 5.0),
        2.0,
        None,
    )


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_hard_limit_is_never_passed(data: st.DataObject) -> None:
    """Whatever the order of prices, bursts and returns: arrivals at any time, looks at most ``tick_s`` apart, and each
    that is told to leave takes up to ``grace_s``."""
    tick_s, grace_s = 600.0, data.draw(st.sampled_from([60.0, 900.0, 5400.0]))
    billing_s = data.draw(st.sampled_from([None, 60.0, HOUR]))
    hard, own = data.draw(st.floats(0.5, 20)), data.draw(st.sampled_from([None, 0.3]))
    budget = Budget(monthly=Cap(None, hard), per_project=None if own is None else own * hard)
    # Near the end of a month as well, where two months' budgets count.
    now = data.draw(st.sampled_from([START + HOUR, END - 3 * HOUR]))
    charges: dict[str, Charge] = {}
    leaves: dict[str, float] = {}
    for step in range(data.draw(st.integers(1, 25))):
        for vm_id, when in list(leaves.items()):
            if when <= now:
                charges[vm_id] = replace(charges[vm_id], ended=min(when, now))
                del leaves[vm_id]
        book = Ledger(budget, charges.values(), now, billing_s=billing_s, tick_s=tick_s, grace_s=grace_s)
        for vm_id, _ in book.leavers():
            leaves.setdefault(vm_id, now + data.draw(st.floats(0, 1)) * grace_s)
        for vm_id, charge in charges.items():
            if charge.ended is None and vm_id not in leaves and data.draw(st.integers(0, 9)) == 0:
                leaves[vm_id] = now + data.draw(st.floats(0, 1)) * grace_s
        for number in range(data.draw(st.integers(0, 3))):
            price, project = data.draw(st.floats(0.01, 9)), data.draw(st.sampled_from(["web", "db"]))
            if not refused(book, price, project=project):
                charge = Charge(f"{step}-{number}", project, price, now)
                charges[charge.vm_id] = charge
                book.bought(charge)
        now += data.draw(st.floats(1, tick_s))
        for month in (START, END + HOUR):
            start, end = month_of(month)
            for whose in (None, "web", "db"):
                spent = sum(
                    replace(
                        charge,
                        ended=min(leaves[charge.vm_id], now) if charge.vm_id in leaves else charge.ended,
                    ).cost(start, end, now, billing_s)
                    for charge in charges.values()
                    if whose in (None, charge.project)
                )
                cap = hard if whose is None else budget.project_cap(whose)
                assert cap is None or spent <= cap + 1e-6
