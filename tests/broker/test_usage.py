"""Usage records and the budget that is counted from them."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from broker import burst, launch, policy, status, usage, vm, why
from broker.errors import InvalidRequest
from broker.policy import PolicyView
from broker.states import VMState
from broker.store import UsageRow, VMRow

if TYPE_CHECKING:
    from tests.broker.conftest import Stage

OPEN = """\
version: 1
burst:
  to: [cloud]
  open: {any: ['queue.length >= 0']}
  close: {all: ['queue.length < 0']}
  return: drain
budget: BUDGET
"""


def records(stage: Stage) -> list[UsageRow]:
    with stage.broker.store.reading() as session:
        return list(session.scalars(select(UsageRow).order_by(UsageRow.started_at, UsageRow.id)))


def apply(stage: Stage, budget: str) -> PolicyView:
    return policy.apply(stage.broker, stage.admin, OPEN.replace("BUDGET", budget))


def price(stage: Stage, row: VMRow) -> float:
    host = stage.vm(row.id).host
    assert host is not None
    return float(host.attributes["price_hour"])


def test_stay_on_a_host_is_recorded_from_claim_to_end(stage: Stage) -> None:
    row = stage.create("web")
    (record,) = records(stage)
    assert (record.vm_id, record.host, record.elastic, record.ended_at) == (
        row.id,
        stage.there(stage.vm(row.id).host).name,
        False,
        None,
    )
    stage.wait(60)
    stage.finish(vm.delete(stage.broker, stage.member, row.id)[1])
    (record,) = records(stage)
    assert (stage.there(record.ended_at) - record.started_at).total_seconds() >= 60


def test_burst_is_recorded_with_its_price(hybrid: Stage) -> None:
    row = hybrid.burst("web")
    (record,) = records(hybrid)
    assert (record.elastic, record.price_hour) == (True, price(hybrid, row))
    hybrid.finish(vm.delete(hybrid.broker, hybrid.member, row.id)[1])
    assert records(hybrid)[0].ended_at is not None


def test_every_claim_has_one_live_record_and_nobody_else_has(hybrid: Stage) -> None:
    hybrid.create("a"), hybrid.burst("b")
    gone = hybrid.burst("c")
    hybrid.finish(vm.delete(hybrid.broker, hybrid.member, gone.id)[1])
    with hybrid.broker.store.reading() as session:
        holders = set(
            session.scalars(
                select(VMRow.id).where(VMRow.host_id.is_not(None), VMRow.state != VMState.TERMINATED)
            )
        )
    live = [record.vm_id for record in records(hybrid) if record.ended_at is None]
    assert sorted(live) == sorted(holders)


def test_budget_keeps_a_burst_at_home_and_says_why(hybrid: Stage) -> None:
    apply(hybrid, "{hourly: 0.0001}")
    row, task = hybrid.request("web", requirements="elastic")
    hybrid.drive(task, most_s=30)
    assert hybrid.vm(row.id).host is None
    explanation = why.why(hybrid.broker, hybrid.reader, row.id).explanation
    told = " ".join(term.text for site in explanation.sites for term in site.terms)
    assert "budget.hourly: 0.00 of 0.0001 USD an hour are in use" in told


def test_budget_closes_the_burst_for_the_next_vm(hybrid: Stage) -> None:
    first = hybrid.burst("first")
    apply(hybrid, f"{{hourly: {price(hybrid, first)}}}")
    second, task = hybrid.request("second", requirements="elastic")
    hybrid.drive(task, most_s=30)
    assert hybrid.vm(first.id).state == VMState.RUNNING
    assert hybrid.vm(second.id).host is None
    assert "budget.hourly" in hybrid.vm(second.id).status_reason


def test_spent_budget_sends_a_vm_home_though_the_burst_is_open(hybrid: Stage) -> None:
    row = hybrid.burst("web")
    apply(hybrid, f"{{monthly: {10 * price(hybrid, row)}}}")
    hybrid.finish_all()
    assert hybrid.vm(row.id).state == VMState.RUNNING
    hybrid.wait(9.95 * 3600)
    burst.tick(hybrid.broker)
    hybrid.finish_all()
    assert hybrid.vm(row.id).state == VMState.TERMINATED
    assert "budget.monthly.hard" in hybrid.vm(row.id).status_reason
    spent = sum(
        hybrid.there(record.price_hour)
        * (hybrid.there(record.ended_at) - record.started_at).total_seconds()
        / 3600
        for record in records(hybrid)
    )
    assert spent <= 10 * record_price(hybrid)


def record_price(stage: Stage) -> float:
    return stage.there(records(stage)[0].price_hour)


def test_policy_shows_what_is_spent(hybrid: Stage) -> None:
    row = hybrid.burst("web")
    apply(hybrid, "{monthly: {soft: 400, hard: 500}}")
    shown = policy.show(hybrid.broker, hybrid.reader).budget
    assert shown.startswith(f"0.00 of 500 USD spent this month, {price(hybrid, row):.2f} an hour")


def test_what_was_used_a_half_life_ago_counts_half(stage: Stage) -> None:
    row = stage.create("web", flavor_ref="small")
    stage.wait(3600)
    stage.finish(vm.delete(stage.broker, stage.member, row.id)[1])

    def used() -> float:
        with stage.broker.store.reading() as session:
            return usage.decayed(stage.broker, session, 3600.0)[stage.vm(row.id).project.name]

    before = used()
    stage.wait(3600)
    assert used() == pytest.approx(before / 2, rel=0.01)


def test_anti_affine_pair_is_kept_apart_by_the_broker(stage: Stage) -> None:
    rule = {"kind": "anti-affinity", "group": "db", "scope": "host", "hard": True, "skew": 1}
    wishes = launch.Wishes(affinity=[rule])
    first, second = (stage.create(name, wishes=wishes) for name in ("db-1", "db-2"))
    assert stage.vm(first.id).host_id != stage.vm(second.id).host_id
    third, task = stage.request("db-3", wishes=wishes)
    stage.drive(task, most_s=30)
    assert stage.vm(third.id).host is None
    told = " ".join(
        term.text
        for site in why.why(stage.broker, stage.reader, third.id).explanation.sites
        for term in site.terms
    )
    assert 'anti-affinity: a VM of group "db" is on the same host' in told


def test_usage_is_reported_by_project_and_site_with_its_cost(hybrid: Stage) -> None:
    stage = hybrid
    home, away = stage.create("home", requirements="!elastic"), stage.burst("away")
    stage.request("theirs", actor=stage.outsider, requirements="!elastic")
    stage.finish_all()
    stage.wait(3600)
    stage.finish(vm.delete(stage.broker, stage.member, home.id)[1])
    stage.wait(3600)
    mine = usage.report(stage.broker, stage.member)
    assert [(view.site, view.vms, round(view.held.vms)) for view in mine] == [
        ("campus", 1, 1),
        ("cloud", 1, 2),
    ]
    campus, cloud = mine
    assert round(campus.held.vcpus) == 2
    assert campus.cost == 0
    assert campus.unpriced_hours == campus.held.vms
    assert cloud.cost == pytest.approx(cloud.held.vms * price(stage, away))
    assert cloud.unpriced_hours == 0
    assert len({view.project for view in usage.report(stage.broker, stage.admin)}) == 2
    now = stage.clock.now()
    late = usage.report(stage.broker, stage.member, since=now - timedelta(minutes=30), until=now)
    assert [(view.site, round(view.held.vms, 2)) for view in late] == [("cloud", 0.5)]


def test_empty_time_is_refused(stage: Stage) -> None:
    now = stage.clock.now()
    with pytest.raises(InvalidRequest, match="is empty"):
        usage.report(stage.broker, stage.member, since=now, until=now - timedelta(hours=1))
    with pytest.raises(InvalidRequest, match="time zone"):
        usage.report(stage.broker, stage.member, until=now.replace(tzinfo=None))


def test_budget_is_told_to_admins_in_all_and_to_others_for_their_project(hybrid: Stage) -> None:
    stage = hybrid
    assert status.budget(stage.broker, stage.admin) is None
    apply(stage, "{monthly: {hard: 500, per_project: 100}}")
    stage.burst()
    stage.wait(3600)
    everything = status.budget(stage.broker, stage.admin)
    mine = status.budget(stage.broker, stage.member)
    assert everything is not None
    assert mine is not None
    assert (everything.limit, mine.limit) == (500, 100)
    assert everything.currency == "USD"
    assert 0 < everything.spent <= everything.bound <= everything.forecast
    assert (everything.rate, mine.rate) == (0.2, 0.2)
    assert mine.spent == everything.spent
