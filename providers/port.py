"""The port between the broker and the machines that run VMs.

A *provider* drives one site: a set of KVM hosts, a region of a cloud, a simulated pool. The broker
knows nothing of libvirt or EC2; it calls the methods below, from worker threads, and never inside a
database transaction.

Contract, for every provider:

- Every ``ensure_*`` method is idempotent: calling it twice changes nothing the second time.
- Everything that is created carries ``SiteContext.broker_id`` and the id of the VM (or network, image),
  so that orphans and strangers can be told apart from the provider's own listing alone.
- No method waits longer than its deadline (``SiteContext.call_timeout_s``), except ``ensure_image``
  and ``migrate_vm``, which report progress, and ``suspend_vm`` and ``start_vm`` of a suspended VM, which write and
  read its memory. A machine that does not answer raises ``Unreachable`` and never delays calls
  to other machines of the site.
- Methods are safe to call from several threads at once.

Exceptions::

    ProviderError
    +-- Unreachable          no answer from the host or the cloud; try again later
    +-- AuthenticationFailed credentials refused
    +-- OutOfCapacity        the host or cloud has no room for it now; place it elsewhere
    +-- QuotaExceeded        an account limit; place it elsewhere
    +-- InvalidSpec          the request can never succeed as it is; do not retry
    +-- NotFound             the named thing does not exist at the provider
    +-- Conflict             something else holds the name, address or id
    +-- Unsupported          the provider does not declare that capability
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

AttributeValue = float | str | tuple[str, ...] | None
"""A host attribute: a number, a text, a list of texts, or undefined (``None``)."""


class Capability(StrEnum):
    """What a provider can do beyond create, observe and delete."""

    STOP = "stop"
    REBOOT = "reboot"
    CONSOLE = "console"
    EVENTS = "events"
    ELASTIC = "elastic"
    """Hosts are not machines but zone x instance type, with a price and a quota."""
    DIRECT_KERNEL = "direct-kernel"
    """Boots an image's kernel and initrd without a boot loader."""
    SUSPEND = "suspend"
    """Saves a VM's memory on its host's disk and gives its cores and memory back; ``start_vm`` goes on from there."""
    MIGRATE = "migrate"
    """Moves a running VM to another host of the site."""
    SPOT = "spot"
    """Sells spare capacity that may be taken back: hosts whose attribute ``spot`` is 1."""
    ADDRESSES = "addresses"
    """Puts a VM on a subnet of ours at the address that the broker leased (no tunnel needed)."""


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


class ProviderError(Exception):
    """A provider's refusal or failure, in words for the VM's ``status_reason``.

    ``code`` is the provider's own error code where there is one (``InsufficientInstanceCapacity``).
    ``retryable``: the same call may succeed later without anybody changing anything.
    """

    retryable = True

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class Unreachable(ProviderError):
    """No answer from the host or the cloud within the deadline."""


class AuthenticationFailed(ProviderError):
    """Credentials were refused."""

    retryable = False


class OutOfCapacity(ProviderError):
    """The host or cloud has no room for this VM now; another host may."""


class QuotaExceeded(ProviderError):
    """An account limit is reached; another site may have room."""


class InvalidSpec(ProviderError):
    """The request can never succeed as it is."""

    retryable = False


class NotFound(ProviderError):
    """The named thing does not exist at the provider."""

    retryable = False


class Conflict(ProviderError):
    """Something that is not ours holds the name, the address or the id."""

    retryable = False


class Unsupported(ProviderError):
    """The provider does not declare this capability."""

    retryable = False


@dataclass(frozen=True)
class SiteContext:
    """All that a provider needs to drive one site. Passed to its constructor.

    ``options`` are the site's own settings as the user gave them (``hosts``, ``endpoint``, ``region``...);
    ``credentials`` are opened secrets and must never be logged or put in an exception's text;
    ``cache_dir`` is a directory of this site's own for probe results and downloads, created already.
    """

    broker_id: str
    site_id: str
    site_name: str
    options: Mapping[str, object] = field(default_factory=dict)
    credentials: Mapping[str, str] = field(default_factory=dict)
    cache_dir: str = ""
    call_timeout_s: float = 30.0


@dataclass(frozen=True)
class HostReport:
    """One host as the provider sees it now.

    ``attributes`` are the flat names of ``docs/reference/attributes.md``: totals, not what is free (the
    broker subtracts its own claims). ``reserved_*`` is what strangers' VMs on the host use: those that do
    not carry the broker's id. A host that did not answer is reported too, ``reachable=False`` with the
    reason, and with whatever attributes are known without it.
    """

    name: str
    reachable: bool = True
    reason: str = ""
    elastic: bool = False
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    reserved_vcpus: float = 0.0
    reserved_mem_mb: float = 0.0


