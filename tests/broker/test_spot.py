"""Spare capacity of a cloud: bought where the policy says so, and launched again when it is taken back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from broker import policy, vm, why
from broker.reconcile import reconcile
from broker.store import VMRow

if TYPE_CHECKING:
    from tests.broker.conftest import Stage

TYPES = {"t.small": {"vcpus": 2, "mem_mb": 2048, "price_hour": 0.05, "spot_price_hour": 0.02}}
POLICY = """\
version: 1
placement: {rank: '-price_hour'}
burst:
  to: [cloud]
  open: {any: ['queue.length >= 0']}
  close: {all: ['queue.length < 0']}
spot: {use: true, max_price_ratio: 0.6, SPOT}
"""


@pytest.fixture
def cloud(bare_stage: Stage) -> Callable[[str], Stage]:
    bare_stage.catalogue()
    bare_stage.add_local(hosts=1, cpus=2)
    bare_stage.add_cloud(types=TYPES)

    def rules(text: str) -> Stage:
        policy.apply(bare_stage.broker, bare_stage.admin, POLICY.replace("SPOT", text))
        return bare_stage

    return rules


def interrupt(stage: Stage, row: VMRow) -> VMRow:
    stage.worlds["cloud"].interrupt_vm(row.id)
    reconcile(stage.broker)
    stage.finish(stage.task_of(row))
    return stage.vm(row.id)


def test_spot_costs_less_and_is_taken_where_the_policy_lets_it(cloud: Callable[[str], Stage]) -> None:
    stage = cloud("on_interruption: relaunch")
    assert stage.there(stage.burst("cheap").host).name == "z1/t.small/spot"
    policy.apply(stage.broker, stage.admin, POLICY.replace("use: true", "use: false").replace(", SPOT", ""))
    row = stage.burst("sure")
    assert stage.there(row.host).name == "z1/t.small"
    assert "spot.use is not set" in str(why.why(stage.broker, stage.member, row.id).explanation)


def test_vm_that_is_taken_back_is_launched_again_until_it_has_been_often_enough(
    cloud: Callable[[str], Stage],
) -> None:
    stage = cloud("on_interruption: relaunch, max_interruptions: 2")
    row = stage.burst("web")
    first = row.nics[0].address
    row = interrupt(stage, row)
    assert (row.state, stage.there(row.host).name, row.interruptions) == ("running", "z1/t.small/spot", 1)
    assert len(stage.machines(row.id)) == 1
    assert row.nics[0].address != first, "an address rests before it is leased again"
    row = interrupt(stage, row)
    assert (row.state, stage.there(row.host).name, row.interruptions) == ("running", "z1/t.small", 2)
    assert stage.events(target=row.id).count("vm.interrupted") == 2
    assert stage.holdings(row.id) == {"machines": 1, "leases": 1, "peers": 1, "claims": 1}


def test_fallback_is_on_demand_at_once(cloud: Callable[[str], Stage]) -> None:
    stage = cloud("on_interruption: fallback")
    row = interrupt(stage, stage.burst("web"))
    assert (row.state, stage.there(row.host).name) == ("running", "z1/t.small")


def test_vm_that_is_taken_back_may_find_room_at_home(cloud: Callable[[str], Stage]) -> None:
    stage = cloud("on_interruption: relaunch")
    home = stage.create("home", rank="!elastic")
    row = stage.create("web", rank="!elastic")
    assert row.elastic
    stage.finish(vm.delete(stage.broker, stage.member, home.id)[1])
    row = interrupt(stage, row)
    assert (row.state, row.elastic) == ("running", False)


def test_policy_may_let_it_go(cloud: Callable[[str], Stage]) -> None:
    stage = cloud("on_interruption: none")
    row = interrupt(stage, stage.burst("web"))
    assert row.state == "terminated"
    assert stage.nothing_left(row.id)
