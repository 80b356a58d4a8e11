"""Flavors with something of their host for themselves: where such VMs go, and what they cannot do."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from broker import flavor, host, migration, network, power, queue, reservation, site, vm, why
from broker.errors import InvalidRequest, NoRoom, WrongState
from broker.launch import Wishes
from broker.size import Size
from placement.value import AttributeValue

if TYPE_CHECKING:
    from tests.broker.conftest import Stage

HARDWARE = {
    "cpu_total": 4.0,
    "mem_total_mb": 4096.0,
    "gpu_total": 2.0,
    "dedicated_cpu_total": 8.0,
    "vm_dedicated_cpu_max": 6.0,
    "hugepages_mb": 8192.0,
}


@pytest.fixture
def equipped(bare_stage: Stage) -> Stage:
    """One host with all of it, one with none."""
    stage = bare_stage
    stage.catalogue()
    for name, attributes in (("racks", HARDWARE), ("plain", {"cpu_total": 64.0})):
        stage.add_site(name, hosts=1, attributes=attributes)
    for part, name in enumerate(("racks", "plain")):
        network.add_subnet(
            stage.broker, stage.admin, "net", site_ref=name, cidr=f"10.20.{part}.0/24", mode="nat"
        )
    for name, what in (
        ("gpu", {"gpus": 1}),
        ("pinned", {"dedicated_cpus": True}),
        ("paged", {"hugepages": True}),
    ):
        flavor.create(
            stage.broker, stage.admin, name=name, size=Size(vcpus=4, mem_mb=4096, disk_gb=5, **what)
        )
    return stage


def free(stage: Stage, *names: str) -> list[AttributeValue]:
    (view,) = host.list_hosts(stage.broker, stage.admin, site_ref="racks")
    return [view.attributes[name] for name in names]


def test_each_kind_of_hardware_is_counted_apart(equipped: Stage) -> None:
    stage = equipped
    for name in ("pinned", "paged", "gpu"):
        row = stage.create(name, flavor_ref=name, requirements='site == "racks"' if name == "paged" else None)
        assert stage.there(stage.vm(row.id).site).name == "racks"
        if name == "pinned":
            # Its CPUs are its own, its memory is ordinary: nothing is left for the others but cores.
            assert free(stage, "cpu_free", "mem_free_mb", "dedicated_cpu_free") == [4, 0, 4]
            stage.finish(vm.delete(stage.broker, stage.member, name)[1])
        if name == "paged":
            assert free(stage, "cpu_free", "mem_free_mb", "hugepages_free_mb") == [0, 4096, 4096]
            stage.finish(vm.delete(stage.broker, stage.member, name)[1])
    assert free(stage, "gpu_free", "cpu_free", "mem_free_mb") == [1, 0, 0]


def test_vm_waits_for_hardware_and_is_told_which(equipped: Stage) -> None:
    stage = equipped
    flavor.create(
        stage.broker,
        stage.admin,
        name="wide",
        size=Size(vcpus=7, mem_mb=64, disk_gb=5, dedicated_cpus=True, hugepages=True),
    )
    row, _ = stage.request("wide", flavor_ref="wide")
    queue.place_pending(stage.broker)
    told = why.why(stage.broker, stage.member, row.id)
    terms = {term.text for site in told.explanation.sites for term in site.terms}
    assert {"vm_dedicated_cpu_max >= 7", "hugepages_free_mb >= 64"} <= terms
    assert stage.vm(row.id).host is None


def test_two_vms_of_one_round_do_not_get_the_same_gpu(equipped: Stage) -> None:
    stage = equipped
    flavor.create(stage.broker, stage.admin, name="both", size=Size(vcpus=1, mem_mb=64, disk_gb=5, gpus=2))
    first, second = (stage.request(name, flavor_ref="both")[0] for name in ("a", "b"))
    queue.place_pending(stage.broker)
    placed = [stage.vm(row.id).host is not None for row in (first, second)]
    assert placed == [True, False]


@pytest.mark.parametrize("name", ["gpu", "pinned", "paged"])
def test_what_is_tied_to_its_host_is_neither_suspended_nor_moved(equipped: Stage, name: str) -> None:
    stage = equipped
    row = stage.create("web", flavor_ref=name)
    with pytest.raises(WrongState, match="cannot suspend web: it has"):
        power.suspend(stage.broker, stage.member, row.id)
    with pytest.raises(WrongState, match="cannot migrate web: it has"):
        migration.migrate(stage.broker, stage.admin, row.id)
    with pytest.raises(InvalidRequest, match="cannot be preemptible"):
        stage.request("other", flavor_ref=name, wishes=Wishes(preemptible=True))
    plan = migration.drain(
        stage.broker, stage.admin, f"{stage.there(row.site).name}/{stage.there(row.host).name}"
    )
    assert [vm_name for vm_name, _ in plan.stuck] == ["web"]


def test_reservation_of_hardware_is_kept_for_vms_with_it(equipped: Stage) -> None:
    stage = equipped
    end = stage.clock.now() + timedelta(hours=1)
    made = reservation.create(
        stage.broker,
        stage.member,
        name="exam",
        flavor_ref="gpu",
        count=1,
        start_at=None,
        end_at=end,
        requirements=None,
    )
    with pytest.raises(NoRoom):
        reservation.create(
            stage.broker,
            stage.member,
            name="more",
            flavor_ref="gpu",
            count=2,
            start_at=None,
            end_at=end,
            requirements=None,
        )
    flavor.create(stage.broker, stage.admin, name="other", size=Size(vcpus=4, mem_mb=4096, disk_gb=5))
    with pytest.raises(InvalidRequest, match="has other GPUs"):
        stage.request("plain", flavor_ref="other", wishes=Wishes(reservation=made.id))
    row = stage.create("mine", flavor_ref="gpu", wishes=Wishes(reservation=made.id))
    assert stage.vm(row.id).gpus == 1


def test_instance_type_with_gpus_takes_vms_with_as_many_and_no_more(equipped: Stage) -> None:
    stage = equipped
    site.create(
        stage.broker,
        stage.admin,
        name="cloud",
        kind="simulated",
        options={
            "elastic": True,
            "zones": ["z1"],
            "types": {"g.small": {"vcpus": 4, "mem_mb": 8192, "price_hour": 1.0}},
        },
        attributes={"gpu_total": 1.0},
    )
    (view,) = host.list_hosts(stage.broker, stage.admin, site_ref="cloud")
    assert view.attributes["vm_gpus_max"] == 1.0
    assert view.attributes["gpu_free"] > 1000


def test_reserved_hardware_is_not_kept_once_more_when_its_vm_has_come(equipped: Stage) -> None:
    stage = equipped
    end = stage.clock.now() + timedelta(hours=1)
    flavor.create(
        stage.broker,
        stage.admin,
        name="half",
        size=Size(vcpus=4, mem_mb=1024, disk_gb=5, dedicated_cpus=True),
    )
    made = reservation.create(
        stage.broker, stage.member, name="exam", flavor_ref="half", count=1, start_at=None, end_at=end
    )
    stage.create("reserved", flavor_ref="half", wishes=Wishes(reservation=made.id))
    row, _ = stage.request("plain", flavor_ref="half")
    queue.place_pending(stage.broker)
    assert stage.there(stage.vm(row.id).site).name == "racks"
