"""A VM's life on one host: its domain and its volumes. Called with an open connection; libvirt's errors pass through."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from lxml import etree

from providers.kvm import driver
from providers.kvm import pool as volumes
from providers.kvm.domain import DomainFiles, Machine, domain_name, domain_xml
from providers.kvm.hardware import Grant
from providers.kvm.image import ImageFiles, virtual_size
from providers.kvm.mark import NAMESPACE, Mark
from providers.kvm.seed import seed_iso
from providers.port import (
    Conflict,
    InvalidSpec,
    NotFound,
    OutOfCapacity,
    Unreachable,
    VMReport,
    VMSpec,
    VMState,
)

_GIB = 1024**3
_CONSOLE_BYTES = 64 * 1024

_api = driver.api
_STATES: dict[int, VMState] = {
    _api.VIR_DOMAIN_NOSTATE: VMState.PENDING,
    _api.VIR_DOMAIN_RUNNING: VMState.RUNNING,
    _api.VIR_DOMAIN_BLOCKED: VMState.RUNNING,
    _api.VIR_DOMAIN_PAUSED: VMState.ERROR,
    _api.VIR_DOMAIN_SHUTDOWN: VMState.STOPPING,
    _api.VIR_DOMAIN_SHUTOFF: VMState.STOPPED,
    _api.VIR_DOMAIN_CRASHED: VMState.ERROR,
    _api.VIR_DOMAIN_PMSUSPENDED: VMState.RUNNING,
}
_PAUSED_FOR_NOW = frozenset(
    {
        _api.VIR_DOMAIN_PAUSED_SAVE,
        _api.VIR_DOMAIN_PAUSED_MIGRATION,
        _api.VIR_DOMAIN_PAUSED_POSTCOPY,
        _api.VIR_DOMAIN_PAUSED_DUMP,
        _api.VIR_DOMAIN_PAUSED_SNAPSHOT,
        _api.VIR_DOMAIN_PAUSED_FROM_SNAPSHOT,
        _api.VIR_DOMAIN_PAUSED_SHUTTING_DOWN,
    }
)
"""Paused by libvirt itself, which goes on with it in a moment."""
_REASONS: dict[tuple[int, int], str] = {
    (
        _api.VIR_DOMAIN_PAUSED,
        _api.VIR_DOMAIN_PAUSED_IOERROR,
    ): "paused by a disk error (is the host's disk full?)",
    (_api.VIR_DOMAIN_PAUSED, _api.VIR_DOMAIN_PAUSED_USER): "paused by hand; `virsh resume` lets it go on",
    (_api.VIR_DOMAIN_PAUSED, _api.VIR_DOMAIN_PAUSED_WATCHDOG): "paused by its watchdog",
    (_api.VIR_DOMAIN_PAUSED, _api.VIR_DOMAIN_PAUSED_CRASHED): "the guest's kernel panicked",
    (_api.VIR_DOMAIN_SHUTOFF, _api.VIR_DOMAIN_SHUTOFF_DESTROYED): "destroyed",
    (_api.VIR_DOMAIN_SHUTOFF, _api.VIR_DOMAIN_SHUTOFF_CRASHED): "crashed",
    (_api.VIR_DOMAIN_SHUTOFF, _api.VIR_DOMAIN_SHUTOFF_FAILED): "did not start",
    (_api.VIR_DOMAIN_SHUTOFF, _api.VIR_DOMAIN_SHUTOFF_SAVED): "saved to disk",
    (_api.VIR_DOMAIN_SHUTOFF, _api.VIR_DOMAIN_SHUTOFF_MIGRATED): "migrated away",
}
_RUNNING_STATES = frozenset({VMState.RUNNING, VMState.ERROR, VMState.STOPPING, VMState.PENDING})


def disk_name(vm_id: str) -> str:
    """The volume of a VM's disk."""
    return f"{vm_id}.qcow2"


def seed_name(vm_id: str) -> str:
    """The volume of a VM's NoCloud seed."""
    return f"{vm_id}.seed.iso"


def console_name(vm_id: str) -> str:
    """The volume that a VM's serial console is logged to."""
    return f"{vm_id}.console.log"


