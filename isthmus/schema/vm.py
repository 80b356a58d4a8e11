"""A virtual machine."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from isthmus.schema._base import LABELS, Answer, Labels, Name, NewLabels, Request
from isthmus.schema.operation import Operation
from isthmus.schema.size import Size


class VMState(StrEnum):
    """States on the wire. What is going on inside a state is the operation's phase."""

    PENDING = "pending"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    SUSPENDING = "suspending"
    SUSPENDED = "suspended"
    MIGRATING = "migrating"
    SHUTTING_DOWN = "shutting-down"
    TERMINATED = "terminated"
    ERROR = "error"


class AffinityRule(Request):
    """Where a VM stands to the others of its group: the VMs of its project whose rules name the same ``group``.

    ``affinity``: in one ``scope`` with them; ``anti-affinity``: in another than each of them; ``spread``: evenly over the
    scopes, where no scope holds more than ``skew`` VMs more than another. A ``hard`` rule is kept or the VM waits; one
    that is not is kept where that is possible. ``scope`` is ``host`` or a host attribute: ``rack``, ``zone``, ``site``.
    """

    kind: Literal["affinity", "anti-affinity", "spread"]
    group: Annotated[str, StringConstraints(min_length=1, max_length=63)]
    scope: Annotated[str, StringConstraints(pattern="^[a-z][a-z0-9_]{0,62}$")] = "host"
    hard: bool = True
    skew: int = Field(default=1, ge=1, le=1000)


class NIC(Answer):
    """A VM's interface on one network, from the VM's creation to its end. ``subnet`` and ``address`` are None while the
    VM is placed nowhere; ``address`` is the first of ``addresses``, the primary one."""

    id: str = ""
    network: str
    subnet: str | None = None
    address: str | None = None
    addresses: list[str] = Field(default_factory=list)
    mac: str


class VM(Size):
    """A virtual machine. ``host`` is None until it is placed; ``elastic`` tells a burst VM."""

    id: str
    name: str
    project: str
    state: VMState
    status_reason: str = ""
    image: str
    flavor: str
    site: str | None = None
    host: str | None = None
    elastic: bool = False
    nics: list[NIC] = Field(default_factory=list)
    public_address: str | None = None
    key_pair: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    requirements: str | None = None
    rank: str | None = None
    priority: int = 0
    runtime_s: float | None = None
    deadline: datetime | None = None
    affinity: list[AffinityRule] = Field(default_factory=list)
    preemptible: bool = False
    immediate: bool = False
    interruptions: int = Field(default=0, description="How often a cloud took it back.")
    site_wanted: str | None = Field(default=None, description="The only site where it may be.")
    reservation: str | None = Field(
        default=None, description="Id of the reservation in whose room it stands."
    )
    provider_ref: str | None = None
    operation: str | None = None
    created_at: datetime
    launched_at: datetime | None = None
    enrolled_at: datetime | None = None
    terminated_at: datetime | None = None

    @property
    def address(self) -> str | None:
        """The private address of the first NIC; None while the VM is placed nowhere."""
        return self.nics[0].address if self.nics else None


class VMCreate(Request):
    """A request for one VM. Without ``networks`` it joins the only network there is."""

    name: Name
    image: str
    flavor: str
    networks: list[str] = Field(default_factory=list, max_length=8)
    address: str | None = Field(default=None, description="A free address of the first network to ask for.")
    key_pair: str | None = None
    user_data: str = Field(default="", max_length=12288, description="For cloud-init, plain text.")
    labels: NewLabels = Field(default_factory=dict)
    site: str | None = Field(default=None, description="The only site where it may be.")
    requirements: str | None = Field(default=None, max_length=4096)
    rank: str | None = Field(default=None, max_length=4096)
    priority: int = Field(default=0, ge=-100, le=100, description="Higher ones are placed first.")
    runtime_s: float | None = Field(
        default=None, gt=0, description="Seconds that it will run, as far as you know."
    )
    deadline: datetime | None = Field(default=None, description="When it must have run; needs `runtime_s`.")
    affinity: list[AffinityRule] = Field(default_factory=list, max_length=8)
    preemptible: bool = Field(default=False, description="It may be suspended to make room for others.")
    immediate: bool = Field(
        default=False, description="Start now or not at all: without room it ends in `error`."
    )
    reservation: str | None = Field(default=None, description="The reservation in whose room it is to stand.")


class VMUpdate(Request):
    """What may change on a VM at any time."""

    labels: Annotated[Labels, Field(max_length=50, description=LABELS)]


class VMStop(Request):
    """How to stop: ask the guest, or pull the plug."""

    force: bool = False


class VMMigrate(Request):
    """Where to: a host of the VM's site. Without one, the best for it."""

    host: str | None = None


class VMOperation(Answer):
    """A VM, and the operation that was started on it."""

    vm: VM
    operation: Operation


class Placement(Answer):
    """A host where a VM would be now. ``price_hour``: what an hour costs there, of a cloud's host."""

    site: str
    host: str
    elastic: bool = False
    rank: float | None = None
    price_hour: float | None = None


class DryRun(Answer):
    """What a request would do; nothing was changed. ``vm`` is as it would be: what does not exist yet has an empty id."""

    action: str = Field(description="The kind of operation, as `vm.create`.")
    vm: VM
    operation: str | None = Field(
        default=None, description="Id of the operation that is there already, where none would begin."
    )
    placement: Placement | None = Field(
        default=None, description="Where the VM would be created now, or moved to."
    )
    reason: str = Field(default="", description="Why it would be created nowhere as yet.")
    message: str = Field(description="All of it in a sentence.")


class Console(Answer):
    """The newest part of the serial console."""

    text: str


class Term(Answer):
    """One conjunct of the requirement and how many hosts it refused. ``undefined``: refused because an attribute is missing."""

    text: str
    refused: int
    undefined: int = 0


class NearestMiss(Answer):
    """The host that came closest, and what it lacks in words."""

    host: str
    lacks: list[str]


class SiteWhy(Answer):
    """What became of one site's hosts in the decision."""

    site: str
    hosts: int
    feasible: int
    terms: list[Term] = Field(default_factory=list)
    nearest: NearestMiss | None = None
    verdict: str


class Why(Answer):
    """Why a VM is where it is, or why it is nowhere."""

    vm: str
    placed: bool
    summary: str
    host: str | None = None
    rank: float | None = None
    runner_up: str | None = None
    runner_up_rank: float | None = None
    gap: float | None = Field(
        default=None, description="By how much the host's rank is above the runner-up's."
    )
    sites: list[SiteWhy] = Field(default_factory=list)
    policy: list[str] = Field(
        default_factory=list, description="The burst policy's clauses with their values."
    )
    admit: str = Field(default="", description="The smallest change that would admit a host.")
