"""Domain XML (https://libvirt.org/formatdomain.html) from a VM's spec. Pure: no libvirt, no I/O."""

from __future__ import annotations

from dataclasses import dataclass

from lxml import etree
from lxml.builder import E

from providers.kvm.hardware import Grant, cpu_list
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


def domain_xml(
    spec: VMSpec, machine: Machine, files: DomainFiles, broker_id: str, granted: Grant | None = None
) -> str:
    """The definition of a VM's domain, with what it was granted of its host for itself."""
    granted = granted or Grant()
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
    devices.extend(map(_hostdev, granted.gpus))
    domain = E.domain(
        E.name(domain_name(spec.id)),
        E.uuid(spec.uuid),
        E.title(spec.name),
        E.metadata(Mark.of(spec, broker_id).element()),
        E.memory(str(spec.mem_mb), unit="MiB"),
        *([E.memoryBacking(E.hugepages())] if granted.hugepages else []),
        *_cpus(spec, granted),
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


def _cpus(spec: VMSpec, granted: Grant) -> list[etree._Element]:
    """Where its vCPUs run, and where its memory is."""
    vcpu = E.vcpu(str(spec.vcpus), placement="static")
    if granted.cpus:
        vcpu.set("cpuset", cpu_list(granted.cpus))
    elif granted.shared:
        vcpu.set("cpuset", granted.shared)
    else:
        return [E.vcpu(str(spec.vcpus))]
    if not granted.cpus:
        return [vcpu]
    pins = [E.vcpupin(vcpu=str(index), cpuset=str(cpu)) for index, cpu in enumerate(granted.cpus)]
    # What QEMU does beside running vCPUs must not take their time.
    beside = E.emulatorpin(cpuset=granted.shared)
    return [vcpu, E.cputune(*pins, beside), E.numatune(E.memory(mode="strict", nodeset=str(granted.node)))]


def _hostdev(address: str) -> etree._Element:
    """A PCI device that the host has set aside for guests (driver vfio-pci), so that there is nothing to detach."""
    domain, bus, rest = address.split(":")
    slot, function = rest.split(".")
    parts = {"domain": domain, "bus": bus, "slot": slot, "function": function}
    where = E.address(**{name: f"0x{value}" for name, value in parts.items()})
    device: etree._Element = E.hostdev(E.source(where), mode="subsystem", type="pci", managed="no")
    return device


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
