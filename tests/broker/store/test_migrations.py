"""What is in a database of an older schema is there after the upgrade, on both databases."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from broker.ids import mac_of
from broker.states import PeerState
from broker.store import (
    AddressRow,
    FlavorRow,
    GatewayRow,
    KeyPairRow,
    NICRow,
    PeerRow,
    RequestRow,
    VMRow,
)

if TYPE_CHECKING:
    from tests.broker.store.conftest import Before


def test_vm_of_the_first_schema_is_there_after_the_upgrade(before: Callable[[str], Before]) -> None:
    then = before("0001")
    with then.store.transaction() as session:
        then.put(session, "project", id="prj")
        then.put(session, "image", id="img")
        then.put(session, "vm", id="vm", project_id="prj", image_id="img")
    then.store.upgrade()
    with then.store.reading() as session:
        (row,) = session.scalars(select(VMRow))
        assert (row.id, row.priority, row.affinity, row.interruptions) == ("vm", 0, [], 0)


def test_peers_and_gateways_of_before_are_kept_with_the_network_they_were_of(
    before: Callable[[str], Before],
) -> None:
    then = before("0004")
    opened, put = then.store, then.put

    def keep(session: Session) -> None:
        put(session, "project", id="prj")
        put(session, "image", id="img")
        put(session, "site", id="site")
        put(session, "vm", id="vm", project_id="prj", image_id="img")
        for name in ("a", "b"):
            put(session, "network", id=f"net-{name}")
            put(session, "gateway", id=f"gw-{name}", site_id="site", network_id=f"net-{name}", generation=7)
        for number, state in enumerate(["removed", "expired", "bootstrap"]):
            put(session, "peer", id=f"peer-{number}", gateway_id="gw-a", vm_id="vm", state=state)
        put(session, "peer", id="peer-3", gateway_id="gw-b", vm_id="vm", state="enrolled", rx_bytes=2**40)

    with opened.transaction() as session:
        keep(session)
        peers = then.tables["peer"].select().order_by(then.tables["peer"].c.id)
        were = [row._asdict() for row in session.execute(peers)]
    opened.upgrade()
    opened.upgrade()
    with opened.reading() as session:
        are = [row._asdict() for row in session.execute(peers)]
        assert are == were
        kept = session.scalars(select(PeerRow).order_by(PeerRow.id)).all()
        assert [row.network_id for row in kept] == ["net-a", "net-a", "net-a", "net-b"]
        gateways = session.scalars(select(GatewayRow).order_by(GatewayRow.id)).all()
        assert [
            (row.id, row.generation, row.document_versions, row.features, row.software, row.problems)
            for row in gateways
        ] == [("gw-a", 7, [1], [], "", []), ("gw-b", 7, [1], [], "", [])]
    # From now on a VM has one live end on a network.
    with pytest.raises(IntegrityError), opened.transaction() as session:
        session.get_one(PeerRow, "peer-1").state = PeerState.ENROLLED


def test_labels_client_tokens_and_requests_of_before_are_kept(before: Callable[[str], Before]) -> None:
    then = before("0006")
    opened, put = then.store, then.put

    labels = {
        "vm-1": {"tier": "web", 'a "b" \u00e9': "1", "aws:ec2:client-token": "t-1"},
        "vm-2": {},
        "vm-3": {"tier": ""},
    }
    with opened.transaction() as session:
        put(session, "project", id="prj")
        put(session, "image", id="img")
        for vm_id, given in labels.items():
            put(
                session,
                "vm",
                id=vm_id,
                name=vm_id,
                project_id="prj",
                image_id="img",
                labels=given,
                reservation="r-1" if vm_id < "vm-3" else "r-2",
            )
        put(session, "flavor", name="small")
        put(session, "flavor", name="large")
        put(session, "key_pair", project_id="prj", name="me")
        for key in ("k-1", "ec2:k-2"):
            put(
                session, "idempotency", project_id="prj", key=key, fingerprint=f"of {key}", resources=["vm-1"]
            )
    opened.upgrade()
    opened.upgrade()
    with opened.reading() as session:
        vms = session.scalars(select(VMRow).order_by(VMRow.id)).all()
        assert [(row.id, row.labels, row.client_token, row.launch_index) for row in vms] == [
            ("vm-1", {'a "b" \u00e9': "1", "tier": "web"}, "t-1", 0),
            ("vm-2", {}, None, 1),
            ("vm-3", {"tier": ""}, None, 0),
        ]
        flavors = session.scalars(select(FlavorRow).order_by(FlavorRow.name)).all()
        assert [row.name for row in flavors] == ["large", "small"]
        assert len({row.id for row in flavors}) == 2
        assert all(re.fullmatch(r"flv-[0-9a-f]{17}", row.id) for row in flavors)
        (pair,) = session.scalars(select(KeyPairRow)).all()
        assert re.fullmatch(r"key-[0-9a-f]{17}", pair.id)
        requests = session.scalars(select(RequestRow).order_by(RequestRow.token)).all()
        assert [(row.token, row.fingerprint, row.resources, row.created_at) for row in requests] == [
            ("ec2:k-2", "of ec2:k-2", ["vm-1"], then.now),
            ("k-1", "of k-1", ["vm-1"], then.now),
        ]
        assert len({row.id for row in requests}) == 2


def test_leases_of_before_are_nics_and_addresses(before: Callable[[str], Before]) -> None:
    then = before("0011")
    opened, put = then.store, then.put
    lease = then.tables["lease"]

    vms = {  # state, networks, wanted address
        "vm-running": ("running", ["net-b", "net-a"], "10.2.1.7"),
        "vm-burst": ("running", ["net-a"], None),
        "vm-stopped": ("stopped", ["net-a"], None),
        "vm-waiting": ("pending", ["net-a", "net-b"], "10.1.1.9"),
        "vm-failed": ("error", ["net-b"], None),
        "vm-gone": ("terminated", ["net-a", "net-b"], "10.1.1.2"),
        "vm-long-gone": ("terminated", ["net-removed"], None),
        "vm-bare": ("running", [], None),
    }
    leases = [  # digits, subnet, VM, position, until when it rests
        ("10.2.1.7", 1, "sub-b", "vm-running", 0, None),
        ("10.1.1.3", 2, "sub-a", "vm-running", 1, None),
        ("10.1.2.2", 3, "sub-cloud", "vm-burst", 0, None),
        ("10.1.1.4", 4, "sub-a", "vm-stopped", 0, None),
        ("10.1.1.2", 5, "sub-a", None, 0, then.now),
        ("10.2.1.2", 6, "sub-b", None, 1, then.now),
    ]

    def mac(address: str) -> str:
        return ":".join(["52", "54", *(f"{int(byte):02x}" for byte in address.split("."))])

    with opened.transaction() as session:
        put(session, "project", id="prj")
        put(session, "image", id="img")
        for name in ("home", "cloud"):
            put(session, "site", id=f"site-{name}")
        for name in "ab":
            put(session, "network", id=f"net-{name}")
            put(session, "subnet", id=f"sub-{name}", network_id=f"net-{name}", site_id="site-home")
        put(session, "subnet", id="sub-cloud", network_id="net-a", site_id="site-cloud", mode="tunnel")
        for vm_id, (state, networks, wanted) in vms.items():
            put(
                session,
                "vm",
                id=vm_id,
                name=vm_id,
                project_id="prj",
                image_id="img",
                state=state,
                networks=networks,
                wanted_address=wanted,
            )
        for address, number, subnet, holder, position, until in leases:
            put(
                session,
                "lease",
                id=f"eni-{number:017x}",
                subnet_id=subnet,
                address=address,
                mac=mac(address),
                vm_id=holder,
                position=position,
                rests_until=until,
            )
        assert len(session.execute(lease.select()).all()) == len(leases)
        gone = ("networks", "wanted_address")
        kept = [column for column in then.tables["vm"].columns if column.name not in gone]
        rows_of_vms = select(*kept).order_by("id")
        were = session.execute(rows_of_vms).all()
    opened.upgrade()
    opened.upgrade()
    with opened.reading() as session:
        assert session.execute(rows_of_vms).all() == were
        nics = session.scalars(select(NICRow).order_by(NICRow.vm_id, NICRow.position)).unique().all()
        assert [
            (row.vm_id, row.position, row.network_id, row.subnet_id, row.wanted_address, row.address)
            for row in nics
        ] == [
            ("vm-burst", 0, "net-a", "sub-cloud", None, "10.1.2.2"),
            ("vm-failed", 0, "net-b", None, None, None),
            ("vm-running", 0, "net-b", "sub-b", "10.2.1.7", "10.2.1.7"),
            ("vm-running", 1, "net-a", "sub-a", None, "10.1.1.3"),
            ("vm-stopped", 0, "net-a", "sub-a", None, "10.1.1.4"),
            ("vm-waiting", 0, "net-a", None, "10.1.1.9", None),
            ("vm-waiting", 1, "net-b", None, None, None),
        ]
        # What guests and EC2 know of a NIC stays as it was; one that had no lease yet is as a new one.
        for row in nics:
            if row.address is not None:
                assert row.mac == mac(row.address)
            else:
                assert re.fullmatch("nic-[0-9a-f]{17}", row.id)
                assert row.mac == mac_of(row.id)
        number_of = {address: number for address, number, *_ in leases}
        assert [row.id for row in nics if row.address] == [
            f"nic-{number_of[row.address]:017x}" for row in nics if row.address
        ]
        addresses = session.scalars(select(AddressRow).order_by(AddressRow.id)).all()
        nic_of = {row.address: row.id for row in nics if row.address}
        assert [
            (row.id, row.subnet_id, row.address, row.nic_id, row.position, row.rests_until)
            for row in addresses
        ] == [
            (f"addr-{number:017x}", subnet, address, nic_of.get(address) if vm_id else None, 0, until)
            for address, number, subnet, vm_id, _, until in leases
        ]
