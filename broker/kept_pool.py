"""The pool that a process keeps: hosts with what is free on them and who holds it, refreshed by what has changed.

Reading 3,200 hosts and 60,000 VMs takes seconds, and deciding where a VM goes less than a millisecond. So a process
reads them once, and then only what the store says has changed (``broker.store.changes``). It is a cache and nothing
more: a claim that was decided on what is no longer so finds its host's generation changed, and everything is read
anew now and then.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from sqlalchemy import Select, case, select
from sqlalchemy.orm import Session

from broker import address, capability, host
from broker.broker import Broker
from broker.states import VMState
from broker.store import HostRow, ProjectRow, SubnetRow, VMRow
from broker.store.changes import ALL, SUBNETS
from placement.pool import Resident, Rule
from placement.table import HostTable
from providers.port import Capability

Mask = np.ndarray[Any, np.dtype[np.bool_]]
Reasons = np.ndarray[tuple[int], np.dtype[np.object_]]
"""Why not, per host; None where nothing speaks against it."""

_ANEW_S = 600.0
"""How often everything is read anew, whatever is said to have changed."""
_ROOMY = 0.2
_ROOMY_S = 10.0
"""A subnet with more than this part free is not counted again within so many seconds."""
_AT_ONCE = 500
"""Ids in one query."""

_SHARED_VCPUS = case((VMRow.dedicated_cpus, 0), else_=VMRow.vcpus)
_ORDINARY_MEM_MB = case((VMRow.hugepages, 0), else_=VMRow.mem_mb)
"""What a VM takes of the cores that all share, and of ordinary memory."""

_RESIDENTS = (
    select(
        VMRow.id,
        ProjectRow.name,
        VMRow.host_id,
        _SHARED_VCPUS,
        _ORDINARY_MEM_MB,
        VMRow.gpus,
        VMRow.vcpus - _SHARED_VCPUS,
        VMRow.mem_mb - _ORDINARY_MEM_MB,
        VMRow.priority,
        VMRow.affinity,
        VMRow.elastic,
        VMRow.state,
        VMRow.state_at,
        VMRow.preemptible,
        VMRow.runtime_s,
        VMRow.reservation_id,
    )
    .join(ProjectRow, ProjectRow.id == VMRow.project_id)
    .where(VMRow.host_id.is_not(None), VMRow.state != VMState.TERMINATED)
)


class KeptPool:
    """One process's. Everything that it hands out is as it was at the last ``refresh``; nobody changes it but that."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.lock = threading.RLock()
        self._read_at: float | None = None
        self.hosts: list[HostRow] = []
        """By site and name."""
        self.index: dict[str, int] = {}
        """Host id -> its index."""
        self.groups: list[list[int]] = []
        """Indexes of the hosts of each site, elastic ones apart."""
        self.table = HostTable.from_rows([])
        self.down: Reasons = np.full(0, None, dtype=np.object_)
        """Per host: why it takes no VMs at all."""
        self.suspends: Mask = np.zeros(0, dtype=np.bool_)
        """Per host: whether VMs can be suspended there."""
        self.subnets: dict[tuple[str, str], SubnetRow] = {}
        """By (network id, site id)."""
        self.full: set[str] = set()
        """Ids of subnets without a free address."""
        self._roomy: dict[str, float] = {}
        """Subnet id -> when it was seen to have plenty of free addresses (monotonic)."""
        self._attributes: list[dict[str, Any]] = []
        self._spent: dict[str, float] = {}
        """Site id -> vCPUs that VMs hold of all its elastic hosts together."""
        self._residents: dict[str, Resident] | None = None
        """None until somebody asks who is there."""

    def refresh(self, *, residents: bool = False) -> None:
        """Read what has changed; ``residents``: from now on also who holds room."""
        with self.lock:
            # Taken before anything is read: what changes meanwhile is read now or the next time, and never missed.
            names = self._broker.store.changes.take()
            try:
                with self._broker.store.reading() as session:
                    self._refresh(session, names, residents)
            except BaseException:
                self._read_at = None
                raise

    def residents(self) -> list[Resident]:
        """The VMs that hold room, as far as somebody asked for them."""
        return list((self._residents or {}).values())

    def table_without(self, row: VMRow) -> HostTable:
        """The table as if a VM held nothing."""
        number = self.index.get(row.host_id or "")
        if number is None or row.state in (VMState.TERMINATED, VMState.SUSPENDED):
            return self.table.copy()
        at = self.hosts[number]
        freed = self._view(at, host.Claims.of(at).without(row))
        now = [*self._attributes]
        now[number] = freed
        return self.table.following(self._attributes, now, only=[number]).copy()

    def _refresh(self, session: Session, names: set[str], residents: bool) -> None:
        now = time.monotonic()
        everything = self._read_at is None or ALL in names or now - self._read_at > _ANEW_S
        if everything or not self._read_hosts(session, _ids(names, "host:")):
            self._read_all_hosts(session)
            self._residents = None if self._residents is None else {}
            everything, self._read_at = True, now
        if everything or SUBNETS in names:
            rows = session.scalars(select(SubnetRow))
            self.subnets = {(row.network_id, row.site_id): row for row in rows}
            self._count(session, None)
        elif tight := self._tight(_ids(names, "address:")):
            self._count(session, tight)
        suspends = self._can_suspend()
        if not np.array_equal(suspends, self.suspends):
            self.suspends, everything = suspends, True
        if residents and self._residents is None:
            self._residents, everything = {}, True
        if self._residents is not None:
            self._read_residents(session, None if everything else _ids(names, "vm:"))

    def _count(self, session: Session, among: set[str] | None) -> None:
        """Count the free addresses of some subnets, or of all."""
        now = time.monotonic()
        found = address.free(self._broker, session, among)
        self.full = {
            *(self.full - found.keys() if among is not None else ()),
            *(subnet_id for subnet_id, (free, _) in found.items() if free <= 0),
        }
        for subnet_id, (free, room) in found.items():
            self._roomy[subnet_id] = now if free > room * _ROOMY else 0.0

    def _tight(self, leased: set[str]) -> set[str]:
        """Subnets to be counted again: full ones, in which addresses come free by themselves, and of those that were
        leased from the ones that are not known to have had plenty a short while ago."""
        now = time.monotonic()
        return self.full | {
            subnet_id for subnet_id in leased if now - self._roomy.get(subnet_id, 0.0) > _ROOMY_S
        }

    def _read_all_hosts(self, session: Session) -> None:
        self.hosts = list(session.scalars(select(HostRow).order_by(HostRow.site_id, HostRow.name)))
        self.index = {row.id: number for number, row in enumerate(self.hosts)}
        self.groups = _groups(self.hosts)
        self.down = np.full(len(self.hosts), None, dtype=np.object_)
        self.down[:] = [_why_down(row) for row in self.hosts]
        self._spent = {}
        for row in self.hosts:
            if row.elastic:
                self._spent[row.site_id] = self._spent.get(row.site_id, 0.0) + row.held_vcpus
        before, self._attributes = self._attributes, [self._view(row) for row in self.hosts]
        if len(before) == len(self._attributes):
            self.table = self.table.following(before, self._attributes)
        else:
            self.table = HostTable.from_rows(self._attributes)

    def _read_hosts(self, session: Session, ids: set[str]) -> bool:
        """Read some hosts anew. False when others are there than before: then all are to be read."""
        if not ids:
            return True
        found = list(_in_parts(session, select(HostRow), HostRow.id, ids))
        if {row.id for row in found} != ids or not ids <= self.index.keys():
            return False
        changed = {self.index[row.id] for row in found}
        for row in found:
            number = self.index[row.id]
            known = self.hosts[number]
            if (known.name, known.site_id, known.elastic) != (row.name, row.site_id, row.elastic):
                return False
            if row.elastic and row.held_vcpus != known.held_vcpus:
                # A cloud's room is its account's quota, over all its types.
                self._spent[row.site_id] += row.held_vcpus - known.held_vcpus
                members = next(group for group in self.groups if number in group)
                changed.update(members)
            self.hosts[number], self.down[number] = row, _why_down(row)
        before = self._attributes
        self._attributes = [*before]
        for number in changed:
            self._attributes[number] = self._view(self.hosts[number])
        self.table = self.table.following(before, self._attributes, only=sorted(changed))
        return True

    def _view(self, row: HostRow, held: host.Claims | None = None) -> dict[str, Any]:
        values = host.view(row, held).attributes
        if row.elastic:
            values["cpu_free"] = max(0.0, row.vcpus_total - self._spent.get(row.site_id, 0.0))
        return values

    def _can_suspend(self) -> Mask:
        found: Mask = np.zeros(len(self.hosts), dtype=np.bool_)
        for members in self.groups:
            at = self.hosts[members[0]]
            found[members] = not at.elastic and capability.has(self._broker, at.site, Capability.SUSPEND)
        return found

    def _read_residents(self, session: Session, ids: set[str] | None) -> None:
        """Read some VMs anew, or all."""
        kept = self._residents if self._residents is not None else {}
        if ids is None:
            kept.clear()
            rows: Iterable[Any] = session.execute(_RESIDENTS)
        elif ids:
            for vm_id in ids:
                kept.pop(vm_id, None)
            rows = _in_parts(session, _RESIDENTS, VMRow.id, ids, scalars=False)
        else:
            return
        for row in rows:
            resident = self._resident(*row)
            if resident is not None:
                kept[resident.id] = resident

    def _resident(
        self,
        vm_id: str,
        owner: str,
        at: str,
        vcpus: int,
        mem_mb: int,
        gpus: int,
        own_cpus: int,
        pages_mb: int,
        priority: int,
        rules: Sequence[Mapping[str, Any]],
        elastic: bool,
        state: str,
        state_at: Any,
        preemptible: bool,
        runtime_s: float | None,
        booked: str | None,
    ) -> Resident | None:
        number = self.index.get(at)
        if number is None:
            return None
        # What is suspended is near its neighbours, and takes nothing.
        asleep = state == VMState.SUSPENDED
        return Resident(
            vm_id,
            owner,
            number,
            0.0 if asleep else float(vcpus),
            0.0 if asleep else float(mem_mb),
            since=state_at.timestamp(),
            priority=priority,
            preemptible=preemptible,
            runtime_s=runtime_s,
            rules=tuple(Rule(**rule) for rule in rules),
            reservation=booked,
            elastic=elastic,
            suspendable=state == VMState.RUNNING
            and bool(self.suspends[number])
            and not (gpus or own_cpus or pages_mb),
            leaving=state == VMState.SUSPENDING,
            gpus=float(gpus),
            dedicated_cpus=float(own_cpus),
            hugepages_mb=float(pages_mb),
        )


def _why_down(row: HostRow) -> str | None:
    if row.takes_vms:
        return None
    return f"the host is {row.condition}" + (f": {row.status_reason}" if row.status_reason else "")


def _ids(names: set[str], prefix: str) -> set[str]:
    return {name.removeprefix(prefix) for name in names if name.startswith(prefix)}


def _in_parts(
    session: Session, query: Select[Any], column: Any, ids: set[str], *, scalars: bool = True
) -> Iterator[Any]:
    every = sorted(ids)
    for first in range(0, len(every), _AT_ONCE):
        found = session.execute(query.where(column.in_(every[first : first + _AT_ONCE])))
        yield from found.scalars() if scalars else found


def _groups(rows: Sequence[HostRow]) -> list[list[int]]:
    groups: dict[tuple[str, bool], list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault((row.site_id, row.elastic), []).append(index)
    return list(groups.values())
