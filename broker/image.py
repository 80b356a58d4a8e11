"""Images: disks that VMs are cloned from, copied into the broker's data directory."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from broker import access, event, label, site
from broker.actor import Actor
from broker.broker import Broker
from broker.errors import Exists, InUse, InvalidRequest, NotFound
from broker.store import LABELS, ImageRow, VMRow
from providers.port import ImageSpec

_QCOW2_MAGIC = b"QFI\xfb"


def create(
    broker: Broker,
    actor: Actor,
    *,
    name: str,
    path: str,
    format: str = "qcow2",
    architecture: str = "x86_64",
    kernel: str | None = None,
    initrd: str | None = None,
    cmdline: str = "",
    sites: dict[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
) -> ImageRow:
    """Copy a disk image (and a kernel to boot it with) into the catalogue. Admins only: it reads the broker's files.

    Raises Exists, InvalidRequest (no such file, another format than said, a backing file), NotFound (site).
    """
    access.require(actor, "image.create")
    with broker.store.reading() as session:
        if session.scalar(select(ImageRow).where(ImageRow.name == name)):
            raise Exists("image", name)
        for site_name in sites or {}:
            site.find(session, site_name)
    source = _readable(path, "image")
    _check_format(source, format, source)
    image_id = broker.new_id("img")
    folder = broker.images_dir / image_id
    folder.mkdir(parents=True)
    try:
        digest = _copy(source, folder / "disk")
        _check_format(folder / "disk", format, source)  # again: the source may be another file by now
        for file, part in ((kernel, "kernel"), (initrd, "initrd")):
            if file:
                _copy(_readable(file, part), folder / part)
        with broker.store.transaction() as session:
            if session.scalar(select(ImageRow).where(ImageRow.name == name)):
                raise Exists("image", name)
            row = ImageRow(
                id=image_id,
                name=name,
                state="available",
                format=format,
                path=str(folder / "disk"),
                sha256=digest,
                size_bytes=(folder / "disk").stat().st_size,
                architecture=architecture,
                kernel=str(folder / "kernel") if kernel else "",
                initrd=str(folder / "initrd") if initrd else "",
                cmdline=cmdline,
                sites=dict(sites or {}),
                created_at=broker.clock.now(),
            )
            session.add(row)
            label.give(session, row, labels)
            event.record(broker, session, "image.created", image_id, f"image {name} imported by {actor.name}")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return row


def find(session: Session, ref: str) -> ImageRow:
    """An image by id or name. Raises NotFound."""
    query = select(ImageRow).where((ImageRow.id == ref) | (ImageRow.name == ref), ImageRow.state != "deleted")
    row = session.scalar(query.options(LABELS))
    if row is None:
        raise NotFound("image", ref)
    return row


def get(broker: Broker, actor: Actor, ref: str) -> ImageRow:
    """One image. Raises NotFound."""
    access.require(actor, "image.get")
    with broker.store.reading() as session:
        return find(session, ref)


def list_images(
    broker: Broker, actor: Actor, *, labels: Mapping[str, str] | None = None
) -> Sequence[ImageRow]:
    """All images that carry these labels, by name."""
    access.require(actor, "image.list")
    with broker.store.reading() as session:
        query = select(ImageRow).where(ImageRow.state != "deleted").order_by(ImageRow.name)
        return list(session.scalars(label.filter(query.options(LABELS), ImageRow, labels)))


def map_sites(broker: Broker, actor: Actor, ref: str, sites: dict[str, str]) -> ImageRow:
    """Set under which id each cloud site knows this image. Raises NotFound."""
    access.require(actor, "image.map")
    with broker.store.transaction() as session:
        row = find(session, ref)
        for site_name in sites:
            site.find(session, site_name)
        row.sites = dict(sites)
        event.record(
            broker, session, "image.mapped", row.id, f"image {row.name} mapped by {actor.name}", sites=sites
        )
    broker.signals.set("place")
    return row


def delete(broker: Broker, actor: Actor, ref: str) -> None:
    """Remove an image that no VM uses. Raises InUse, NotFound."""
    access.require(actor, "image.delete")
    with broker.store.transaction() as session:
        row = find(session, ref)
        users = session.scalar(
            select(func.count())
            .select_from(VMRow)
            .where(VMRow.image_id == row.id, VMRow.state != "terminated")
        )
        if users:
            raise InUse(f"image {row.name} is the base of {users} VMs", hint="delete them first")
        if session.scalar(select(func.count()).select_from(VMRow).where(VMRow.image_id == row.id)):
            # Terminated VMs keep their history; the name is given back and the files go.
            row.name, row.state = f"{row.name}.{row.id}", "deleted"
            label.remove(session, [row.id])
        else:
            session.delete(row)
        event.record(broker, session, "image.deleted", row.id, f"image {ref} deleted by {actor.name}")
    shutil.rmtree(broker.images_dir / row.id, ignore_errors=True)


def spec(row: ImageRow, site_name: str) -> ImageSpec:
    """What a provider needs to know of the image at one site."""
    return ImageSpec(
        id=row.id,
        name=row.name,
        format=row.format,
        path=row.path,
        sha256=row.sha256,
        size_bytes=row.size_bytes,
        kernel=row.kernel,
        initrd=row.initrd,
        cmdline=row.cmdline,
        remote_id=row.sites.get(site_name, ""),
    )


def _readable(path: str, noun: str) -> Path:
    file = Path(path)
    if not file.is_absolute():
        raise InvalidRequest(
            f"{noun} path {path!r} is not absolute", hint="name the file from / on the broker's machine"
        )
    if not file.is_file():
        raise InvalidRequest(
            f"{noun} file {path} does not exist on the broker's machine", hint="copy it there first"
        )
    return file


def _check_format(file: Path, format: str, named: Path) -> None:
    """Raise InvalidRequest for a disk of another format, or one that is not whole by itself; ``named`` in the words."""
    with file.open("rb") as stream:
        header = stream.read(80)
    is_qcow2 = header.startswith(_QCOW2_MAGIC)
    if is_qcow2 != (format == "qcow2"):
        actual = "qcow2" if is_qcow2 else "not qcow2"
        raise InvalidRequest(
            f"{named} is {actual}, but the format given is {format}", hint="give the right format"
        )
    if not is_qcow2:
        return
    # A backing or data file would let an image reach any file of a host (CVE-2024-32498). QEMU's
    # docs/interop/qcow2.txt: the backing file's name is at byte 8; from version 3 bit 2 at byte 72 is a data file.
    version, backing = int.from_bytes(header[4:8], "big"), int.from_bytes(header[8:16], "big")
    if backing or (version >= 3 and int.from_bytes(header[72:80], "big") & 4):
        raise InvalidRequest(
            f"{named} needs another file, its {'backing' if backing else 'data'} file",
            hint="flatten it with `qemu-img convert -O qcow2`",
        )
    try:
        answer = subprocess.run(
            ["qemu-img", "info", "--output=json", str(file)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except FileNotFoundError:
        return  # qemu-img only finds damage before the hosts' QEMU does
    if answer.returncode != 0:
        raise InvalidRequest(
            f"{named} is damaged: {answer.stderr.strip()}", hint="`qemu-img check` tells more"
        )


def _copy(source: Path, target: Path) -> str:
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(1 << 20):
            digest.update(chunk)
            writer.write(chunk)
    return digest.hexdigest()