def state_of(state: int, reason: int) -> tuple[VMState, str]:
    """The port's state for libvirt's, with libvirt's reason in words where it is unexpected."""
    if state == _api.VIR_DOMAIN_PAUSED and reason == _api.VIR_DOMAIN_PAUSED_STARTING_UP:
        return VMState.PENDING, ""
    if state == _api.VIR_DOMAIN_PAUSED and reason in _PAUSED_FOR_NOW:
        return VMState.RUNNING, ""
    return _STATES.get(state, VMState.ERROR), _REASONS.get((state, reason), "")


def _state_of(domain: Any, state: int, reason: int) -> tuple[VMState, str]:
    """``state_of``, and whether a domain that is off has its memory saved: libvirt forgets that reason when it restarts."""
    if state == _api.VIR_DOMAIN_SHUTOFF and is_saved(domain):
        return VMState.SUSPENDED, ""
    return state_of(state, reason)


def read_mark(domain: Any) -> Mark:
    """Whose the domain is. Only names of our making are looked into."""
    if not domain.name().startswith(domain_name("")):
        return Mark()
    try:
        return Mark.parse(domain.metadata(_api.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE, 0))
    except driver.LibvirtError as error:
        if driver.is_code(error, _api.VIR_ERR_NO_DOMAIN_METADATA):
            return Mark()
        raise


def report(domain: Any, host: str, mark: Mark | None = None) -> VMReport:
    """The domain as it is now."""
    mark = read_mark(domain) if mark is None else mark
    libvirt_state, why = domain.state(0)
    state, reason = _state_of(domain, libvirt_state, why)
    info = domain.info()
    return VMReport(
        ref=domain.UUIDString(),
        host=host,
        state=state,
        name=mark.name or domain.name(),
        vm_id=mark.vm,
        broker_id=mark.broker,
        reason=reason,
        address=mark.address,
        vcpus=int(info[3]),
        mem_mb=int(info[1]) // 1024,
    )


def list_reports(connection: Any, host: str) -> list[VMReport]:
    """Every domain of the host, by one bulk call; no guest's monitor is waited for."""
    wanted = _api.VIR_DOMAIN_STATS_STATE | _api.VIR_DOMAIN_STATS_VCPU | _api.VIR_DOMAIN_STATS_BALLOON
    reports = []
    for domain, stats in connection.getAllDomainStats(wanted, _api.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT):
        try:
            state, reason = _state_of(domain, stats["state.state"], stats.get("state.reason", 0))
            mark = read_mark(domain)
            vcpus, mem_kib = stats.get("vcpu.maximum"), stats.get("balloon.maximum")
            if vcpus is None or mem_kib is None:  # left out for a guest that is busy, and by simple drivers
                _, mem_kib, _, vcpus, _ = domain.info()
        except driver.LibvirtError as error:
            if driver.is_code(error, _api.VIR_ERR_NO_DOMAIN):  # gone since the bulk call
                continue
            raise
        reports.append(
            VMReport(
                ref=domain.UUIDString(),
                host=host,
                state=state,
                name=mark.name or domain.name(),
                vm_id=mark.vm,
                broker_id=mark.broker,
                reason=reason,
                address=mark.address,
                vcpus=int(vcpus),
                mem_mb=int(mem_kib) // 1024,
            )
        )
    return reports


def runs(report: VMReport) -> bool:
    """Whether the VM takes memory and CPU of its host now."""
    return report.state in _RUNNING_STATES


def find(connection: Any, vm_id: str, ref: str) -> Any:
    """The domain with that UUID, else with the name of that VM, else None."""
    lookups = []
    if ref:
        lookups.append((connection.lookupByUUIDString, ref))
    if vm_id:
        lookups.append((connection.lookupByName, domain_name(vm_id)))
    for lookup, key in lookups:
        try:
            return lookup(key)
        except driver.LibvirtError as error:
            if not driver.is_code(error, _api.VIR_ERR_NO_DOMAIN):
                raise
    return None


def get(connection: Any, host: str, ref: str) -> Any:
    """The domain with that UUID. Raises NotFound."""
    domain = find(connection, "", ref)
    if domain is None:
        raise NotFound(f"host {host} has no domain {ref}")
    return domain


