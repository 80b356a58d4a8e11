"""One KVM host: what it is, what it offers, and the calls that run on it."""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lxml import etree

from providers.kvm import driver
from providers.kvm import pool as volumes
from providers.kvm.acceleration import ProbeCache, kvm_boots
from providers.kvm.connection import Connection, Pending
from providers.kvm.domain import Machine
from providers.kvm.hardware import Grant, Hardware, attributes, confirm, grant, hardware_of, is_bound
from providers.kvm.image import ImageFiles, find_image, image_ids, image_key, upload_image
from providers.kvm.options import HostOption, Options
from providers.kvm.vm import list_reports, runs
from providers.port import (
    AttributeValue,
    HostReport,
    ImageSpec,
    InvalidSpec,
    Progress,
    SiteContext,
    Unreachable,
    VMSpec,
    split_strangers,
)

T = TypeVar("T")
_UPLOAD_S = 7 * 24 * 3600.0
_VM_LOCKS = 64
_GIB = 1024**3


@dataclass(frozen=True)
class Facts:
    """What does not change while libvirtd runs."""

    hostname: str
    machine: Machine
    acceleration: str
    hardware: Hardware
    attributes: dict[str, AttributeValue] = field(default_factory=dict)


@dataclass(frozen=True)
class Session:
    """An open connection, prepared: the host is known and its pool is there."""

    connection: Any
    pool: Any
    facts: Facts


class KvmHost:
    """A host of the site. ``session`` calls prepare the host on each new connection, once."""

    def __init__(
        self,
        option: HostOption,
        options: Options,
        context: SiteContext,
        connection: Connection,
        probes: ProbeCache,
    ) -> None:
        self.option = option
        self.connection = connection
        self.learned_name = ""
        self.last_attributes: dict[str, AttributeValue] = dict(option.attributes)
        self._options = options
        self._context = context
        self._probes = probes
        self._session: Session | None = None
        self._prepare_lock = threading.Lock()
        self._image_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._moving: set[str] = set()
        self._moving_lock = threading.Lock()
        self._granting = threading.Lock()
        self._vm_locks = tuple(threading.Lock() for _ in range(_VM_LOCKS))
        self._images: dict[str, ImageFiles] = {}

    def call(self, action: Callable[[Session], T]) -> T:
        """``action(session)`` within the site's deadline."""
        return self.connection.result(self.submit(action))

    def submit(self, action: Callable[[Session], T]) -> Pending[T]:
        """Begin ``action(session)``."""
        return self.connection.submit(lambda connection: self._run(connection, action))

    def call_long(self, timeout_s: float, action: Callable[[Any], T]) -> T:
        """``action(connection)`` over a connection of its own, so that calls to the host do not queue behind it."""
        self.call(lambda session: None)  # what cannot be reached is told within the site's deadline
        other = self.connection.separate(timeout_s)
        try:
            return other.call(action)
        finally:
            other.close()

    @property
    def name(self) -> str:
        """The user's name for it, else libvirt's, else (before the first contact) what the URI tells."""
        return self.option.name or self.learned_name or self.option.label

    def vm_lock(self, vm_id: str) -> threading.Lock:
        """Held while something is done to a VM; shared by a sixty-fourth of all VMs."""
        return self._vm_locks[hash(vm_id) % _VM_LOCKS]

    @contextlib.contextmanager
    def granting(self, session: Session, spec: VMSpec) -> Iterator[Grant]:
        """What a guest gets of the host for itself. Its domain must be defined within. Raises OutOfCapacity."""
        with self._granting if is_bound(spec) else contextlib.nullcontext():
            granted = grant(session.connection, session.facts.hardware, spec, self.name)
            yield granted
            confirm(session.connection, granted, spec, self.name)

    @contextlib.contextmanager
    def moving(self, vm_id: str) -> Iterator[None]:
        """While a VM is being moved here, which may last: nobody else begins to. Raises Unreachable, for now."""
        with self._moving_lock:
            if vm_id in self._moving:
                raise Unreachable(f"host {self.name}: the VM is being moved there already")
            self._moving.add(vm_id)
        try:
            yield
        finally:
            with self._moving_lock:
                self._moving.discard(vm_id)

    def image_files(self, session: Session, image: ImageSpec) -> ImageFiles | None:
        """The image on this host, when all of it is there."""
        key = image_key(image)
        files = self._images.get(key)
        if files is None:
            files = find_image(session.pool, self._options.pool_path, image)
            if files is not None:
                self._images[key] = files
        return files

    def lost_image(self, session: Session, image: ImageSpec) -> bool:
        """Look again, in the directory itself: was the image taken away behind our back?"""
        self._images.pop(image_key(image), None)
        volumes.refresh(session.pool)
        return self.image_files(session, image) is None

    def ensure_image(self, image: ImageSpec, progress: Progress | None) -> None:
        """Upload the image unless it is there. Callers at once share one upload. It has no deadline."""
        self._images.pop(image_key(image), None)
        with self._image_locks[image_key(image)]:
            if self.call(lambda session: self.image_files(session, image)) is not None:
                return
            path = self._options.pool_path
            self._images[image_key(image)] = self.call_long(
                _UPLOAD_S,
                lambda connection: upload_image(
                    connection,
                    volumes.ensure_pool(connection, self.option.label, path),
                    path,
                    image,
                    progress,
                ),
            )

    def report(self, session: Session) -> HostReport:
        """The host as it is now."""
        vms = [vm for vm in list_reports(session.connection, self.name) if runs(vm)]
        _, strangers = split_strangers(vms, self._context.broker_id)
        volumes.refresh(session.pool)
        _, capacity, _, available = session.pool.info()
        self.last_attributes = {
            **session.facts.attributes,
            "disk_total_gb": round(capacity / _GIB, 1),
            "disk_free_gb": round(available / _GIB, 1),
            "running_vms": float(len(vms)),
            "images": image_ids(session.pool),
            **self.option.attributes,
        }
        return HostReport(
            self.name,
            attributes=self.last_attributes,
            reserved_vcpus=float(sum(vm.vcpus for vm in strangers)),
            reserved_mem_mb=float(sum(vm.mem_mb for vm in strangers)),
        )

    def _run(self, connection: Any, action: Callable[[Session], T]) -> T:
        session = self._prepare(connection)
        try:
            return action(session)
        except driver.LibvirtError:
            self._session = None  # the pool may have been taken away by hand: look again next time
            raise

    def _prepare(self, connection: Any) -> Session:
        session = self._session
        if session is not None and session.connection is connection:
            return session
        with self._prepare_lock:
            session = self._session
            if session is None or session.connection is not connection:
                pool = volumes.ensure_pool(connection, self.option.label, self._options.pool_path)
                session = self._session = Session(connection, pool, self._facts(connection, pool))
                self.learned_name = session.facts.hostname
            return session

    def _facts(self, connection: Any, pool: Any) -> Facts:
        capabilities = etree.fromstring(connection.getCapabilities().encode())
        _, mem_mb, cpus, _, nodes, *_ = connection.getInfo()
        with contextlib.suppress(driver.LibvirtError):
            # getInfo adds up NUMA nodes, which containers and nested hosts misreport; this is MemTotal.
            memory = connection.getMemoryStats(driver.api.VIR_NODE_MEMORY_STATS_ALL_CELLS, 0)
            mem_mb = memory["total"] // 1024
        arch = capabilities.findtext("host/cpu/arch") or "x86_64"
        types = _all(capabilities, f"guest/arch[@name='{arch}']/domain", "type")
        qemu, libvirt = _version(connection.getVersion()), _version(connection.getLibVersion())
        kind, acceleration = "test", ""
        if connection.getType() == "QEMU":
            kind, acceleration = "qemu", "tcg"
            microcode = "".join(_all(capabilities, "host/cpu/microcode", "version"))
            key = f"{capabilities.findtext('host/uuid')} qemu {qemu} libvirt {libvirt} microcode {microcode}"
            if "kvm" in types and self._kvm_boots(connection, pool, arch, key):
                kind, acceleration = "kvm", "kvm"
            elif "qemu" not in types:
                raise InvalidSpec(
                    f"host {self.option.label}: KVM boots no guest there and QEMU has no emulation for {arch}"
                )
        hardware = hardware_of(connection, capabilities, self.option.dedicated_cpus, self.option.label)
        own = attributes(hardware, capabilities)
        pages = own["hugepages_mb"]
        machine = Machine(
            type=kind,
            arch=arch,
            machine=self._options.machine or ("q35" if arch in ("x86_64", "i686") else "virt"),
            emulator=self._options.emulator,
            cpu_mode=self._options.cpu_mode,
        )
        model, flags = _cpu(connection, capabilities, machine)
        return Facts(
            hostname=str(connection.getHostname()),
            machine=machine,
            acceleration=acceleration,
            hardware=hardware,
            attributes={
                "arch": arch,
                "hypervisor": "kvm",
                "acceleration": acceleration or None,
                "cpu_total": float(cpus - len(hardware.dedicated)),
                "cpu_model": model,
                "cpu_flags": flags,
                # Huge pages are set aside: no guest without them gets of their memory.
                "mem_total_mb": max(0.0, mem_mb - (pages if isinstance(pages, float) else 0.0)),
                "numa_nodes": float(nodes),
                **own,
                "libvirt_version": libvirt,
                "qemu_version": qemu,
            },
        )

    def _kvm_boots(self, connection: Any, pool: Any, arch: str, key: str) -> bool:
        if self._options.acceleration != "auto" or arch != "x86_64":  # the probe is a sector of x86 code
            return self._options.acceleration != "tcg"
        boots = self._probes.get(key)
        if boots is None:
            boots, reason = kvm_boots(
                connection,
                pool,
                self._options.pool_path,
                cpu_mode=self._options.cpu_mode,
                emulator=self._options.emulator,
            )
            self._probes.put(key, boots, reason)
        return boots


