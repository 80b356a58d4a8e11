"""The port between the broker and the machines that run VMs.

A *provider* drives one site: a set of KVM hosts, a region of a cloud, a simulated pool. The broker
knows nothing of libvirt or EC2; it calls the methods of ``Provider``, which every provider has, and, where
``require`` says that the provider declares the capability, those of the small protocols in ``SUPPORT``. It calls
them from worker threads, and never inside a database transaction.

Contract, for every provider (``tests/providers/contract`` proves it):

- Every ``ensure_*`` method is idempotent: calling it twice changes nothing the second time.
- Everything that is created carries ``SiteContext.broker_id`` and the id of the VM (or network, image),
  so that orphans and strangers can be told apart from the provider's own listing alone.
- What it declares in ``capabilities`` it does; for what it does not declare it needs no methods.
- No method waits longer than its deadline (``SiteContext.call_timeout_s``), except ``ensure_image``
  and ``migrate_vm``, which report progress, and ``suspend_vm`` and ``start_vm`` of a suspended VM, which write and
  read its memory. A machine that does not answer raises ``Unreachable`` and never delays calls
  to other machines of the site.
- Methods are safe to call from several threads at once.
"""

from __future__ import annotations

from providers.port.capability import Capability
from providers.port.errors import (
    AuthenticationFailed,
    Conflict,
    InvalidSpec,
    NotFound,
    OutOfCapacity,
    ProviderError,
    QuotaExceeded,
    Unreachable,
    Unsupported,
)
from providers.port.image import ImageSpec, Progress
from providers.port.network import NetworkSpec, NICSpec
from providers.port.provider import Factory, Provider
from providers.port.site import AttributeValue, HostReport, SiteContext
from providers.port.support import (
    SUPPORT,
    Support,
    SupportsConsole,
    SupportsEvents,
    SupportsMigrate,
    SupportsReboot,
    SupportsStart,
    SupportsStop,
    SupportsSubnets,
    SupportsSuspend,
    missing,
    require,
    supports,
)
from providers.port.vm import (
    SPOT_INTERRUPTED,
    Listing,
    VMReport,
    VMSpec,
    VMState,
    split_strangers,
)

__all__ = [
    "SPOT_INTERRUPTED",
    "SUPPORT",
    "AttributeValue",
    "AuthenticationFailed",
    "Capability",
    "Conflict",
    "Factory",
    "HostReport",
    "ImageSpec",
    "InvalidSpec",
    "Listing",
    "NICSpec",
    "NetworkSpec",
    "NotFound",
    "OutOfCapacity",
    "Progress",
    "Provider",
    "ProviderError",
    "QuotaExceeded",
    "SiteContext",
    "Support",
    "SupportsConsole",
    "SupportsEvents",
    "SupportsMigrate",
    "SupportsReboot",
    "SupportsStart",
    "SupportsStop",
    "SupportsSubnets",
    "SupportsSuspend",
    "Unreachable",
    "Unsupported",
    "VMReport",
    "VMSpec",
    "VMState",
    "missing",
    "require",
    "split_strangers",
    "supports",
]
