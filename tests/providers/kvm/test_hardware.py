"""What guests have of their host for themselves: what is told of it, who gets what, and a real guest that has it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from providers.kvm import KvmProvider
from providers.kvm.domain import DomainFiles, Machine, domain_xml
from providers.kvm.hardware import Grant, Hardware, attributes, confirm, cpu_list, cpus_of, grant, hardware_of
from providers.port import ImageSpec, InvalidSpec, NetworkSpec, OutOfCapacity, VMSpec

if TYPE_CHECKING:
    from tests.providers.kvm.conftest import RealHost

CELL = """
<cell id='{0}'>
  <memory unit='KiB'>{1}</memory>
  <pages unit='KiB' size='4'>1000000</pages>
  <pages unit='KiB' size='2048'>{2}</pages>
  <cpus num='4'><cpu id='{0}0'/><cpu id='{0}1'/><cpu id='{0}2'/><cpu id='{0}3'/></cpus>
</cell>
"""
GPU = """
<device><name>pci_0000_3b_00_0</name><driver><name>{driver}</name></driver>
  <capability type='pci'><class>{kind}</class><domain>0</domain><bus>59</bus><slot>0</slot><function>{function}</function>
    <product id='0x20b5'>A100</product></capability></device>
"""
SPEC = VMSpec(
    id="vm-1",
    uuid="6f1c0a7e-52a6-5c7a-9f5e-1f6f6f3d7a10",
    token="t",
    name="db",
    host="a",
    vcpus=2,
    mem_mb=512,
    disk_gb=1,
    image=ImageSpec("img-1", "tiny"),
)
FILES = DomainFiles("/pool/vm.qcow2", "/pool/vm.seed.iso", "/pool/vm.console.log")
MACHINE = Machine("kvm")


def capabilities(*cells: str) -> etree._Element:
    inside = "".join(cells)
    return etree.fromstring(
        f"<capabilities><host><topology><cells>{inside}</cells></topology></host></capabilities>"
    )


TWO = capabilities(CELL.format(1, 8388608, 512), CELL.format(2, 16777216, 256))


class Connection:
    """A host's definitions and devices."""

    def __init__(self, *domains: str, devices: tuple[str, ...] = ()) -> None:
        self.domains = [
            SimpleNamespace(UUIDString=lambda: "x", XMLDesc=lambda _, x=xml: x) for xml in domains
        ]
        self.devices = [SimpleNamespace(XMLDesc=lambda _, x=xml: x) for xml in devices]

    def listAllDomains(self) -> list[SimpleNamespace]:
        return self.domains

    def listAllDevices(self, _: int) -> list[SimpleNamespace]:
        return self.devices

    def define(self, spec: VMSpec, granted: Grant) -> None:
        xml = domain_xml(spec, MACHINE, FILES, "brk-1", granted)
        self.domains.append(SimpleNamespace(UUIDString=lambda: spec.uuid, XMLDesc=lambda _: xml))


def test_numa_nodes_and_huge_pages_are_told() -> None:
    found = attributes(hardware_of(Connection(), TWO, frozenset(), "a"), TWO)
    assert {name: value for name, value in found.items() if value is not None} == {
        "numa_node_cpus": 4.0,
        "numa_node_mem_mb": 16384.0,
        "hugepages_mb": 1536.0,
    }


def test_dedicated_cpus_are_told_and_how_many_are_on_one_node() -> None:
    found = attributes(hardware_of(Connection(), TWO, cpus_of("12-13,21-23"), "a"), TWO)
    assert (found["dedicated_cpu_total"], found["vm_dedicated_cpu_max"]) == (5.0, 3.0)


def test_host_that_tells_nothing_of_its_nodes_leaves_them_undefined() -> None:
    nothing = etree.fromstring("<capabilities/>")
    found = attributes(hardware_of(Connection(), nothing, frozenset(), "a"), nothing)
    assert {name for name, value in found.items() if value is not None} == {"hugepages_mb"}


def test_gpus_are_those_that_the_host_has_set_aside_for_guests() -> None:
    devices = (
        GPU.format(driver="vfio-pci", kind="0x030200", function=0),
        GPU.format(driver="nvidia", kind="0x030200", function=1),
        GPU.format(driver="vfio-pci", kind="0x020000", function=2),  # a NIC
    )
    hardware = hardware_of(Connection(devices=devices), TWO, frozenset(), "a")
    assert hardware.gpus == {"0000:3b:00.0": "A100"}
    found = attributes(hardware, TWO)
    assert (found["gpu_total"], found["gpu_model"]) == (1.0, "A100")


@pytest.mark.parametrize(
    ("cpus", "told"), [("10,99", "names CPU 99"), ("10-13,20-23", "leaves no CPU to the host itself")]
)
def test_dedicated_cpus_that_cannot_be_are_told(cpus: str, told: str) -> None:
    with pytest.raises(InvalidSpec, match=told):
        hardware_of(Connection(), TWO, cpus_of(cpus), "a")


@given(st.sets(st.integers(0, 999), min_size=1))
def test_list_of_cpus_is_read_as_it_is_written(cpus: set[int]) -> None:
    assert cpus_of(cpu_list(cpus)) == cpus


@pytest.mark.parametrize("text", ["", "a", "3-", "1,,2", "^3", "1 2"])
def test_what_is_no_list_of_cpus_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no list of CPUs"):
        cpus_of(text)


