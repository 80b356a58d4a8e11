"""Live migration: a running VM goes to another host of its site, with its disk.

The hosts share no storage. The target gets the image (by ``ensure_image``), an empty overlay over it, the seed and a
console log; QEMU then copies the blocks that the VM changed, and its memory, while it runs (libvirt's
``VIR_MIGRATE_NON_SHARED_INC``, https://libvirt.org/migration.html). The broker speaks to both hosts ("managed direct"),
and QEMU's data goes from host to host at the address of ``migration_host`` in the target's qemu.conf.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from lxml import etree

from providers.kvm import driver
from providers.kvm import pool as volumes
from providers.kvm import vm as vms
from providers.kvm.connection import Connection
from providers.kvm.hardware import shared_list
from providers.kvm.host import KvmHost, Session
from providers.kvm.image import ImageFiles
from providers.port import Conflict, NotFound, Progress, ProviderError, VMReport, VMSpec

_api = driver.api
_FLAGS = (
    _api.VIR_MIGRATE_LIVE
    | _api.VIR_MIGRATE_PERSIST_DEST
    | _api.VIR_MIGRATE_UNDEFINE_SOURCE
    | _api.VIR_MIGRATE_NON_SHARED_INC
    | _api.VIR_MIGRATE_AUTO_CONVERGE
    | _api.VIR_MIGRATE_ABORT_ON_ERROR
)
_MIGRATE_S = 6 * 3600.0
_PROGRESS_S = 0.5


def migrate(
    source: KvmHost,
    target: KvmHost,
    spec: VMSpec,
    broker_id: str,
    progress: Progress | None = None,
    *,
    tls: bool = True,
) -> VMReport:
    """Move the VM, or finish what an earlier attempt began. Raises NotFound, Conflict, OutOfCapacity.

    ``tls``: QEMU encrypts what it sends, with the certificates of the hosts (``migrate_tls_x509_cert_dir`` of qemu.conf).
    """
    flags = _FLAGS | _api.VIR_MIGRATE_TLS if tls else _FLAGS
    with target.moving(spec.id):
        report = target.call(lambda session: _arrived(session, spec, broker_id))
        if report is None:
            source.call(lambda session: _ready(session, spec, source.name, broker_id))
            try:
                image = target.call(lambda session: _prepare(session, target, spec))
                _move(source, target, spec, image, flags, progress)
            except ProviderError:
                with contextlib.suppress(ProviderError):
                    target.call(lambda session: _tidy(session, spec))
                with contextlib.suppress(ProviderError):
                    source.call(lambda session: _let_go_on(session, spec))
                raise
            report = target.call(lambda session: _arrived(session, spec, broker_id))
            if report is None:
                raise NotFound(f"{spec.name} left host {source.name} and is not on host {target.name}")
        source.call(lambda session: _tidy(session, spec))
        return report


def _arrived(session: Session, spec: VMSpec, broker_id: str) -> VMReport | None:
    """The VM on its target, when it runs there. Raises Conflict when something else has its name."""
    domain = vms.find(session.connection, spec.id, spec.uuid)
    if domain is None:
        return None
    mark = vms.read_mark(domain)
    if (mark.broker, mark.vm) != (broker_id, spec.id):
        raise Conflict(
            f"host {spec.host} has a domain {domain.name()} that is not VM {spec.id} of this broker"
        )
    if not domain.isActive():
        vms.undefine(domain)  # left over: one that is off does not migrate
        return None
    return vms.report(domain, spec.host, mark)


def _ready(session: Session, spec: VMSpec, host: str, broker_id: str) -> None:
    domain = vms.find(session.connection, spec.id, spec.uuid)
    if domain is None:
        raise NotFound(f"host {host} has no VM {spec.name}")
    mark = vms.read_mark(domain)
    if (mark.broker, mark.vm) != (broker_id, spec.id):
        raise Conflict(f"host {host}: domain {domain.name()} does not carry the mark of VM {spec.id}")
    if not domain.isActive():
        raise Conflict(f"host {host}: {spec.name} is off; start it first")
    _let_go_on(session, spec)


def _let_go_on(session: Session, spec: VMSpec) -> None:
    """A migration that was cut off at its end leaves the VM paused on its source."""
    domain = vms.find(session.connection, spec.id, spec.uuid)
    if domain is not None and domain.state(0) == [
        _api.VIR_DOMAIN_PAUSED,
        _api.VIR_DOMAIN_PAUSED_MIGRATION,
    ]:
        domain.resume()


def _prepare(session: Session, target: KvmHost, spec: VMSpec) -> ImageFiles:
    image = target.image_files(session, spec.image)
    if image is None:
        raise NotFound(f"image {spec.image.name} is not on host {spec.host}; ensure_image first")
    vms.delete_volumes(session.pool, spec.id)  # of an earlier attempt: an overlay that was half filled
    vms.create_volumes(session.connection, session.pool, spec, image)
    return image


def _move(
    source: KvmHost,
    target: KvmHost,
    spec: VMSpec,
    image: ImageFiles,
    flags: int,
    progress: Progress | None,
) -> None:
    shared = target.call(lambda session: shared_list(session.facts.hardware))
    away = source.connection.separate(_MIGRATE_S)
    there = target.connection.separate(_MIGRATE_S)
    try:
        pending = away.submit(lambda connection: _migrate(connection, there, spec, image, shared, flags))
        while not pending.future.done():
            with contextlib.suppress(FutureTimeout, ProviderError):
                pending.future.exception(timeout=_PROGRESS_S)
            if progress is not None and not pending.future.done():
                with contextlib.suppress(ProviderError):
                    source.call(lambda session: _tell(session, spec, progress))
        away.result(pending)
    finally:
        away.close()
        there.close()


def _migrate(
    connection: Any, there: Connection, spec: VMSpec, image: ImageFiles, shared: str, flags: int
) -> None:
    domain = vms.find(connection, spec.id, spec.uuid)
    if domain is None:
        raise NotFound(f"{spec.name} is gone from its host")
    wanted = _api.VIR_DOMAIN_XML_SECURE | _api.VIR_DOMAIN_XML_MIGRATABLE
    parameters = {
        _api.VIR_MIGRATE_PARAM_MIGRATE_DISKS: ["vda"],
        _api.VIR_MIGRATE_PARAM_DEST_XML: _as_there(domain.XMLDesc(wanted), image, shared),
        _api.VIR_MIGRATE_PARAM_PERSIST_XML: _as_there(
            domain.XMLDesc(wanted | _api.VIR_DOMAIN_XML_INACTIVE), image, shared
        ),
    }
    there.call(lambda target: domain.migrate3(target, parameters, flags))


def _as_there(xml: str, image: ImageFiles, shared: str) -> str:
    """The domain with the files of its image as they are called on the target (each upload has names of its own), and on
    the CPUs that guests share there."""
    domain = etree.fromstring(xml)
    vcpu = domain.find("vcpu")
    if vcpu is not None:
        vcpu.attrib.pop("cpuset", "")
        if shared:
            vcpu.set("cpuset", shared)
    for path, file in (("os/kernel", image.kernel), ("os/initrd", image.initrd)):
        element = domain.find(path)
        if element is not None:
            element.text = file
    for disk in domain.findall("devices/disk"):
        for chain in disk.findall("backingStore"):
            disk.remove(chain)
    return etree.tostring(domain, encoding="unicode")


def _tell(session: Session, spec: VMSpec, progress: Progress) -> None:
    domain = vms.find(session.connection, spec.id, spec.uuid)
    if domain is None:
        return
    try:
        job = domain.jobStats(0)
    except driver.LibvirtError:
        return  # it has just ended
    total = int(job.get("data_total", 0))
    if total:
        progress(total - int(job.get("data_remaining", 0)), total)


def _tidy(session: Session, spec: VMSpec) -> None:
    """Remove the VM's files from a host where it is not."""
    if vms.find(session.connection, spec.id, spec.uuid) is None:
        volumes.refresh(session.pool)
        vms.delete_volumes(session.pool, spec.id)
