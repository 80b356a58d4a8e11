"""A VM: what is asked for, and what a provider sees of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from providers.port.image import ImageSpec
from providers.port.network import NICSpec


class VMState(StrEnum):
    """What a provider sees of a VM, reduced to what every kind can tell."""

    PENDING = "pending"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    SUSPENDED = "suspended"
    """Its memory is saved on disk: it holds neither cores nor memory, and ``start_vm`` goes on from there."""
    TERMINATING = "terminating"
    TERMINATED = "terminated"
    ERROR = "error"


@dataclass(frozen=True)
class VMSpec:
    """All that a provider needs to make one VM. Equal specs make equal VMs.

    ``token`` is the idempotency token of the launch (EC2 ``ClientToken``); ``uuid`` is derived from the VM's
    id. ``host`` is the name from ``HostReport``; ``instance_type`` is set for elastic hosts.

    ``gpus``: so many of the host's, for this VM alone. ``dedicated_cpus``: each vCPU on a CPU of the host that no other VM
    runs on, all of them and the memory on one NUMA node. ``hugepages``: its memory is in huge pages. Which ones is the
    provider's to choose; OutOfCapacity when there are none.
    """

    id: str
    uuid: str
    token: str
    name: str
    host: str
    vcpus: int
    mem_mb: int
    disk_gb: int
    image: ImageSpec
    nics: tuple[NICSpec, ...] = ()
    user_data: str = ""
    ssh_keys: tuple[str, ...] = ()
    hostname: str = ""
    project: str = ""
    instance_type: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    gpus: int = 0
    dedicated_cpus: bool = False
    hugepages: bool = False


SPOT_INTERRUPTED = "Server.SpotInstanceTermination"
"""How ``VMReport.reason`` of a VM begins that a cloud took back (EC2's ``StateReason.Code``)."""


@dataclass(frozen=True)
class VMReport:
    """A VM as the provider sees it.

    ``ref`` is the provider's own id (libvirt UUID, EC2 instance id). ``vm_id`` and ``broker_id`` are read
    from the marks on it; both empty for a stranger. ``reason`` is the provider's own word for an unexpected
    state ("crashed", "Server.SpotInstanceTermination").
    """

    ref: str
    host: str
    state: VMState
    name: str = ""
    vm_id: str = ""
    broker_id: str = ""
    reason: str = ""
    address: str = ""
    vcpus: int = 0
    mem_mb: int = 0


@dataclass(frozen=True)
class Listing:
    """What a site answered to ``list_vms``.

    ``complete`` names the hosts whose list is whole: only on these does absence mean "gone". A host that
    did not answer is in ``unreachable`` with the reason.
    """

    vms: Sequence[VMReport]
    complete: frozenset[str] = frozenset()
    unreachable: Mapping[str, str] = field(default_factory=dict)


def split_strangers(vms: Iterable[VMReport], broker_id: str) -> tuple[list[VMReport], list[VMReport]]:
    """(ours, strangers') by the broker's mark."""
    ours: list[VMReport] = []
    strangers: list[VMReport] = []
    for vm in vms:
        (ours if vm.broker_id == broker_id and vm.vm_id else strangers).append(vm)
    return ours, strangers
