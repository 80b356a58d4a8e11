"""What each capability demands of a provider: a small protocol on top of the core, asked for before it is used."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, overload, runtime_checkable

from providers.port.capability import Capability
from providers.port.errors import Unsupported
from providers.port.image import Progress
from providers.port.provider import Provider
from providers.port.vm import VMReport, VMSpec


@runtime_checkable
class SupportsStart(Provider, Protocol):
    """Wakes VMs: part of ``STOP`` and of ``SUSPEND``."""

    def start_vm(self, host: str, ref: str) -> None:
        """Start a stopped VM, or let a suspended one go on; nothing when it runs. Raises NotFound, OutOfCapacity."""


@runtime_checkable
class SupportsStop(SupportsStart, Protocol):
    """``Capability.STOP``."""

    def stop_vm(self, host: str, ref: str, *, force: bool = False) -> None:
        """Ask the guest to shut down (``force``: pull the plug); nothing when stopped. Raises NotFound.

        A suspended VM cannot be asked, which raises Conflict; ``force`` throws its saved memory away.
        """


@runtime_checkable
class SupportsReboot(Provider, Protocol):
    """``Capability.REBOOT``."""

    def reboot_vm(self, host: str, ref: str) -> None:
        """Reboot a running VM. Raises NotFound; Conflict, where the site can tell that it does not run."""


@runtime_checkable
class SupportsSuspend(SupportsStart, Protocol):
    """``Capability.SUSPEND``."""

    def suspend_vm(self, host: str, ref: str) -> None:
        """Save a running VM's memory to disk and stop it; nothing when that is done. ``start_vm`` resumes it.

        Raises NotFound, Conflict (it does not run).
        """


@runtime_checkable
class SupportsMigrate(Provider, Protocol):
    """``Capability.MIGRATE``."""

    def migrate_vm(self, spec: VMSpec, source: str, progress: Progress | None = None) -> VMReport:
        """Move a running VM from host ``source`` to ``spec.host`` with its disk, while it runs. May take long.

        A VM that is on its target already is reported; one that could not be moved runs on at its source, and the
        target keeps nothing of it. Raises OutOfCapacity, NotFound, Conflict (it does not run).
        """


@runtime_checkable
class SupportsConsole(Provider, Protocol):
    """``Capability.CONSOLE``."""

    def console_log(self, host: str, ref: str) -> bytes:
        """The newest 64 KiB of the serial console. Raises NotFound."""


@runtime_checkable
class SupportsEvents(Provider, Protocol):
    """``Capability.EVENTS``."""

    def watch(self, notify: Callable[[str, str], None]) -> None:
        """Call ``notify(vm_id, host)`` when a VM changes on a host; without a VM's id it means "look at everything".

        Blocks until ``close`` is called from another thread: give it a thread of its own. ``notify`` must
        be quick.
        """


@runtime_checkable
class SupportsSubnets(Provider, Protocol):
    """``Capability.SUBNETS``."""

    def list_networks(self) -> Mapping[str, Collection[str]]:
        """Host -> the ids of what ``ensure_network`` made there for this broker. A host that does not answer is left out."""

    def remove_network(self, host: str, network_id: str) -> None:
        """Take from a host all that was made for the subnet; nothing when it is gone.

        What belongs to another broker is left alone. Raises Conflict while a machine is on it, whoever's.
        """


@dataclass(frozen=True)
class Support:
    """What a capability demands, and what it does in words: ``{}`` is where the VM's name goes."""

    protocol: type[Any]
    words: str


SUPPORT: Mapping[Capability, Support] = {
    Capability.STOP: Support(SupportsStop, "stop {}"),
    Capability.REBOOT: Support(SupportsReboot, "reboot {}"),
    Capability.SUSPEND: Support(SupportsSuspend, "suspend {}"),
    Capability.MIGRATE: Support(SupportsMigrate, "migrate {}"),
    Capability.CONSOLE: Support(SupportsConsole, "show the console of {}"),
    Capability.EVENTS: Support(SupportsEvents, "tell what happens to {}"),
    Capability.SUBNETS: Support(SupportsSubnets, "take the subnets of {} away"),
    Capability.ELASTIC: Support(Provider, "rent room for {}"),
    Capability.SPOT: Support(Provider, "rent spare capacity for {}"),
    Capability.DIRECT_KERNEL: Support(Provider, "boot {} with its image's own kernel"),
    Capability.ADDRESSES: Support(Provider, "give {} its private address without a tunnel"),
}
"""Every capability with its protocol. ``Provider`` itself: it has no methods of its own."""


def missing(provider: Provider, capability: Capability) -> Sequence[str]:
    """The methods that a capability demands and a provider lacks, by name."""
    wanted = {
        name
        for part in SUPPORT[capability].protocol.__mro__
        if part is not object
        for name, value in vars(part).items()
        if callable(value) and not name.startswith("_")
    }
    return sorted(name for name in wanted if not callable(getattr(provider, name, None)))


def supports(provider: Provider, capability: Capability) -> bool:
    """Whether a provider declares a capability, and has what it demands."""
    return capability in provider.capabilities and not missing(provider, capability)


@overload
def require(provider: Provider, capability: Literal[Capability.STOP]) -> SupportsStop: ...
@overload
def require(provider: Provider, capability: Literal[Capability.REBOOT]) -> SupportsReboot: ...
@overload
def require(provider: Provider, capability: Literal[Capability.SUSPEND]) -> SupportsSuspend: ...
@overload
def require(provider: Provider, capability: Literal[Capability.MIGRATE]) -> SupportsMigrate: ...
@overload
def require(provider: Provider, capability: Literal[Capability.CONSOLE]) -> SupportsConsole: ...
@overload
def require(provider: Provider, capability: Literal[Capability.EVENTS]) -> SupportsEvents: ...
@overload
def require(provider: Provider, capability: Literal[Capability.SUBNETS]) -> SupportsSubnets: ...
@overload
def require(provider: Provider, capability: Capability) -> Provider: ...
def require(provider: Provider, capability: Capability) -> Provider:
    """The same provider, known to have the capability's methods: the only way to reach them.

    Raises Unsupported when it does not declare the capability, or declares what it has no methods for.
    """
    words = SUPPORT[capability].words.format("VMs")
    if capability not in provider.capabilities:
        raise Unsupported(f"the site cannot {words}: it does not have the capability {capability}")
    if lacks := missing(provider, capability):
        kind = type(provider).__name__
        raise Unsupported(
            f"the site cannot {words}: its {kind} declares the capability {capability} without {', '.join(lacks)}; "
            "report that to whoever made it"
        )
    return provider
