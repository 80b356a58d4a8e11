"""Addresses: leased to a VM's NICs when it is placed at a site, and resting for a while when it leaves."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from functools import lru_cache

from sqlalchemy import ColumnElement, Text, cast, delete, func, or_, select
from sqlalchemy.orm import Session, lazyload

from broker import network
from broker.broker import Broker
from broker.store import AddressRow, NICRow, SubnetRow, VMRow, listed
from vpn.address import AddressError, Pool

_KEPT_S = 600.0
"""How long the free addresses of a subnet are kept before its addresses are read again, of which there may be many."""


class FreeAddresses:
    """The free addresses of subnets that a process keeps, so that a lease does not read a hundred thousand others.

    What was given back since is not among them: that rests for a while anyway. Who leases beside it is stopped by the
    constraint that an address is leased once.
    """

    def __init__(self, _broker: Broker) -> None:
        self.pools: dict[str, tuple[Pool, datetime]] = {}
        """Subnet id -> its free addresses, and when its addresses were read."""

    def forget(self) -> None:
        """Read all anew: a transaction that leased did not end well."""
        self.pools.clear()


class Leases:
    """Leases addresses in the caller's transaction: many of a subnet for the price of reading its addresses once, or not at all.

    ``vm_ids`` are the VMs that may be leased to. When the transaction fails, have ``FreeAddresses`` forget what it knows.
    """

    def __init__(self, broker: Broker, session: Session, vm_ids: Sequence[str]) -> None:
        self._broker = broker
        self._session = session
        self._subnets = {(row.network_id, row.site_id): row for row in session.scalars(select(SubnetRow))}
        self._free = broker.part(FreeAddresses)
        self._read: set[str] = set()
        """Subnets whose addresses were read in this transaction."""
        self._nics: dict[str, list[NICRow]] = defaultdict(list)
        """VM id -> its NICs, in order."""
        query = select(NICRow).options(lazyload("*")).where(NICRow.vm_id.in_(vm_ids))
        for nic in session.scalars(query.order_by(NICRow.vm_id, NICRow.position)):
            self._nics[nic.vm_id].append(nic)

    def lease(self, vm: VMRow, site_id: str) -> None:
        """Lease an address per NIC at a site, all or none. Leasing again changes nothing.

        Raises AddressError when a subnet is missing, full, or the wanted address is not to be had.
        """
        made: list[tuple[Pool, NICRow, AddressRow]] = []
        try:
            for nic in self._nics[vm.id]:
                subnet = self._subnets.get((nic.network_id, site_id))
                if subnet is None:
                    raise AddressError("this site has no subnet of the VM's network")
                if nic.subnet_id == subnet.id:
                    continue
                pool, address = self._take(subnet, nic.wanted_address)
                row = AddressRow(
                    id=self._broker.new_id("addr"),
                    subnet_id=subnet.id,
                    address=address,
                    nic_id=nic.id,
                    position=0,
                    rests_until=None,
                )
                made.append((pool, nic, row))
        except AddressError:
            for pool, _, row in made:
                pool.give_back(row.address)
            raise
        for _, nic, row in made:
            nic.subnet_id = row.subnet_id
            self._session.add(row)

    def _take(self, subnet: SubnetRow, wanted: str | None) -> tuple[Pool, str]:
        """A free address of a subnet, and the pool that it is from. One that is not there is looked for in the
        addresses of now."""
        now = self._broker.clock.now()
        pool, read_at = self._free.pools.get(subnet.id, (None, now))
        old = (now - read_at).total_seconds() > _KEPT_S or not self._broker.store.changes.whole
        if pool is None or (old and subnet.id not in self._read):
            pool = self._pool(subnet)
        try:
            return pool, pool.take(wanted)
        except AddressError:
            if subnet.id in self._read:
                raise
        pool = self._pool(subnet)
        return pool, pool.take(wanted)

    def _pool(self, subnet: SubnetRow) -> Pool:
        """The free addresses of a subnet, read now."""
        self._session.flush()  # what was leased in this transaction is taken too
        self._session.execute(
            # Those that have rested are of no NIC; the condition is as the index has it.
            delete(AddressRow).where(
                AddressRow.subnet_id == subnet.id, AddressRow.rests_until <= self._broker.clock.now()
            ),
            execution_options={"changes": [f"address:{subnet.id}"]},
        )
        pool = _pool_of(subnet, _taken(self._session, AddressRow.subnet_id == subnet.id))
        self._free.pools[subnet.id] = pool, self._broker.clock.now()
        self._read.add(subnet.id)
        return pool


def refusal(broker: Broker, session: Session, subnet: SubnetRow, wanted: str) -> str:
    """Why an address of a subnet that a VM asks for is not to be had now; empty when it is."""
    taken = _taken(session, AddressRow.subnet_id == subnet.id, _in_use(broker))
    try:
        _pool_of(subnet, taken).take(wanted)
    except AddressError as error:
        return str(error)
    return ""


def free(
    broker: Broker, session: Session, among: Collection[str] | None = None
) -> dict[str, tuple[int, int]]:
    """Subnet id -> (its free addresses, those that there are to lease); ``among``: of these alone."""
    query = (
        select(SubnetRow.id, SubnetRow.cidr, SubnetRow.gateway, SubnetRow.reserved, func.count(AddressRow.id))
        .outerjoin(AddressRow, (AddressRow.subnet_id == SubnetRow.id) & _in_use(broker))
        .group_by(SubnetRow.id)
    )
    counts = session.execute(query if among is None else query.where(SubnetRow.id.in_(among)))
    found: dict[str, tuple[int, int]] = {}
    for subnet_id, cidr, gateway, reserved, used in counts:
        room = _room(cidr, gateway, tuple(reserved))
        found[subnet_id] = room - used, room
    return found


def release(broker: Broker, vm: VMRow) -> None:
    """Give a VM's addresses back, in the caller's transaction; each rests for a while, because WireGuard and ARP remember.

    Its NICs stay, in no subnet. Releasing again changes nothing.
    """
    until = broker.clock.now() + timedelta(seconds=broker.settings.timing.quarantine_s)
    for nic in vm.nics:
        for row in nic.addresses:
            row.rests_until = until
        nic.addresses, nic.subnet = [], None


def _taken(session: Session, *which: ColumnElement[bool]) -> list[str]:
    """Addresses, which may be a hundred thousand."""
    every: str = session.execute(select(cast(listed(AddressRow.address), Text)).where(*which)).scalar_one()
    found: list[str] = json.loads(every)
    return found


def _pool_of(subnet: SubnetRow, taken: Iterable[str]) -> Pool:
    reserved = (item for text in subnet.reserved for item in network.expand(text))
    return Pool(subnet.cidr, itertools.chain(taken, reserved), subnet.gateway)


@lru_cache(maxsize=4096)
def _room(cidr: str, gateway: str, reserved: tuple[str, ...]) -> int:
    """How many addresses a subnet has to lease; what is leased is never the gateway nor reserved."""
    return len(Pool(cidr, (item for text in reserved for item in network.expand(text)), gateway))


def _in_use(broker: Broker) -> ColumnElement[bool]:
    """Addresses of NICs, and those that rest."""
    return or_(
        AddressRow.nic_id.is_not(None),
        AddressRow.rests_until.is_(None),
        AddressRow.rests_until > broker.clock.now(),
    )
