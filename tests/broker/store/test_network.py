"""Networks of a database that was made before they had owners."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import delete, inspect, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from broker.store import AddressRow, GatewayRow, NetworkRow, NICRow, PeerRow, SubnetRow

if TYPE_CHECKING:
    from tests.broker.store.conftest import Before


def test_networks_of_before_are_the_brokers_own_and_shared_with_all_that_hangs_on_them(
    before: Callable[[str], Before],
) -> None:
    then = before("0020")
    opened, put = then.store, then.put
    tables = ("network", "subnet", "nic", "address", "gateway", "peer")

    def rows(session: Session, *names: str) -> dict[str, list[dict[str, Any]]]:
        return {
            name: [dict(row) for row in session.execute(then.tables[name].select().order_by("id")).mappings()]
            for name in names
        }

    with opened.transaction() as session:
        put(session, "project", id="prj")
        put(session, "image", id="img")
        for number in (1, 2):
            put(session, "site", id=f"site-{number}", name=f"s{number}")
        put(session, "vm", id="vm", project_id="prj", image_id="img")
        for number in (1, 2):
            put(session, "network", id=f"net-{number}", name=f"n{number}", cidr=f"10.{number}.0.0/16")
            for at in (1, 2):
                put(
                    session,
                    "subnet",
                    id=f"sub-{number}{at}",
                    network_id=f"net-{number}",
                    site_id=f"site-{at}",
                    cidr=f"10.{number}.{at}.0/24",
                    mode="tunnel" if at == 2 else "nat",
                    dns=["10.0.0.53"],
                    reserved=["10.1.1.2-10.1.1.9"],
                )
            put(
                session,
                "nic",
                id=f"nic-{number}",
                vm_id="vm",
                position=number,
                network_id=f"net-{number}",
                subnet_id=f"sub-{number}1",
            )
            put(
                session,
                "address",
                id=f"addr-{number}",
                subnet_id=f"sub-{number}1",
                address=f"10.{number}.1.2",
                nic_id=f"nic-{number}",
            )
            put(session, "gateway", id=f"gw-{number}", site_id="site-1", network_id=f"net-{number}")
            put(
                session,
                "peer",
                id=f"peer-{number}",
                gateway_id=f"gw-{number}",
                vm_id="vm",
                network_id=f"net-{number}",
                state="enrolled",
            )
        were = rows(session, *tables)
    opened.upgrade()
    opened.upgrade()
    with opened.reading() as session:
        assert rows(session, *tables) == were
        for kind in (NICRow, AddressRow, GatewayRow, PeerRow, SubnetRow, NetworkRow):
            assert len(session.scalars(select(kind)).unique().all()) >= 2
        kept = session.scalars(select(NetworkRow).order_by(NetworkRow.id)).all()
        assert [(row.project_id, row.visibility, len(row.subnets)) for row in kept] == [
            (None, "shared", 2),
            (None, "shared", 2),
        ]
    assert not [name for name in inspect(opened.engine).get_table_names() if name.endswith("_before")]
    # What refers to a network or a subnet still holds it.
    for row in (
        delete(SubnetRow).where(SubnetRow.id == "sub-11"),
        delete(NetworkRow).where(NetworkRow.id == "net-1"),
    ):
        with pytest.raises(IntegrityError), opened.transaction() as session:
            session.execute(row)
    # A name of the broker's own is there once, and a project may have it, too, once, with the same prefix.
    with pytest.raises(IntegrityError), opened.transaction() as session:
        session.get_one(NetworkRow, "net-1").name = "n2"
    with opened.transaction() as session:
        session.add(_network("net-8", then.now))
    with pytest.raises(IntegrityError), opened.transaction() as session:
        session.add(_network("net-9", then.now))
    with pytest.raises(IntegrityError), opened.transaction() as session:
        session.get_one(SubnetRow, "sub-12").cidr = "10.1.1.0/24"
    with opened.transaction() as session:
        session.get_one(SubnetRow, "sub-21").cidr = "10.1.1.0/24"


def _network(network_id: str, created_at: datetime) -> NetworkRow:
    return NetworkRow(
        id=network_id,
        name="n1",
        project_id="prj",
        visibility="private",
        cidr="10.1.0.0/16",
        created_at=created_at,
    )