@dataclass(frozen=True)
class ImageSpec:
    """A disk image of the broker's catalogue. Paths are files readable by the broker.

    ``kernel``/``initrd``/``cmdline`` are for providers with ``Capability.DIRECT_KERNEL``; an image without
    them boots from its disk. ``remote_id`` is the image's id at this site (an AMI), where one is mapped.
    """

    id: str
    name: str
    format: str = "qcow2"
    path: str = ""
    sha256: str = ""
    size_bytes: int = 0
    kernel: str = ""
    initrd: str = ""
    cmdline: str = ""
    remote_id: str = ""


@dataclass(frozen=True)
class NetworkSpec:
    """One subnet of ours as a host must offer it.

    ``mode``: ``bridge`` uses an existing bridge of the host, named ``bridge``; ``nat`` and ``route`` have the
    host make the subnet itself, with the host at address ``gateway``.
    """

    id: str
    name: str
    mode: str
    cidr: str
    gateway: str
    bridge: str = ""
    mtu: int = 1500
    dns: tuple[str, ...] = ()


@dataclass(frozen=True)
class NICSpec:
    """A virtual NIC with the address that the broker leased. ``prefix_len`` is the subnet's."""

    network: NetworkSpec
    mac: str
    address: str
    prefix_len: int


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


Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


@runtime_checkable
class Provider(Protocol):
    """One site, driven. Constructed as ``Kind(context: SiteContext)``; makes no call by itself."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What this provider can do."""

    def check(self) -> None:
        """Reach the site once. Raises Unreachable, AuthenticationFailed, InvalidSpec (bad options)."""

    def inventory(self) -> Sequence[HostReport]:
        """All hosts of the site, in a stable order; unreachable ones included."""

    def list_vms(self) -> Listing:
        """Every VM of every host: ours and strangers'."""

    def ensure_image(self, host: str, image: ImageSpec, progress: Progress | None = None) -> None:
        """Make the image usable on that host. Raises NotFound when it has no counterpart there."""

    def ensure_network(self, host: str, network: NetworkSpec) -> None:
        """Make the subnet usable on that host."""

    def ensure_vm(self, spec: VMSpec) -> VMReport:
        """Make the VM exist and run. A VM that exists already is reported, and started if it never ran."""

    def observe_vm(self, host: str, vm_id: str, ref: str = "") -> VMReport | None:
        """The VM as it is now, found by ``ref`` or by its marks; None when it is certainly not there."""

    def start_vm(self, host: str, ref: str) -> None:
        """Start a stopped VM, or let a suspended one go on; nothing when it runs. Raises NotFound."""

    def stop_vm(self, host: str, ref: str, *, force: bool = False) -> None:
        """Ask the guest to shut down (``force``: pull the plug); nothing when stopped. Raises NotFound.

        A suspended VM cannot be asked; ``force`` throws its saved memory away.
        """

    def reboot_vm(self, host: str, ref: str) -> None:
        """Reboot a running VM. Raises NotFound."""

    def suspend_vm(self, host: str, ref: str) -> None:
        """Save a running VM's memory to disk and stop it; nothing when that is done. ``start_vm`` resumes it.

        Raises NotFound, Conflict (it does not run), Unsupported (no ``Capability.SUSPEND``).
        """

    def migrate_vm(self, spec: VMSpec, source: str, progress: Progress | None = None) -> VMReport:
        """Move a running VM from host ``source`` to ``spec.host`` with its disk, while it runs. May take long.

        A VM that is on its target already is reported; one that could not be moved runs on at its source, and the
        target keeps nothing of it. Raises OutOfCapacity, NotFound, Conflict (it does not run), Unsupported (no
        ``Capability.MIGRATE``).
        """

    def delete_vm(self, host: str, vm_id: str, ref: str = "") -> None:
        """Remove the VM and all that was made for it (disk, seed); nothing when it is gone."""

    def console_log(self, host: str, ref: str) -> bytes:
        """The newest 64 KiB of the serial console. Raises NotFound, Unsupported."""

    def watch(self, notify: Callable[[str], None]) -> None:
        """Call ``notify(vm_id)`` (or ``notify("")`` for "look at everything") when something changes.

        Blocks until ``close`` is called from another thread: give it a thread of its own. ``notify`` must
        be quick.
        """

    def close(self) -> None:
        """Drop connections and threads. Later calls may raise."""


Factory = Callable[[SiteContext], Provider]


def split_strangers(vms: Iterable[VMReport], broker_id: str) -> tuple[list[VMReport], list[VMReport]]:
    """(ours, strangers') by the broker's mark."""
    ours: list[VMReport] = []
    strangers: list[VMReport] = []
    for vm in vms:
        (ours if vm.broker_id == broker_id and vm.vm_id else strangers).append(vm)
    return ours, strangers