def _all(root: etree._Element, path: str, attribute: str) -> list[str]:
    """That attribute of every element on the path."""
    return [value for element in root.findall(path) if (value := element.get(attribute))]


def _version(number: int) -> str:
    """libvirt's 7002022 is 7.2.22."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def _cpu(
    connection: Any, capabilities: etree._Element, machine: Machine
) -> tuple[str | None, tuple[str, ...]]:
    """The CPU that guests can be given: its model and every flag of it."""
    host_cpu = capabilities.find("host/cpu")
    if host_cpu is None:
        return None, ()
    model = host_cpu.findtext("model")
    flags = _all(host_cpu, "feature", "name")
    with contextlib.suppress(driver.LibvirtError):
        # host-model of the domain capabilities is what QEMU can really give, expanded to single flags.
        domain = etree.fromstring(
            connection.getDomainCapabilities(
                machine.emulator or None, machine.arch, machine.machine, machine.type, 0
            ).encode()
        )
        mode = domain.find("cpu/mode[@name='host-model'][@supported='yes']")
        if mode is not None:
            mode.tag = "cpu"
            model = mode.findtext("model") or model
            expanded = connection.baselineHypervisorCPU(
                machine.emulator or None,
                machine.arch,
                machine.machine,
                machine.type,
                [etree.tostring(mode, encoding="unicode")],
                driver.api.VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES,
            )
            flags = _all(etree.fromstring(expanded), "feature[@policy='require']", "name") or flags
    return model, tuple(sorted(set(flags)))
