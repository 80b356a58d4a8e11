"""NICs: there from a VM's creation to its end, with addresses while it is at a site."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from broker import network, power, vm
from broker.engine.spec import spec_of
from broker.ids import mac_of, random_id
from broker.store import AddressRow, NICRow, VMRow

if TYPE_CHECKING:
    from tests.broker.conftest import Stage


def rows(stage: Stage) -> list[NICRow]:
    with stage.broker.store.reading() as session:
        return list(session.scalars(select(NICRow).order_by(NICRow.id)).unique())


def addresses(stage: Stage) -> list[AddressRow]:
    with stage.broker.store.reading() as session:
        return list(session.scalars(select(AddressRow).order_by(AddressRow.id)).unique())


@pytest.fixture
def two_networks(stage: Stage) -> list[str]:
    network.create(stage.broker, stage.admin, name="storage", cidr="10.40.0.0/16")
    network.add_subnet(stage.broker, stage.admin, "storage", site_ref="campus", cidr="10.40.1.0/24")
    return ["storage", "net"]


def test_nics_are_there_before_the_vm_is_placed_and_stay_the_same(
    stage: Stage, two_networks: list[str]
) -> None:
    row, task = stage.request("web", networks=two_networks)
    asked = row.nics
    assert [(nic.network_name, nic.subnet, nic.address, nic.addresses) for nic in asked] == [
        ("storage", None, None, []),
        ("net", None, None, []),
    ]
    assert [nic.mac for nic in asked] == [mac_of(nic.id) for nic in asked]
    stage.finish(task)
    placed = stage.vm(row.id).nics
    assert [(nic.id, nic.mac) for nic in placed] == [(nic.id, nic.mac) for nic in asked]
    assert [(stage.there(nic.subnet).site.name, nic.address) for nic in placed] == [
        ("campus", "10.40.1.2"),
        ("campus", "10.20.1.2"),
    ]


def test_nics_end_with_their_vm_and_their_addresses_rest(stage: Stage) -> None:
    row = stage.create("web")
    kept = stage.create("other")
    stage.finish(vm.delete(stage.broker, stage.member, row.id)[1])
    assert [nic.vm_id for nic in rows(stage)] == [kept.id]
    assert stage.vm(row.id).nics == []
    resting = [one for one in addresses(stage) if one.nic_id is None]
    assert [one.address for one in resting] == [row.nics[0].address]
    assert stage.there(resting[0].rests_until) > stage.clock.now()


def test_vm_that_was_never_placed_leaves_no_nic(stage: Stage) -> None:
    row, _ = stage.request("web", requirements="cpu_total > 100000")
    stage.finish(vm.delete(stage.broker, stage.member, row.id)[1])
    assert rows(stage) == []
    assert addresses(stage) == []


def test_stopped_vm_keeps_its_nic_and_its_address(stage: Stage) -> None:
    row = stage.create("web")
    (before,) = row.nics
    stage.finish(power.stop(stage.broker, stage.member, row.id)[1])
    (after,) = stage.vm(row.id).nics
    assert (after.id, after.mac, after.address) == (before.id, before.mac, before.address)


def test_nic_may_have_several_addresses_of_which_the_first_is_primary(stage: Stage) -> None:
    row = stage.create("web")
    (nic,) = row.nics
    with stage.broker.store.transaction() as session:
        for position, text in ((2, "10.20.1.50"), (1, "10.20.1.60")):
            session.add(
                AddressRow(
                    id=stage.broker.new_id("addr"),
                    subnet_id=nic.subnet_id,
                    nic_id=nic.id,
                    position=position,
                    address=text,
                )
            )
    with stage.broker.store.reading() as session:
        spec = spec_of(stage.broker, session, session.get_one(VMRow, row.id))
    assert spec.nics[0].address == nic.address
    assert spec.nics[0].addresses == (nic.address, "10.20.1.60", "10.20.1.50")
    stage.finish(vm.delete(stage.broker, stage.member, row.id)[1])
    assert [one.nic_id for one in addresses(stage)] == [None] * 3
    assert rows(stage) == []


def test_vm_is_on_a_network_once(stage: Stage, two_networks: list[str]) -> None:
    row, _ = stage.request("web", networks=two_networks)
    with pytest.raises(IntegrityError), stage.broker.store.transaction() as session:
        session.add(
            NICRow(
                id="nic-1",
                vm_id=row.id,
                position=2,
                network_id=row.nics[0].network_id,
                mac="02:00:00:00:00:01",
            )
        )


def test_many_vms_of_one_request_have_each_its_own_nic(stage: Stage) -> None:
    from broker import launch

    made = launch.create_many(
        stage.broker, stage.member, count=20, name="web", image_ref="tiny", flavor_ref="small"
    )
    with stage.broker.store.reading() as session:
        assert session.scalar(select(func.count(NICRow.mac.distinct()))) == len(made)


def test_mac_is_unicast_local_and_not_the_one_of_the_hosts_end() -> None:
    macs = [mac_of(random_id("nic")) for _ in range(500)]
    for mac in macs:
        first, *others = (int(octet, 16) for octet in mac.split(":"))
        assert first & 0b11 == 0b10
        assert first != 0xFE
        assert len(others) == 5
    assert len(set(macs)) == len(macs)
    assert mac_of("nic-00000ffffffffffff") == "7e:ff:ff:ff:ff:ff"
