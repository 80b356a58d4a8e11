"""Simulated sites, a clock that only moves when told, and specs of VMs."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator

import pytest

from providers.port import ImageSpec, NetworkSpec, NICSpec, SiteContext, VMSpec
from providers.simulated import SimulatedProvider, World


class Clock:
    """Seconds that pass only by ``sleep``."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


MakeSite = Callable[..., tuple[SimulatedProvider, World]]
MakeSpec = Callable[..., VMSpec]

NETWORK = NetworkSpec(id="net-1", name="lan", mode="nat", cidr="10.1.0.0/24", gateway="10.1.0.1")
IMAGE = ImageSpec(id="img-1", name="tiny")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_site(clock: Clock) -> Iterator[MakeSite]:
    made: list[SimulatedProvider] = []

    def make(
        site_id: str = "site-1", broker_id: str = "brk-1", **options: object
    ) -> tuple[SimulatedProvider, World]:
        context = SiteContext(broker_id, site_id, "sim", options=options)
        provider = SimulatedProvider(context, clock=clock, sleep=clock.sleep)
        made.append(provider)
        return provider, SimulatedProvider.world(site_id)

    yield make
    for provider in made:
        provider.close()
    SimulatedProvider.forget_worlds()


@pytest.fixture
def make_spec() -> MakeSpec:
    numbers = itertools.count(10)

    def make(vm_id: str = "vm-1", host: str = "sim-01", **changes: object) -> VMSpec:
        number = next(numbers)
        spec: dict[str, object] = {
            "id": vm_id,
            "uuid": str(uuid.uuid5(uuid.NAMESPACE_OID, vm_id)),
            "token": f"token-{vm_id}",
            "name": vm_id,
            "host": host,
            "vcpus": 2,
            "mem_mb": 1024,
            "disk_gb": 1,
            "image": IMAGE,
            "nics": (NICSpec(NETWORK, f"52:54:00:00:00:{number:02x}", f"10.1.0.{number}", 24),),
        }
        return VMSpec(**{**spec, **changes})  # type: ignore[arg-type]

    return make


def prepare(provider: SimulatedProvider, *hosts: str) -> None:
    """Put the image and the network of the specs on hosts."""
    for host in hosts:
        provider.ensure_image(host, IMAGE)
        provider.ensure_network(host, NETWORK)


@pytest.fixture
def prepared() -> Callable[..., None]:
    return prepare
