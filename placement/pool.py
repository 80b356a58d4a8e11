"""What a round decides on: VMs that wait, VMs that hold room, and how they stand to each other.

Times are seconds since the epoch on one clock of the caller's; hosts are rows of the ``HostTable`` that goes with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from placement.request import Request
from placement.table import HostTable

Kind = Literal["affinity", "anti-affinity", "spread"]


@dataclass(frozen=True, slots=True)
class Rule:
    """How a VM stands to the others of its group: those of its project whose rules name the same ``group``.

    ``affinity``: in one scope with them; ``anti-affinity``: in another than each of them; ``spread``: no scope holds more
    than ``skew`` VMs of the group more than another. ``scope`` is ``host`` or the name of a host attribute (``rack``).
    A rule that is not ``hard`` is kept where that is possible.
    """

    kind: Kind
    group: str
    scope: str = "host"
    hard: bool = True
    skew: int = 1


@dataclass(frozen=True, slots=True)
class Waiting:
    """A VM that looks for a host.

    ``since``: from when on it waits. ``runtime_s``: how long it will run, None when nobody knows; ``deadline``: when it must
    have run. ``only_host``: the one host where it can be resumed. ``reservation``: in whose room it stands.
    ``local_only``: it may not burst.
    """

    request: Request
    project: str
    since: float
    priority: int = 0
    preemptible: bool = False
    runtime_s: float | None = None
    deadline: float | None = None
    rules: tuple[Rule, ...] = ()
    reservation: str | None = None
    only_host: int | None = None
    local_only: bool = False
    interruptions: int = 0


@dataclass(frozen=True, slots=True)
class Resident:
    """A VM that holds room on a host. ``since``: from when on. ``movable``: it runs, and its site can migrate it live;
    ``suspendable``: it runs, and its site can suspend it."""

    id: str
    project: str
    host: int
    cpu: float
    mem_mb: float
    disk_gb: float = 0.0
    gpus: float = 0.0
    since: float = 0.0
    priority: int = 0
    preemptible: bool = False
    runtime_s: float | None = None
    rules: tuple[Rule, ...] = ()
    reservation: str | None = None
    elastic: bool = False
    price_hour: float | None = None
    movable: bool = False
    suspendable: bool = False
    leaving: bool = False
    """It is being suspended now: it holds its room still, and will give it back in a moment."""
    dedicated_cpus: float = 0.0
    hugepages_mb: float = 0.0
    request: Request | None = None
    """What it asked for, as it would be asked again: needed to move it."""

    def ends(self, now: float) -> float:
        """When it will be gone as far as its owner said; infinity when nobody knows, or when it is overdue."""
        end = float("inf") if self.runtime_s is None else self.since + self.runtime_s
        return end if end > now else float("inf")


@dataclass(frozen=True, slots=True)
class Reserved:
    """Room that is kept for a project from ``start`` to ``end``: ``count`` VMs of one size.

    ``slots``: host -> how many of the VMs there is room kept for; empty when none was found yet.
    """

    id: str
    project: str
    count: int
    cpu: float
    mem_mb: float
    start: float
    end: float
    disk_gb: float = 0.0
    gpus: float = 0.0
    dedicated_cpus: float = 0.0
    hugepages_mb: float = 0.0
    requirement: str | None = None
    slots: Mapping[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class Pool:
    """All hosts with what is free on them now, and who holds the rest.

    ``usage``: what each project used lately, in core-seconds that count half after the policy's half-life; by name.
    """

    table: HostTable
    residents: Sequence[Resident] = ()
    reserved: Sequence[Reserved] = ()
    usage: Mapping[str, float] = field(default_factory=dict)
    suspends: NDArray[np.bool_] | None = None
    """The hosts where a VM can be suspended; None for all."""
    suspend_s: float = 60.0
    """How long before a reservation starts its room is made free."""
    making_room: frozenset[str] = frozenset()
    """Ids of those for whom somebody is being suspended just now."""
