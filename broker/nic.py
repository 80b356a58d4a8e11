"""NICs: a VM's interfaces on its networks. Each is there from the VM's creation to its end, wherever the VM runs meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from broker import address
from broker.broker import Broker
from broker.ids import mac_of
from broker.store import AddressRow, Columns, NetworkRow, NICRow, VMRow


def make(broker: Broker, networks: Sequence[NetworkRow], wanted_address: str | None = None) -> list[NICRow]:
    """The NICs of a new VM, one on each of these networks, in order; the address is asked for on the first."""
    made: list[NICRow] = []
    for position, network in enumerate(networks):
        nic_id = broker.new_id("nic")
        row = NICRow(
            id=nic_id,
            position=position,
            network_id=network.id,
            network_name=network.name,
            mac=mac_of(nic_id),
            wanted_address=wanted_address if position == 0 else None,
            addresses=[],
        )
        row.subnet = None
        made.append(row)
    return made


def remove(broker: Broker, vm: VMRow) -> None:
    """Take the NICs of a VM away that is no more, and give its addresses back, in the caller's transaction.

    Removing again changes nothing.
    """
    address.release(broker, vm)
    vm.nics = []


def shown(session: Session, vm_ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """VM id -> what users see of its NICs, in order: ``id``, ``network`` (its name), ``subnet`` (its id), ``address``,
    ``addresses``, ``mac``."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in _SHOWN.read(session, _WITH_ADDRESSES.where(NICRow.vm_id.in_(vm_ids))):
        address_of = row.pop("address")
        mine = found.setdefault(row.pop("vm_id"), {})
        one = mine.setdefault(row["id"], row | {"address": address_of, "addresses": []})
        if address_of is not None:
            one["addresses"].append(address_of)
    return {vm_id: list(mine.values()) for vm_id, mine in found.items()}


_SHOWN = Columns(
    NICRow.vm_id,
    NICRow.id,
    NetworkRow.name.label("network"),
    NICRow.subnet_id.label("subnet"),
    NICRow.mac,
    AddressRow.address,
)
_WITH_ADDRESSES = (
    select(NICRow.id)
    .select_from(NICRow)
    .join(NetworkRow, NetworkRow.id == NICRow.network_id)
    .outerjoin(AddressRow, AddressRow.nic_id == NICRow.id)
    .order_by(NICRow.vm_id, NICRow.position, AddressRow.position)
)
