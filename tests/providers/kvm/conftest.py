"""Specs, sites on libvirt's test driver, and one real KVM host in name spaces of its own."""

from __future__ import annotations

import itertools
import secrets
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import pytest

from providers.kvm import KvmProvider
from providers.port import ImageSpec, NetworkSpec, NICSpec, SiteContext, VMSpec

if TYPE_CHECKING:
    from lab.host import Host

BROKER = "brk-1"
Answer = TypeVar("Answer")

NODE_XML = """
<node>
  <cpu><mhz>2400</mhz><model>x86_64</model><active>16</active><nodes>2</nodes>
    <sockets>2</sockets><cores>4</cores><threads>1</threads></cpu>
  <memory>67108864</memory>
  <domain type='test'><name>stranger</name><uuid>11111111-1111-1111-1111-111111111111</uuid>
    <memory>2097152</memory><vcpu>3</vcpu><os><type>hvm</type></os></domain>
</node>
"""


@pytest.fixture
def network() -> NetworkSpec:
    return NetworkSpec("sub-1", "lan", "nat", "10.77.0.0/24", "10.77.0.1", mtu=1420)


@pytest.fixture
def make_spec(network: NetworkSpec) -> Callable[..., VMSpec]:
    numbers = itertools.count(10)

    def make(**changes: object) -> VMSpec:
        number = next(numbers)
        vm_id = str(changes.get("id") or f"vm-0{secrets.token_hex(8)}")
        spec: dict[str, object] = {
            "id": vm_id,
            "uuid": str(uuid.uuid5(uuid.NAMESPACE_OID, vm_id)),
            "token": f"token-{vm_id}",
            "name": f"web{number}",
            "host": "a",
            "vcpus": 1,
            "mem_mb": 128,
            "disk_gb": 1,
            "image": ImageSpec("img-1", "tiny"),
            "nics": (NICSpec(network, f"52:54:00:77:00:{number:02x}", f"10.77.0.{number}", 24),),
            "project": "demo",
        }
        return VMSpec(**{**spec, **changes})  # type: ignore[arg-type]

    return make


@pytest.fixture
def make_provider(tmp_path: Path) -> Iterator[Callable[..., KvmProvider]]:
    """Providers that are closed at the end. ``hosts`` as in the site's options."""
    made: list[KvmProvider] = []

    def make(
        hosts: object, *, timeout_s: float = 30.0, broker: str = BROKER, **options: object
    ) -> KvmProvider:
        cache = tmp_path / f"cache-{len(made)}"
        cache.mkdir()
        context = SiteContext(
            broker, "site-1", "campus", {"hosts": hosts, **options}, {}, str(cache), timeout_s
        )
        made.append(KvmProvider(context))
        return made[-1]

    yield make
    for provider in made:
        provider.close()


@pytest.fixture
def node_uri(tmp_path: Path) -> str:
    """A host of libvirt's test driver with one stranger's domain on it: a new world for each connection."""
    path = tmp_path / "node.xml"
    path.write_text(NODE_XML)
    return f"test://{path}"


def eventually(condition: Callable[[], Answer], timeout_s: float = 30.0) -> Answer:
    """The first true answer of ``condition``, asked again until the time is over."""
    end = time.monotonic() + timeout_s
    while not (answer := condition()):
        assert time.monotonic() < end, "it did not come to be in time"
        time.sleep(0.05)
    return answer


class WaitFor(Protocol):
    def __call__(self, condition: Callable[[], Answer], timeout_s: float = 30.0) -> Answer: ...


@pytest.fixture
def wait_for() -> WaitFor:
    return eventually


@dataclass(frozen=True)
class RealHost:
    """A KVM host of the lab and the tiny guest's image."""

    node: Host
    uri: str
    pool: Path
    image: ImageSpec

    def files(self) -> list[str]:
        """What lies in the pool's directory, without images."""
        found = sorted(path.name for path in self.pool.iterdir()) if self.pool.exists() else []
        return [name for name in found if not name.startswith("img-")]


@pytest.fixture(scope="session")
def real_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealHost]:
    from lab.host import Host
    from lab.image import build

    tiny = build()
    image = ImageSpec(
        "img-1",
        "tiny",
        "qcow2",
        str(tiny.disk),
        "ab" * 32,
        tiny.disk.stat().st_size,
        str(tiny.kernel),
        str(tiny.initrd),
        tiny.cmdline,
    )
    directory = tmp_path_factory.mktemp("kt")
    node = Host(f"kt-{secrets.token_hex(2)}", directory / "a")
    try:
        node.up()
        pool = directory / "a" / "var-lib-libvirt" / "images" / "isthmus"
        yield RealHost(node, node.uri, pool, image)
    finally:
        node.down()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def campus(
    real_host: RealHost, make_provider: Callable[..., KvmProvider], network: NetworkSpec
) -> Iterator[KvmProvider]:
    """A site of the real host, called ``a``, with image and network in place; its VMs go at the end."""
    provider = make_provider([{"uri": real_host.uri, "name": "a"}], acceleration="tcg")
    provider.ensure_image("a", real_host.image)
    provider.ensure_network("a", network)
    yield provider
    for vm in provider.list_vms().vms:
        if vm.vm_id:
            provider.delete_vm("a", vm.vm_id, vm.ref)
    for name in real_host.files():  # of a test that failed
        vm_id = name.partition(".")[0]
        provider.delete_vm("a", vm_id)
