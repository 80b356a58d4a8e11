"""Domain and network XML against golden files, and against libvirt's own schemas where they are installed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from providers.kvm.domain import DomainFiles, Machine, domain_xml, vm_id_of
from providers.kvm.mark import Mark
from providers.kvm.network import bridge_name, network_xml
from providers.port import ImageSpec, InvalidSpec, NetworkSpec, NICSpec, VMSpec

DATA = Path(__file__).parent / "data"
SCHEMAS = Path("/usr/share/libvirt/schemas")
POOL = "/var/lib/libvirt/images/isthmus"

LAN = NetworkSpec("sub-1", "lan", "nat", "10.1.0.0/24", "10.1.0.1", mtu=1420)
BRIDGED = NetworkSpec("sub-2", "campus", "bridge", "10.2.0.0/24", "10.2.0.1", bridge="br0", dns=("9.9.9.9",))
SPEC = VMSpec(
    id="vm-0123456789abcdef0",
    uuid="6f1c0a7e-52a6-5c7a-9f5e-1f6f6f3d7a10",
    token="t",
    name="web <1> & co",
    host="a",
    vcpus=2,
    mem_mb=2048,
    disk_gb=10,
    image=ImageSpec("img-1", "debian"),
    nics=(NICSpec(LAN, "52:54:00:01:02:03", "10.1.0.10", 24),),
    project="demo",
)
FILES = DomainFiles(f"{POOL}/vm.qcow2", f"{POOL}/vm.seed.iso", f"{POOL}/vm.console.log")
DIRECT = replace(FILES, kernel=f"{POOL}/img.kernel", initrd=f"{POOL}/img.initrd")

DOMAINS = {
    "kvm-disk": (SPEC, Machine("kvm", machine="q35"), FILES),
    "tcg-direct": (
        replace(SPEC, nics=(*SPEC.nics, NICSpec(BRIDGED, "52:54:00:01:02:04", "10.2.0.10", 24))),
        Machine("qemu", machine="q35", emulator="/usr/bin/qemu-system-x86_64"),
        DIRECT,
    ),
    "kvm-arm": (replace(SPEC, nics=()), Machine("kvm", "aarch64", "virt", "", "host-passthrough"), FILES),
}
NETWORKS = {
    "nat": LAN,
    "route": replace(LAN, mode="route", dns=("9.9.9.9",)),
    "bridge": BRIDGED,
}


def check_golden(name: str, text: str) -> None:
    path = DATA / name
    assert path.exists(), f"{path} is missing; it should hold:\n{text}"
    assert text == path.read_text()


def check_schema(name: str, text: str) -> None:
    if not (SCHEMAS / name).exists():
        pytest.skip("libvirt's schemas are not installed")
    schema = etree.RelaxNG(etree.parse(SCHEMAS / name))
    assert schema.validate(etree.fromstring(text)), schema.error_log


@pytest.mark.parametrize("case", DOMAINS)
def test_domain_is_as_in_its_golden_file(case: str) -> None:
    spec, machine, files = DOMAINS[case]
    check_golden(f"domain-{case}.xml", domain_xml(spec, machine, files, "brk-1"))


@pytest.mark.parametrize("case", DOMAINS)
def test_domain_obeys_libvirts_schema(case: str) -> None:
    spec, machine, files = DOMAINS[case]
    check_schema("domain.rng", domain_xml(spec, machine, files, "brk-1"))


@pytest.mark.parametrize("case", NETWORKS)
def test_network_is_as_in_its_golden_file(case: str) -> None:
    check_golden(f"network-{case}.xml", network_xml(NETWORKS[case], "brk-1"))


@pytest.mark.parametrize("case", NETWORKS)
def test_network_obeys_libvirts_schema(case: str) -> None:
    check_schema("network.rng", network_xml(NETWORKS[case], "brk-1"))


def test_image_with_a_kernel_gets_a_serial_console_by_default() -> None:
    text = domain_xml(SPEC, Machine("qemu", machine="q35"), DIRECT, "brk-1")
    assert etree.fromstring(text).findtext("os/cmdline") == "console=ttyS0"


def test_mark_survives_the_way_through_libvirt() -> None:
    mark = Mark.of(SPEC, "brk-1")
    text = etree.tostring(mark.element(), encoding="unicode")
    assert Mark.parse(text) == mark
    stripped = (
        "<vm><broker>brk-1</broker><vm>vm-0123456789abcdef0</vm></vm>"  # as virDomainGetMetadata answers
    )
    assert Mark.parse(stripped) == Mark("brk-1", "vm-0123456789abcdef0")
    assert Mark.parse("<vm") == Mark()


def test_vm_id_is_read_from_names_of_our_making_only() -> None:
    assert vm_id_of("isthmus-vm-1") == "vm-1"
    assert vm_id_of("web") == ""


def test_bridge_name_fits_linux() -> None:
    name = bridge_name(replace(LAN, id="subnet-with-a-very-long-identifier"))
    assert len(name) <= 15
    assert name != bridge_name(LAN)


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"mode": "tunnel"}, "offers modes bridge, nat and route"), ({"mode": "bridge"}, "names no bridge")],
)
def test_network_that_no_kvm_host_can_offer_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidSpec, match=told):
        network_xml(replace(LAN, **changes), "brk-1")