def test_guests_share_no_dedicated_cpu_and_fill_one_node_before_the_next() -> None:
    host = Connection()
    hardware = hardware_of(host, TWO, cpus_of("11-13,20-23"), "a")
    wants = [
        replace(SPEC, id=f"vm-{turn}", uuid=str(turn), vcpus=count, dedicated_cpus=True)
        for turn, count in enumerate((3, 2, 2))
    ]
    granted = []
    for spec in wants:
        granted.append(grant(host, hardware, spec, "a"))
        host.define(spec, granted[-1])
    assert [one.cpus for one in granted] == [(11, 12, 13), (20, 21), (22, 23)]
    assert [one.node for one in granted] == [1, 2, 2]
    with pytest.raises(OutOfCapacity, match="at most 0 dedicated CPUs free, not 1"):
        grant(host, hardware, replace(SPEC, uuid="9", vcpus=1, dedicated_cpus=True), "a")
    # Asked again, as after a crash, it gets the same.
    assert grant(host, hardware, wants[-1], "a") == granted[-1]


def test_gpu_goes_to_one_guest_only() -> None:
    host = Connection()
    hardware = Hardware(
        {0: frozenset(range(4))}, frozenset(), {"0000:3b:00.0": "A100", "0000:5e:00.0": "A100"}
    )
    first = replace(SPEC, uuid="1", gpus=1)
    granted = grant(host, hardware, first, "a")
    assert granted.gpus == ("0000:3b:00.0",)
    host.define(first, granted)
    with pytest.raises(OutOfCapacity, match="1 of 2 GPUs are free, not 2"):
        grant(host, hardware, replace(SPEC, uuid="2", gpus=2), "a")
    assert grant(host, hardware, replace(SPEC, uuid="2", gpus=1), "a").gpus == ("0000:5e:00.0",)


def test_two_processes_that_chose_the_same_at_once_both_step_back() -> None:
    host = Connection()
    hardware = hardware_of(host, TWO, cpus_of("12-13"), "a")
    first, second = (replace(SPEC, id=f"vm-{n}", uuid=str(n), dedicated_cpus=True) for n in (1, 2))
    granted = [(spec, grant(host, hardware, spec, "a")) for spec in (first, second)]
    host.define(*granted[0])
    confirm(host, granted[0][1], first, "a")
    host.define(*granted[1])
    for spec, its in granted:
        with pytest.raises(OutOfCapacity, match="somebody else took the same"):
            confirm(host, its, spec, "a")


def test_guest_without_cpus_of_its_own_stays_off_those_of_others() -> None:
    hardware = hardware_of(Connection(), TWO, cpus_of("12-13"), "a")
    xml = domain_xml(SPEC, MACHINE, FILES, "brk-1", grant(Connection(), hardware, SPEC, "a"))
    vcpu = etree.fromstring(xml).find("vcpu")
    assert vcpu is not None
    assert vcpu.get("cpuset") == "10,11,20,21,22,23"


@pytest.fixture
def two_mb_pages() -> Iterator[int]:
    """Huge pages of the machine, for one guest."""
    path, pages = Path("/proc/sys/vm/nr_hugepages"), 80
    before = path.read_text()
    path.write_text(str(pages))
    if int(path.read_text()) < pages:
        path.write_text(before)
        pytest.skip("the machine's memory is too scattered for huge pages")
    yield pages
    path.write_text(before)


@pytest.mark.lab
def test_real_guest_has_a_cpu_of_its_own_and_its_memory_in_huge_pages(
    real_host: RealHost,
    network: NetworkSpec,
    make_provider: Callable[..., KvmProvider],
    make_spec: Callable[..., VMSpec],
    two_mb_pages: int,
) -> None:
    """QEMU's own threads and memory are looked at: the definition alone proves nothing."""
    host = {"uri": real_host.uri, "name": "a", "dedicated_cpus": "1"}
    provider = make_provider([host], acceleration="tcg")
    (report,) = provider.inventory()
    assert report.attributes["dedicated_cpu_total"] == 1.0
    assert report.attributes["hugepages_mb"] == two_mb_pages * 2
    provider.ensure_image("a", real_host.image)
    provider.ensure_network("a", network)
    own = make_spec(image=real_host.image, dedicated_cpus=True, hugepages=True)
    shared = make_spec(image=real_host.image)
    second = make_spec(image=real_host.image, dedicated_cpus=True)
    try:
        provider.ensure_vm(own)
        provider.ensure_vm(shared)
        with pytest.raises(OutOfCapacity, match="dedicated CPUs"):
            provider.ensure_vm(second)
        assert [name for name in real_host.files() if name.startswith(second.id)] == []
        assert _cpus(_process(own.id)) == {"1"}
        assert _cpus(_process(shared.id)) == {"0"}
        assert "/hugepages" in (_process(own.id) / "smaps").read_text()
    finally:
        for spec in (own, shared, second):
            provider.delete_vm("a", spec.id, spec.uuid)


def _process(vm_id: str) -> Path:
    """The QEMU process of a guest."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"qemu-system" in words[0] and any(f"isthmus-{vm_id}".encode() in word for word in words):
            return path.parent
    raise AssertionError(f"no QEMU of {vm_id}")


def _cpus(process: Path) -> set[str]:
    """Where the threads that run vCPUs may run."""
    found = set()
    for task in (process / "task").iterdir():
        if (task / "comm").read_text().startswith("CPU "):
            match = re.search(r"^Cpus_allowed_list:\s*(\S+)", (task / "status").read_text(), re.MULTILINE)
            assert match is not None
            found.add(match[1])
    return found
