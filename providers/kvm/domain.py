"""Domain XML (https://libvirt.org/formatdomain.html) from a VM's spec. Pure: no libvirt, no I/O."""

from __future__ import annotations

from dataclasses import dataclass

from lxml import etree
from lxml.builder import E

from providers.kvm.mark import Mark
from providers.kvm.network import network_name
from providers.port import VMSpec

GUEST_AGENT = "org.qemu.guest_agent.0"
SERIAL_CMDLINE = "console=ttyS0"

_TB_CACHE_MB = (32, 256)
"""TCG's translation cache: QEMU would take up to 1 GiB; a quarter of the guest's memory within these bounds."""


@dataclass(frozen=True)
class Machine:
    """What the host runs guests with. ``type`` is libvirt's domain type: ``kvm``, ``qemu`` (TCG) or ``test``."""

    type: str
    arch: str = "x86_64"
    machine: str = "q35"
    emulator: str = ""
    cpu_mode: str = "host-model"


@dataclass(frozen=True)
class DomainFiles:
    """Paths on the host. Without ``kernel`` the guest boots from its disk."""

    disk: str
    seed: str
    console: str
    kernel: str = ""
    initrd: str = ""


def domain_name(vm_id: str) -> str:
    """The libvirt name of a VM of ours."""
    return f"isthmus-{vm_id}"


def vm_id_of(name: str) -> str:
    """The VM's id in a domain's name; empty when the name is not of our making."""
    return name.removeprefix("isthmus-") if name.startswith("isthmus-") else ""


def domain_xml(spec: VMSpec, machine: Machine, files: DomainFiles, broker_id: str) -> str:
    """The definition of a VM's domain."""
    kvm = machine.type == "kvm"
    boot = [E.boot(dev="hd")]
    if files.kernel:
        boot = [E.kernel(files.kernel)]
        if files.initrd:
            boot.append(E.initrd(files.initrd))
        boot.append(E.cmdline(spec.image.cmdline or SERIAL_CMDLINE))
    features = E.features(E.acpi(), E.apic())
    if machine.type == "qemu":
        low, high = _TB_CACHE_MB
        size = min(high, max(low, spec.mem_mb // 4))
        features.append(E.tcg(E("tb-cache", str(size), unit="MiB")))
    devices = E.devices()
    if machine.emulator:
        devices.append(E.emulator(machine.emulator))
    devices.extend([_disk(files.disk, "qcow2", "vda"), _disk(files.seed, "raw", "vdb")])
    for nic in spec.nics:
        devices.append(
            E.interface(
                E.mac(address=nic.mac),
                E.source(network=network_name(nic.network)),
                E.model(type="virtio"),
                E.mtu(size=str(nic.network.mtu)),
                type="network",
            )
        )
    devices.extend(
        [
            E.controller(type="usb", model="none"),
            E.serial(
                E.log(file=files.console, append="on"),
                E.target(port="0"),
                type="pty",
            ),
            E.console(E.target(type="serial", port="0"), type="pty"),
            E.channel(E.target(type="virtio", name=GUEST_AGENT), type="unix"),
            E.memballoon(E.stats(period="10"), model="virtio"),
            E.rng(E.backend("/dev/urandom", model="random"), model="virtio"),
        ]
    )
    domain = E.domain(
        E.name(domain_name(spec.id)),
        E.uuid(spec.uuid),
        E.title(spec.name),
        E.metadata(Mark.of(spec, broker_id).element()),
        E.memory(str(spec.mem_mb), unit="MiB"),
        E.vcpu(str(spec.vcpus)),
        E.os(E.type("hvm", arch=machine.arch, machine=machine.machine), *boot),
        features,
        E.cpu(mode=machine.cpu_mode if kvm else "maximum"),
        E.clock(offset="utc"),
        E.on_poweroff("destroy"),
        E.on_reboot("restart"),
        E.on_crash("destroy"),
        devices,
        type=machine.type,
    )
    return etree.tostring(domain, pretty_print=True, encoding="unicode")


def _disk(path: str, format: str, target: str) -> etree._Element:
    seed = format == "raw"
    driver = E.driver(name="qemu", type=format)
    if not seed:
        driver.set("discard", "unmap")
    disk: etree._Element = E.disk(
        driver,
        E.source(file=path),
        E.target(dev=target, bus="virtio"),
        type="file",
        device="disk",
    )
    if seed:
        disk.append(E.readonly())
    return disk
