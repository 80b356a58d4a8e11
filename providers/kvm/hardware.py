"""What a guest has of its host for itself: dedicated CPUs on one NUMA node, huge pages, GPUs; and what others share.

Nothing of it is kept here: what is taken is read from the definitions of the host's domains, strangers' among them.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lxml import etree

from providers.kvm import driver
from providers.port import AttributeValue, InvalidSpec, OutOfCapacity, VMSpec

_RANGE = re.compile(r"^(\d{1,5})(?:-(\d{1,5}))?$")
_SMALL_PAGE_KIB = 64
"""Pages of up to that size are ordinary ones, on one architecture or another."""

_GPU_CLASSES = ("0x0300", "0x0302")
"""VGA and 3D controllers (PCI code and ID assignment specification, class 03h)."""

_VFIO = "vfio-pci"


def cpus_of(text: str) -> frozenset[int]:
    """The CPUs of a list such as ``2-7,10``. Raises ValueError."""
    found: set[int] = set()
    for part in text.split(","):
        match = _RANGE.match(part.strip())
        if match is None:
            raise ValueError(f"{text!r} is no list of CPUs such as 2-7,10")
        first = int(match[1])
        found |= set(range(first, int(match[2] or first) + 1))
    return frozenset(found)


def cpu_list(cpus: Iterable[int]) -> str:
    """The other way round, without ranges."""
    return ",".join(map(str, sorted(cpus)))


@dataclass(frozen=True)
class Hardware:
    """A host's CPUs by NUMA node, those of them that are given to single guests, and GPUs that can be given away.

    ``gpus``: PCI address as ``0000:3b:00.0`` -> what it is called.
    """

    nodes: Mapping[int, frozenset[int]]
    dedicated: frozenset[int]
    gpus: Mapping[str, str]

    @property
    def shared(self) -> frozenset[int]:
        """The CPUs of all other guests."""
        return frozenset[int]().union(*self.nodes.values()) - self.dedicated


def shared_list(hardware: Hardware) -> str:
    """The CPUs of guests without CPUs of their own; empty when that is all of them."""
    return cpu_list(hardware.shared) if hardware.dedicated else ""


@dataclass(frozen=True)
class Grant:
    """What one guest gets. ``cpus``: one for each vCPU, all of NUMA node ``node``; empty for a guest that runs on the
    ``shared`` ones, where no list means any."""

    cpus: tuple[int, ...] = ()
    node: int | None = None
    shared: str = ""
    gpus: tuple[str, ...] = ()
    hugepages: bool = False


def hardware_of(
    connection: Any, capabilities: etree._Element, dedicated: frozenset[int], label: str
) -> Hardware:
    """The hardware of a host. Raises InvalidSpec when it lacks one of the dedicated CPUs."""
    nodes = {
        int(cell.get("id", 0)): frozenset(int(cpu.get("id", 0)) for cpu in cell.findall("cpus/cpu"))
        for cell in capabilities.findall("host/topology/cells/cell")
    }
    there = frozenset[int]().union(*nodes.values())
    if missing := dedicated - there:
        raise InvalidSpec(
            f"host {label}: dedicated_cpus names CPU {min(missing)}, and it has none of that number"
        )
    if dedicated and dedicated == there:
        raise InvalidSpec(
            f"host {label}: dedicated_cpus leaves no CPU to the host itself and to other guests"
        )
    return Hardware(nodes, dedicated, _gpus(connection))


def attributes(hardware: Hardware, capabilities: etree._Element) -> dict[str, AttributeValue]:
    """What requirements may name of it (docs/reference/attributes.md)."""
    cells = capabilities.findall("host/topology/cells/cell")
    pages = [
        (int(page.get("size", 0)), int(page.text or 0)) for cell in cells for page in cell.findall("pages")
    ]
    memory = [float(int(cell.findtext("memory") or 0) // 1024) for cell in cells]
    own = [float(len(cpus & hardware.dedicated)) for cpus in hardware.nodes.values()]
    models = sorted(set(hardware.gpus.values()))
    return {
        "numa_node_cpus": max((float(len(cpus)) for cpus in hardware.nodes.values()), default=None),
        "numa_node_mem_mb": max(memory, default=None),
        "hugepages_mb": float(sum(size * count for size, count in pages if size > _SMALL_PAGE_KIB) // 1024),
        "dedicated_cpu_total": float(len(hardware.dedicated)) if hardware.dedicated else None,
        "vm_dedicated_cpu_max": max(own) if hardware.dedicated else None,
        "gpu_total": float(len(hardware.gpus)) if hardware.gpus else None,
        "gpu_model": models[0] if len(models) == 1 else None,
    }


def is_bound(spec: VMSpec) -> bool:
    """Whether the guest has something of its host for itself alone."""
    return bool(spec.gpus or spec.dedicated_cpus)


def grant(connection: Any, hardware: Hardware, spec: VMSpec, label: str) -> Grant:
    """What a guest gets, of what no domain of the host is defined with. Raises OutOfCapacity.

    The domain must be defined before the next one is asked for; then ``confirm`` it.
    """
    shared = shared_list(hardware)
    if not is_bound(spec):
        return Grant(shared=shared, hugepages=spec.hugepages)
    cpus, gpus = _taken(connection, spec.uuid)
    node: int | None = None
    chosen: tuple[int, ...] = ()
    if spec.dedicated_cpus:
        node, chosen = _cpus(hardware, cpus, spec.vcpus, label)
    free = [address for address in sorted(hardware.gpus) if address not in gpus]
    if len(free) < spec.gpus:
        raise OutOfCapacity(
            f"host {label}: {len(free)} of {len(hardware.gpus)} GPUs are free, not {spec.gpus}"
        )
    return Grant(chosen, node, shared, tuple(free[: spec.gpus]), spec.hugepages)


def confirm(connection: Any, granted: Grant, spec: VMSpec, label: str) -> None:
    """See, once the guest's domain is defined, that nobody else defined one with the same at that moment: another process
    that drives the host. Raises OutOfCapacity; the domain must go again then."""
    if not is_bound(spec):
        return
    cpus, gpus = _taken(connection, spec.uuid)
    if cpus.intersection(granted.cpus) or gpus.intersection(granted.gpus):
        raise OutOfCapacity(f"host {label}: somebody else took the same CPUs or GPUs at that moment")


def _cpus(hardware: Hardware, taken: set[int], count: int, label: str) -> tuple[int, tuple[int, ...]]:
    """The CPUs of the fullest node that has enough of them: larger guests find room on the others."""
    free = {node: sorted((cpus & hardware.dedicated) - taken) for node, cpus in hardware.nodes.items()}
    fitting = [(len(cpus), node) for node, cpus in free.items() if len(cpus) >= count]
    if not fitting:
        most = max(map(len, free.values()), default=0)
        raise OutOfCapacity(f"host {label}: a NUMA node has at most {most} dedicated CPUs free, not {count}")
    _, node = min(fitting)
    return node, tuple(free[node][:count])


def _taken(connection: Any, but: str) -> tuple[set[int], set[str]]:
    """The CPUs that single vCPUs are pinned to, and the PCI devices, of all domains but one; whether they run or not."""
    cpus: set[int] = set()
    devices: set[str] = set()
    for domain in connection.listAllDomains():
        if domain.UUIDString() == but:
            continue
        with contextlib.suppress(driver.LibvirtError):  # gone meanwhile
            root = etree.fromstring(domain.XMLDesc(driver.api.VIR_DOMAIN_XML_INACTIVE).encode())
            for pin in root.findall("cputune/vcpupin"):
                with contextlib.suppress(ValueError):  # a stranger's exclusions (^3)
                    cpus |= cpus_of(pin.get("cpuset", ""))
            for source in root.findall("devices/hostdev[@type='pci']/source/address"):
                devices.add(_address(source))
    return cpus, devices


def _gpus(connection: Any) -> dict[str, str]:
    """The GPUs that are set aside for guests: those that the driver vfio-pci holds."""
    found: dict[str, str] = {}
    try:
        devices = connection.listAllDevices(driver.api.VIR_CONNECT_LIST_NODE_DEVICES_CAP_PCI_DEV)
    except driver.LibvirtError:
        return found  # libvirt without its node device driver
    for device in devices:
        with contextlib.suppress(driver.LibvirtError):
            root = etree.fromstring(device.XMLDesc(0).encode())
            pci = root.find("capability[@type='pci']")
            if pci is None or root.findtext("driver/name") != _VFIO:
                continue
            if (pci.findtext("class") or "").startswith(_GPU_CLASSES):
                where = {key: pci.findtext(key) or "0" for key in ("domain", "bus", "slot", "function")}
                product = (pci.findtext("product") or "").strip()
                found[_written(where)] = product or "unknown"
    return found


def _address(element: etree._Element) -> str:
    return _written({key: element.get(key, "0") for key in ("domain", "bus", "slot", "function")})


def _written(where: Mapping[str, str]) -> str:
    domain, bus, slot, function = (int(where[key], 0) for key in ("domain", "bus", "slot", "function"))
    return f"{domain:04x}:{bus:02x}:{slot:02x}.{function:x}"