def is_saved(domain: Any) -> bool:
    """Whether the memory of the domain is saved on its host's disk."""
    return bool(domain.hasManagedSaveImage(0))


def adopt(domain: Any, host: str, spec: VMSpec, broker_id: str) -> VMReport:
    """A domain that is there already: started if it never ran. Raises Conflict when it is not this VM."""
    mark = read_mark(domain)
    if (mark.broker, mark.vm) != (broker_id, spec.id):
        raise Conflict(
            f"host {host} has a domain {domain.name()} ({domain.UUIDString()}) that is not VM {spec.id} of this broker"
        )
    state, reason = domain.state(0)
    # A shut-off domain that ran tells why it stopped; "unknown" is one that was only defined.
    never_ran = (state, reason) == (_api.VIR_DOMAIN_SHUTOFF, _api.VIR_DOMAIN_SHUTOFF_UNKNOWN)
    if never_ran and not is_saved(domain):
        start(domain)
    return report(domain, host, mark)


def check_spec(spec: VMSpec) -> None:
    """Raises InvalidSpec for what no host can do."""
    size = virtual_size(spec.image)
    if spec.disk_gb * _GIB < size:
        raise InvalidSpec(
            f"image {spec.image.name} needs a disk of {-(-size // _GIB)} GiB, the flavor has {spec.disk_gb} GiB"
        )


def create(
    connection: Any,
    pool: Any,
    pool_path: str,
    host: str,
    spec: VMSpec,
    image: ImageFiles,
    machine: Machine,
    broker_id: str,
    granting: Callable[[], AbstractContextManager[Grant]],
) -> VMReport:
    """Make the VM's volumes and domain and start it. What an earlier, broken-off attempt made is used or replaced.

    ``granting``: what it gets of the host for itself; held until the domain is defined.
    """
    fresh = _ensure_disk(pool, spec, image)
    domain = None
    try:
        _ensure_seed(connection, pool, spec)
        files = DomainFiles(
            disk=f"{pool_path}/{disk_name(spec.id)}",
            seed=f"{pool_path}/{seed_name(spec.id)}",
            console=f"{pool_path}/{console_name(spec.id)}",
            kernel=image.kernel,
            initrd=image.initrd,
        )
        with granting() as granted:
            domain = connection.defineXML(domain_xml(spec, machine, files, broker_id, granted))
        start(domain)
    except (driver.LibvirtError, OutOfCapacity):
        # A VM that cannot start here will be placed elsewhere. Nothing of it may stay, except data of an earlier
        # life. When the connection broke nothing of this succeeds, and nothing should: the VM may be running.
        with contextlib.suppress(driver.LibvirtError):
            if domain is not None:
                undefine(domain)
            if fresh:
                delete_volumes(pool, spec.id)
        raise
    return report(domain, host, Mark.of(spec, broker_id))


def start(domain: Any) -> None:
    """Start the domain, from its saved memory when it has one; nothing when it runs."""
    try:
        domain.create()
    except driver.LibvirtError:
        if not domain.isActive():
            raise


