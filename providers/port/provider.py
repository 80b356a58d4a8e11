"""The core that every provider has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from providers.port.capability import Capability
from providers.port.image import ImageSpec, Progress
from providers.port.network import NetworkSpec
from providers.port.site import HostReport, SiteContext
from providers.port.vm import Listing, VMReport, VMSpec


@runtime_checkable
class Provider(Protocol):
    """One site, driven. Constructed as ``Kind(context: SiteContext)``; makes no call by itself."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What this provider can do beyond this core. Makes no call."""

    def check(self) -> None:
        """Reach the site once. Raises Unreachable, AuthenticationFailed, InvalidSpec (bad options)."""

    def inventory(self) -> Sequence[HostReport]:
        """All hosts of the site, in a stable order; unreachable ones included."""

    def list_vms(self) -> Listing:
        """Every VM of every host: ours and strangers'."""

    def ensure_image(self, host: str, image: ImageSpec, progress: Progress | None = None) -> None:
        """Make the image usable on that host. Raises NotFound when it has no counterpart there."""

    def ensure_network(self, host: str, network: NetworkSpec) -> None:
        """Make the subnet usable on that host. Raises Conflict when the host has it with another definition."""

    def ensure_vm(self, spec: VMSpec) -> VMReport:
        """Make the VM exist and run. A VM that exists already is reported, and started if it never ran.

        Raises NotFound (the image is not there: ``ensure_image`` first), OutOfCapacity, QuotaExceeded, InvalidSpec, Conflict.
        """

    def observe_vm(self, host: str, vm_id: str, ref: str = "") -> VMReport | None:
        """The VM as it is now, found by ``ref`` or by its marks; None when it is certainly not there."""

    def delete_vm(self, host: str, vm_id: str, ref: str = "") -> None:
        """Remove the VM and all that was made for it (disk, seed); nothing when it is gone.

        Raises Conflict when ``ref`` does not carry the VM's marks; it is left alone then.
        """

    def close(self) -> None:
        """Drop connections and threads. Later calls may raise."""


Factory = Callable[[SiteContext], Provider]
