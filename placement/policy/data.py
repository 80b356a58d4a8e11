"""What a policy says, checked: plain values, and the mistakes of a file that says something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from placement.language import Expression

VERSION = 1

METRICS: dict[str, str] = {
    "queue.length": "VMs that wait for a host",
    "queue.wait_p95": "seconds that 95 % of the waiting VMs have waited at most",
    "queue.oldest": "seconds that the oldest waiting VM has waited",
    "local.cpu_used": "fraction of the local cores that VMs hold, 0 to 1",
    "local.mem_used": "fraction of the local memory that VMs hold, 0 to 1",
    "local.vms": "VMs on local hosts",
    "burst.vms": "VMs in clouds",
    "burst.vcpus": "vCPUs of the VMs in clouds",
}
"""What the conditions of ``open`` and ``close`` may read."""

FRACTIONS = frozenset({"local.cpu_used", "local.mem_used"})

VM_ATTRIBUTES = frozenset(
    {
        "id",
        "name",
        "project",
        "image",
        "flavor",
        "vcpus",
        "mem_mb",
        "disk_gb",
        "gpus",
        "dedicated_cpus",
        "hugepages",
        "labels",
        "priority",
        "runtime_s",
        "deadline",
    }
)
"""What ``vm.*`` may name in a policy."""

Return = Literal["drain", "recreate", "never"]
Backfill = Literal["none", "aggressive", "conservative"]
Interruption = Literal["relaunch", "fallback", "none"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: where it is, what is wrong and how to mend it. ``line`` and ``column`` count from 1."""

    file: str
    line: int
    column: int
    message: str
    mend: str = ""

    def __str__(self) -> str:
        mend = f" ({self.mend})" if self.mend else ""
        return f"{self.file}:{self.line}:{self.column}: {self.message}{mend}"


class PolicyError(ValueError):
    """A policy that cannot be used, with every mistake found, in the order of the file."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(map(str, problems)))


@dataclass(frozen=True, slots=True)
class Condition:
    """``any`` or ``all`` of some clauses over ``METRICS``; for ``close``, without a break for ``for_s`` seconds."""

    mode: Literal["any", "all"]
    clauses: tuple[Expression, ...]
    for_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Placement:
    """What holds for every VM: ``requirements`` is ANDed to its own, ``rank`` is for VMs without one."""

    requirements: Expression | None = None
    rank: Expression | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that may be in clouds at once, and ``per_hour`` be launched there in an hour; None is no limit."""

    vms: int | None = None
    vcpus: int | None = None
    per_hour: int | None = None


@dataclass(frozen=True, slots=True)
class ProjectBurst:
    """What holds for one project: the sites it may burst to, None for all of ``burst.to``, and limits of its own."""

    to: tuple[str, ...] | None = None
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class Cap:
    """Money: beyond ``soft`` nothing new is bought but for deadlines and priorities, ``hard`` is never passed."""

    soft: float | None = None
    hard: float | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be spent in clouds: in an hour (``hourly``: the rate of all VMs there together), and in a calendar month
    (UTC) in all and by each project. ``projects`` are the months' caps of projects that have one of their own."""

    currency: str = "USD"
    hourly: Cap = field(default_factory=Cap)
    monthly: Cap = field(default_factory=Cap)
    per_project: float | None = None
    projects: Mapping[str, float] = field(default_factory=dict)

    def project_cap(self, project: str) -> float | None:
        """The most that a project may spend in a month, None without a limit."""
        return self.projects.get(project, self.per_project)


@dataclass(frozen=True, slots=True)
class Spot:
    """Whether spare capacity is bought that a cloud may take back, and for at most which part of the on-demand price.

    ``on_interruption``: ``relaunch`` anywhere, ``fallback`` on demand, ``none``: the VM is gone. After
    ``max_interruptions`` a VM is bought on demand.
    """

    use: bool = False
    max_price_ratio: float = 1.0
    on_interruption: Interruption = "relaunch"
    max_interruptions: int = 3


@dataclass(frozen=True, slots=True)
class Deadline:
    """``slack_s``: so long before the last moment a VM with a deadline may burst though the burst is closed."""

    slack_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Queue:
    """In which order those that wait are looked at, and what may be done to make room for them.

    ``shares``: the fair share of projects that have not 1; what was used counts half after ``half_life_s``.
    ``aging_s``: waiting so long raises a VM by one priority, 0 never. ``repair``: how many moves a round may try for those
    it left behind. ``preempt``: whether preemptible VMs are suspended for VMs of higher priority. ``backfill``: who may
    start before a VM that waits for room: ``aggressive``: who does not delay the first that waits; ``conservative``: who
    delays nobody; ``none``: nobody.
    """

    shares: Mapping[str, float] = field(default_factory=dict)
    half_life_s: float = 86400.0
    aging_s: float = 3600.0
    repair: int = 0
    preempt: bool = False
    backfill: Backfill = "aggressive"

    def share(self, project: str) -> float:
        """A project's share."""
        return self.shares.get(project, 1.0)


@dataclass(frozen=True, slots=True)
class Burst:
    """When VMs may go to which sites, and how they come back. Durations in seconds.

    ``never`` is an expression over ``vm.*`` and ``site``: where it is true, the VM stays.
    ``billing_boundary_s``: a burst VM that may leave does so shortly before the next multiple of this age.
    """

    to: tuple[str, ...]
    open: Condition
    close: Condition
    never: Expression | None = None
    dwell_s: float = 0.0
    returns: Return = "drain"
    billing_boundary_s: float | None = None
    limits: Limits = field(default_factory=Limits)
    max_price_hour: float | None = None
    projects: Mapping[str, ProjectBurst] = field(default_factory=dict)

    def sites_of(self, project: str) -> tuple[str, ...]:
        """The sites that a project may burst to."""
        own = self.projects.get(project)
        return self.to if own is None or own.to is None else own.to


@dataclass(frozen=True, slots=True)
class Policy:
    """A checked policy. ``burst`` is None when the file has no such part: then no VM ever bursts."""

    version: int
    placement: Placement
    burst: Burst | None
    text: str
    filename: str
    queue: Queue = field(default_factory=Queue)
    budget: Budget | None = None
    spot: Spot = field(default_factory=Spot)
    deadline: Deadline | None = None

    def requirement_for(self, own: str | None) -> str | None:
        """A VM's requirement under this policy: its own and the policy's, both."""
        common = self.placement.requirements
        texts = [text for text in (own, common.text if common else None) if text]
        return " && ".join(f"({text})" for text in texts) if len(texts) > 1 else next(iter(texts), None)

    def rank_for(self, own: str | None) -> str | None:
        """A VM's rank under this policy: its own, else the policy's."""
        return own or (self.placement.rank.text if self.placement.rank else None)
