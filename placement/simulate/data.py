"""What goes into a simulation, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from placement.pool import Rule

DAY_S = 86400.0


@dataclass(frozen=True, slots=True)
class Task:
    """A VM of a workload: asked for at ``at``, and done when it has run for ``runtime_s``; sizes as in ``Request``."""

    id: str
    project: str
    at: float
    runtime_s: float
    cpu: float
    mem_mb: float
    disk_gb: float = 0.0
    gpus: float = 0.0
    requirement: str | None = None
    priority: int = 0
    deadline: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    preemptible: bool = False


@dataclass(frozen=True, slots=True)
class Setting:
    """The world of a simulation. ``interruptions_hour``: how often in an hour a cloud takes a VM on spare capacity back, on
    average; the moments are drawn from ``seed``. ``boot_s`` and ``cloud_boot_s``: from placement until a VM works;
    ``tick_s``: how often the policy is looked at while anything may change; ``drain_s``: how long a VM takes to leave a cloud.

    ``epoch``: the moment at which the workload begins, in seconds since the Unix epoch: months are counted by it.
    """

    boot_s: float = 10.0
    cloud_boot_s: float = 90.0
    tick_s: float = 60.0
    drain_s: float = 60.0
    interruptions_hour: float = 0.05
    seed: int = 1
    epoch: float = 1_767_225_600.0


@dataclass(slots=True)
class Tally:
    """What came of the tasks of one project, or of all. Hours are VM hours; ``cost`` is in the policy's currency.

    ``drained`` were sent away by the policy before they were done; ``interrupted`` counts how often a cloud took one
    back, ``suspended`` how often one was suspended for others; ``missed`` were done after their deadline, or never.
    """

    tasks: int = 0
    placed: int = 0
    burst: int = 0
    drained: int = 0
    interrupted: int = 0
    suspended: int = 0
    with_deadline: int = 0
    missed: int = 0
    cost: float = 0.0
    burst_hours: float = 0.0
    waits: list[float] = field(default_factory=list)

    def wait(self, percent: float) -> float:
        """Seconds that so many percent of the tasks waited at most; those that never started waited to the end."""
        return float(np.percentile(self.waits, percent)) if self.waits else 0.0

    def figures(self) -> dict[str, float]:
        """All of it in plain numbers."""
        return {
            "tasks": self.tasks,
            "placed": self.placed,
            "unplaced": self.tasks - self.placed,
            "burst": self.burst,
            "drained": self.drained,
            "interrupted": self.interrupted,
            "suspended": self.suspended,
            "deadlines": self.with_deadline,
            "deadlines_missed": self.missed,
            "cost": self.cost,
            "burst_hours": self.burst_hours,
            "wait_p50_s": self.wait(50),
            "wait_p95_s": self.wait(95),
            "wait_p99_s": self.wait(99),
        }


@dataclass(frozen=True, slots=True)
class Sample:
    """The world at a moment."""

    time: float
    queue: int
    local_used: float
    burst_vms: int
    cost: float
    open: bool


@dataclass(slots=True)
class Result:
    """What a policy did with a workload. ``flips``: the moments at which the burst opened or closed."""

    total: Tally
    projects: dict[str, Tally]
    flips: list[float]
    days: float
    peak_queue: int
    samples: list[Sample]

    @property
    def flips_per_day(self) -> float:
        """On average over the workload."""
        return len(self.flips) / self.days if self.days else 0.0

    @property
    def most_flips_a_day(self) -> int:
        """In the worst 24 hours."""
        most = first = 0
        for last, time in enumerate(self.flips):
            while self.flips[first] <= time - DAY_S:
                first += 1
            most = max(most, last - first + 1)
        return most

    def figures(self) -> dict[str, Any]:
        """All of it in plain numbers, for JSON."""
        return {
            **self.total.figures(),
            "days": self.days,
            "flips": len(self.flips),
            "flips_per_day": self.flips_per_day,
            "most_flips_a_day": self.most_flips_a_day,
            "peak_queue": self.peak_queue,
            "projects": {name: tally.figures() for name, tally in sorted(self.projects.items())},
        }
