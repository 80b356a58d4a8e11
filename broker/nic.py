"""NICs: a VM's interfaces on its networks. Each is there from the VM's creation to its end, wherever the VM runs meanwhile."""

from __future__ import annotations

from collections.abc import Sequence

from broker import address
from broker.broker import Broker
from broker.ids import mac_of
from broker.store import NetworkRow, NICRow, VMRow


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
