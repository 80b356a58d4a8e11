"""NICs: a VM's interfaces on its networks. Each is there from the VM's creation to its end, wherever the VM runs meanwhile."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from broker import address
from broker.broker import Broker
from broker.ids import mac_of
from broker.store import AddressRow, NetworkRow, NICRow, VMRow, listed, paired


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


_ADDRESSES = (
    select(AddressRow.address)
    .where(AddressRow.nic_id == NICRow.id)
    .order_by(AddressRow.position)
    .correlate(NICRow)
    .subquery()
)
_OF_VM = (
    select(
        paired(
            NICRow.id,
            NetworkRow.name.label("network"),
            NICRow.subnet_id.label("subnet"),
            select(AddressRow.address)
            .where(AddressRow.nic_id == NICRow.id)
            .order_by(AddressRow.position)
            .limit(1)
            .scalar_subquery()
            .label("address"),
            select(listed(_ADDRESSES.c.address)).scalar_subquery().label("addresses"),
            NICRow.mac,
        ).label("nic")
    )
    .join(NetworkRow, NetworkRow.id == NICRow.network_id)
    .where(NICRow.vm_id == VMRow.id)
    .order_by(NICRow.position)
    .correlate(VMRow)
    .subquery()
)
SHOWN = select(listed(_OF_VM.c.nic)).scalar_subquery()
"""What users see of a VM's NICs, in order, for a query of VMs: ``id``, ``network`` (its name), ``subnet`` (its id), ``address``,
``addresses``, ``mac``."""
