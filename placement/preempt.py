"""Preemption: who is suspended so that a VM of higher priority finds room."""

from __future__ import annotations

from collections.abc import Sequence

from placement.column import Bools
from placement.pool import Resident, Waiting
from placement.size import CAPACITY, LIMITS, amounts
from placement.table import HostTable

_KEPT = "disk_free_gb"
"""A suspended VM keeps its disk."""


def victims(
    table: HostTable, waiting: Waiting, residents: Sequence[Resident], hosts: Bools
) -> list[Resident]:
    """The preemptible VMs to suspend on one of ``hosts``; empty when no such host would have room then.

    Only VMs of a lower priority than the one that waits. The fewest, then the least priority, then the youngest, so
    that the least work is interrupted; then the host of lowest index.
    """
    here: dict[int, list[Resident]] = {}
    for resident in residents:
        if resident.preemptible and resident.suspendable and resident.priority < waiting.priority:
            here.setdefault(resident.host, []).append(resident)
    best: list[Resident] = []
    for host in sorted(here):
        if not hosts[host] or not _fits_at_all(table, waiting, host):
            continue
        chosen = _on(table, waiting, host, here[host])
        if chosen and (not best or len(chosen) < len(best)):
            best = chosen
    return best


def _on(table: HostTable, waiting: Waiting, host: int, residents: list[Resident]) -> list[Resident]:
    lacks = {}
    for name, amount in waiting.request.needs():
        free = table.value(host, name)
        if amount > 0 and (not isinstance(free, float) or free < amount):
            if not isinstance(free, float) or name == _KEPT:
                return []
            lacks[name] = amount - free
    chosen: list[Resident] = []
    for resident in sorted(residents, key=lambda one: (one.priority, -one.since, one.id)):
        if not lacks:
            break
        gives = {**dict(zip(CAPACITY, amounts(resident), strict=True)), _KEPT: 0.0}
        if not any(gives[name] > 0 for name in lacks):
            continue
        chosen.append(resident)
        lacks = {name: lack - gives[name] for name, lack in lacks.items() if lack > gives[name]}
    if lacks:
        return []
    return chosen


def _fits_at_all(table: HostTable, waiting: Waiting, host: int) -> bool:
    for name, amount in waiting.request.needs():
        limit = table.value(host, LIMITS[name]) if name in LIMITS else None
        if isinstance(limit, float) and limit < amount:
            return False
    return True
