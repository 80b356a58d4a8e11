"""What the suite needs to know of a provider that it tries: a rig per kind of site."""

from __future__ import annotations

import abc
import itertools
import secrets
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import ClassVar, TypeVar

import pytest

from providers.port import (
    Capability,
    ImageSpec,
    NetworkSpec,
    NICSpec,
    Provider,
    VMReport,
    VMSpec,
    VMState,
)

BROKER = "brk-1"
T = TypeVar("T")


class Rig(abc.ABC):
    """A site to try a provider on, made anew for each test with pytest's ``request``; what is dear may be shared by fixtures."""

    capabilities: ClassVar[frozenset[Capability]]
    """What the provider is to declare."""
    beyond: ClassVar[frozenset[Capability]] = frozenset()
    """What it declares and this site cannot show: another rig must."""
    host: ClassVar[str]
    """A host that can run a VM of ``spec``."""
    other_host: ClassVar[str] = ""
    """Another one, for ``MIGRATE``."""
    spot_host: ClassVar[str] = ""
    """One of spare capacity that can run a VM of ``spec``, for ``SPOT``."""
    unknown_ref: ClassVar[str] = "00000000-0000-4000-8000-000000000000"
    """A ref such as the site gives them, of no VM."""
    patience_s: ClassVar[float] = 10.0
    """How long a state may take to come: a guest's shutdown, a launch."""
    guests: ClassVar[bool] = True
    """Whether its VMs have guests, which can be asked to shut down."""
    image: ImageSpec = ImageSpec(id="img-1", name="tiny")
    """One that the site can have; for ``DIRECT_KERNEL`` with a kernel."""
    missing_image: ImageSpec | None = None
    """One that it cannot have; None where it takes everything."""

    network = NetworkSpec("sub-1", "lan", "nat", "10.77.0.0/24", "10.77.0.1", mtu=1420)
    _numbers = itertools.count()

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.request = request
        self._made: list[Provider] = []

    @abc.abstractmethod
    def open(self, broker_id: str) -> Provider:
        """A new provider for the site, for a broker of that id."""

    def make(self, broker_id: str = BROKER) -> Provider:
        """The same, closed when the test is over."""
        self._made.append(self.open(broker_id))
        return self._made[-1]

    def close(self) -> None:
        """Clean the site, also after a test that failed."""
        for provider in self._made:
            provider.close()

    def spec(self, **changes: object) -> VMSpec:
        """A VM that nobody asked for yet, on ``host``."""
        number = next(self._numbers) % 200
        vm_id = f"vm-0{secrets.token_hex(8)}"
        nic = NICSpec(self.network, f"52:54:00:77:01:{number:02x}", f"10.77.0.{number + 10}", 24)
        made = VMSpec(
            id=vm_id,
            uuid=str(uuid.uuid5(uuid.NAMESPACE_OID, vm_id)),
            token=f"{vm_id}-1",
            name=f"web{number}",
            host=self.host,
            vcpus=1,
            mem_mb=128,
            disk_gb=1,
            image=self.image,
            nics=(nic,),
            project="demo",
        )
        return replace(made, **changes)  # type: ignore[arg-type]

    def prepare(self, provider: Provider, spec: VMSpec) -> None:
        """What the broker does before ``ensure_vm``."""
        provider.ensure_image(spec.host, spec.image)
        for nic in spec.nics:
            provider.ensure_network(spec.host, nic.network)

    def assist(self, provider: Provider, spec: VMSpec) -> None:  # noqa: B027 - nothing is what most need
        """What a site of the tests needs by hand before ``ensure_vm``; a real one needs nothing."""

    def launch(self, provider: Provider, spec: VMSpec) -> VMReport:
        """A VM that runs, and the site at rest."""
        self.prepare(provider, spec)
        self.assist(provider, spec)
        provider.ensure_vm(spec)
        return self.becomes(provider, spec, VMState.RUNNING)

    def becomes(self, provider: Provider, spec: VMSpec, state: VMState) -> VMReport:
        """The VM, as soon as it is in that state and the site at rest."""

        def seen() -> VMReport | None:
            report = provider.observe_vm(spec.host, spec.id)
            return report if report is not None and report.state is state and self.rests(report) else None

        return self.until(seen, f"the VM becoming {state}")

    def rests(self, report: VMReport) -> bool:
        """Whether the site is done with what it was asked for, so that it takes the next request for this VM."""
        return True

    def heeds(self, provider: Provider, report: VMReport) -> bool:
        """Whether the guest is up so far that it heeds a request to shut down, or to reboot."""
        return True

    def stranger(self) -> str:
        """A machine on ``host`` that no broker made; its ref. ``close`` removes it. Empty where there can be none."""
        return ""

    def cut(self) -> AbstractContextManager[None] | None:
        """Within it ``host`` answers nothing; None where the rig cannot do that."""
        return None

    def footprint(self, provider: Provider) -> object:
        """All that lasts at the site, as a value: equal when nothing has changed."""
        gone = (VMState.TERMINATING, VMState.TERMINATED)
        return sorted((vm.ref, vm.vm_id) for vm in provider.list_vms().vms if vm.state not in gone)

    def until(self, condition: Callable[[], T | None], what: str) -> T:
        """The first true answer of ``condition``, asked again until the patience is over."""
        end = time.monotonic() + self.patience_s
        while not (answer := condition()):
            assert time.monotonic() < end, f"waited {self.patience_s:g} s for {what}"
            time.sleep(0.02)
        return answer