def stop(domain: Any, *, force: bool) -> None:
    """Ask for a shutdown, or pull the plug; nothing when the domain is off.

    By the ACPI power button, because asking the guest's agent lasts as long as the shutdown does. Raises Conflict when
    it is suspended: its saved memory goes by force only.
    """
    try:
        if not domain.isActive() and is_saved(domain):
            if not force:
                raise Conflict(f"{domain.name()} is suspended: resume it first, or use force")
            domain.managedSaveRemove(0)
        elif force:
            domain.destroy()
        else:
            domain.shutdownFlags(_api.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
    except driver.LibvirtError as error:
        # "Invalid" it is also for a guest that is shutting down already.
        if not driver.is_code(error, _api.VIR_ERR_OPERATION_INVALID) and domain.isActive():
            raise


def reboot(domain: Any, host: str) -> None:
    """Ask the guest to reboot, by ACPI too. Raises Conflict when it is off."""
    if not domain.isActive():
        raise Conflict(f"host {host}: {domain.name()} is off; start it first")
    domain.reboot(_api.VIR_DOMAIN_REBOOT_ACPI_POWER_BTN)


def suspend(domain: Any, host: str) -> None:
    """Save the domain's memory to the host's disk and stop it; nothing when that is done. Raises Conflict when it is off."""
    try:
        domain.managedSave(0)
    except driver.LibvirtError as error:
        if domain.isActive():
            raise
        if not is_saved(domain):
            raise Conflict(f"host {host}: {domain.name()} is off; start it first") from error


def delete(connection: Any, pool: Any, host: str, vm_id: str, ref: str, broker_id: str) -> None:
    """Remove the domain and its volumes, whatever of them is left. Raises Conflict when it is not ours."""
    domain = find(connection, vm_id, ref)
    if domain is not None:
        try:
            mark = read_mark(domain)
            if (mark.broker, mark.vm) != (broker_id, vm_id):
                raise Conflict(
                    f"host {host}: domain {domain.name()} ({domain.UUIDString()}) does not carry the mark of VM "
                    f"{vm_id} of this broker; left alone"
                )
            stop(domain, force=True)
            undefine(domain)
        except driver.LibvirtError as error:
            if not driver.is_code(error, _api.VIR_ERR_NO_DOMAIN):
                raise
    volumes.refresh(pool)  # rotated console logs are not volumes until libvirt has seen them
    delete_volumes(pool, vm_id)


def undefine(domain: Any) -> None:
    """Forget the domain with all that libvirt keeps of it."""
    flags = (
        _api.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
        | _api.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        | _api.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
        | _api.VIR_DOMAIN_UNDEFINE_NVRAM
    )
    try:
        domain.undefineFlags(flags)
    except driver.LibvirtError as error:
        if not driver.is_code(error, _api.VIR_ERR_INVALID_ARG, _api.VIR_ERR_NO_SUPPORT):
            raise
        domain.undefine()  # a driver that keeps none of these


def delete_volumes(pool: Any, vm_id: str) -> None:
    """Delete every volume that was made for the VM."""
    for name in volumes.volume_names(pool):
        if name.startswith(f"{vm_id}."):
            volumes.delete_volume(pool, name)


def console_log(connection: Any, pool: Any, host: str, ref: str) -> bytes:
    """The newest 64 KiB of the serial console. Raises NotFound."""
    domain = get(connection, host, ref)
    volume = volumes.find_volume(pool, console_name(read_mark(domain).vm))
    if volume is None:
        raise NotFound(f"host {host}: {domain.name()} has no console log in pool {volumes.POOL}")
    return volumes.read_tail(connection, volume, _CONSOLE_BYTES)


def create_volumes(connection: Any, pool: Any, spec: VMSpec, image: ImageFiles) -> None:
    """Make the volumes that the VM's domain will name. What is there already is used, or replaced."""
    _ensure_disk(pool, spec, image)
    _ensure_seed(connection, pool, spec)


def _ensure_seed(connection: Any, pool: Any, spec: VMSpec) -> None:
    volumes.create_filled(connection, pool, seed_name(spec.id), seed_iso(spec))
    with driver.ignoring(_api.VIR_ERR_STORAGE_VOL_EXIST):
        volumes.create_empty(pool, console_name(spec.id))


def _ensure_disk(pool: Any, spec: VMSpec, image: ImageFiles) -> bool:
    """The VM's disk; whether it was made now. One of an earlier attempt is kept: it may hold data."""
    name, size = disk_name(spec.id), spec.disk_gb * _GIB
    there = volumes.find_volume(pool, name)
    if there is not None:
        if _is_whole(there, size):
            return False
        volumes.delete_volume(pool, name)  # cut short when it was made
    volumes.create_clone(pool, name, size, image.disk, spec.image.format)
    return True


def _is_whole(volume: Any, size: int) -> bool:
    """Whether a VM's disk was made to its end. QEMU writes the name of the backing file last."""
    try:
        facts = etree.fromstring(volume.XMLDesc(0))  # looks into the file
    except driver.LibvirtError as error:
        if isinstance(driver.translate(error, ""), Unreachable):
            raise
        return False
    return facts.findtext("capacity") == str(size) and bool(facts.findtext("backingStore/path"))
