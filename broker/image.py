"""Images: disks that VMs are cloned from, copied into the broker's data directory.

An import into a family that its owner has already is its next version. The family's bare name means the newest version
that is not deprecated, ``family@version`` always the same one: a number is not given again while the family has any.
"""

from __future__ import annotations

import filecmp
import hashlib
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, Unpack

from sqlalchemy import ColumnElement, Select, and_, false, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, joinedload, subqueryload
from sqlalchemy.sql.base import ExecutableOption

from broker import access, event, label, listing, project, site
from broker.actor import Actor
from broker.broker import Broker
from broker.errors import Exists, InUse, InvalidRequest, NotFound, Unavailable
from broker.states import ImageState, RealisationState, Visibility, VMState
from broker.store import LABELS, ImageRow, RealisationRow, SiteRow, VMRow
from providers.port import ImageSpec

_QCOW2_MAGIC = b"QFI\xfb"
_GIB = 1 << 30
_LARGEST_GB = (1 << 31) - 1
"""What the column holds; a header can say more."""
_NUMBER = re.compile("[1-9][0-9]{0,8}")
_SHOWN = (LABELS, joinedload(ImageRow.project), subqueryload(ImageRow.realisations))
"""For a query of images that are shown: all that answers tell of them, in two statements however many they are."""
Q = TypeVar("Q", bound="Select[*tuple[Any, ...]]")


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
    min_disk_gb: int | None = None,
    login_user: str = "",
    project_ref: str | None = None,
    visibility: str | None = None,
    sites: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
) -> ImageRow:
    """Copy a disk image (and a kernel to boot it with) into the catalogue: the next version of the family of that name.

    Admins only: it reads the broker's files. With ``project_ref`` it is that project's, and private unless ``visibility``
    says otherwise; without, it is the broker's own, and shared. ``min_disk_gb`` (GiB) is by default the disk's own size.

    Raises Exists (the newest version is the same), InvalidRequest (no such file, another format than said, a backing file,
    a disk larger than ``min_disk_gb``, private and nobody's), NotFound (site, project), Unavailable (two at the same moment).
    """
    access.require(actor, "image.create")
    if visibility is None:
        visibility = Visibility.SHARED if project_ref is None else Visibility.PRIVATE
    if project_ref is None and visibility == Visibility.PRIVATE:
        raise InvalidRequest("a private image needs the project that it is for", hint="say which: --project")
    with broker.store.reading() as session:
        owner = project.find(session, actor, project_ref) if project_ref is not None else None
        _sites(session, sites or {})
    family = ImageRow.family == name, ImageRow.project_id == (owner.id if owner is not None else None)
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
        row = ImageRow(
            id=image_id,
            family=name,
            project_id=owner.id if owner is not None else None,
            visibility=visibility,
            state=ImageState.AVAILABLE,
            format=format,
            path=str(folder / "disk"),
            sha256=digest,
            size_bytes=(folder / "disk").stat().st_size,
            architecture=architecture,
            kernel=str(folder / "kernel") if kernel else "",
            initrd=str(folder / "initrd") if initrd else "",
            cmdline=cmdline,
            min_disk_gb=_min_disk(folder / "disk", format, source, min_disk_gb),
            login_user=login_user,
            created_at=broker.clock.now(),
        )
        with broker.store.reading() as session:
            newest = session.scalar(
                _living(select(ImageRow)).where(*family).order_by(ImageRow.version.desc()).limit(1)
            )
        if newest is not None and _same(newest, row):
            raise Exists(
                "image",
                newest.name,
                message=f"{pinned(newest)} is the same image already",
                hint="use it as it is; `isthmus image delete` makes room for another import of it",
            )
        with broker.store.transaction() as session:
            row.version = _next_version(session, family)
            session.add(row)
            label.give(session, row, labels)
            _realise(broker, row, _sites(session, sites or {}))
            event.record(
                broker,
                session,
                "image.created",
                image_id,
                f"image {pinned(row)} imported by {actor.name}",
                project_id=row.project_id,
            )
            session.flush()
            session.refresh(row, ["project", "refs"])
        return row
    except IntegrityError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise Unavailable(
            f"another import into {name} ended at the same moment", hint="ask again in a moment"
        ) from error
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def find(session: Session, actor: Actor, ref: str, *, here: bool = False) -> ImageRow:
    """An image by id, by ``family@version``, or by family: its newest version that is not deprecated. Raises NotFound.

    Of families of one name the caller's project's comes before the broker's own. ``here`` keeps to what the caller's
    current project may use: what others see of other projects is no image for its VMs.
    """
    return _find(session, actor, ref, here, _SHOWN)


def for_vm(session: Session, actor: Actor, ref: str) -> ImageRow:
    """The image of a VM that is to be made in the caller's current project: ``find`` without what only answers tell."""
    return _find(session, actor, ref, True, ())


def _find(
    session: Session, actor: Actor, ref: str, here: bool, options: Sequence[ExecutableOption]
) -> ImageRow:
    family, at, number = ref.rpartition("@")
    if not at:
        named = and_(ImageRow.family == ref, ImageRow.deprecated_at.is_(None))
    elif _NUMBER.fullmatch(number):
        named = and_(ImageRow.family == family, ImageRow.version == int(number))
    else:
        named = false()
    near = access.nearest(actor, ImageRow, ref)
    seen = access.offered(_living(select(ImageRow)), actor, ImageRow, "image.get", here=here)
    query = seen.where((ImageRow.id == ref) | named).options(*options)
    row = session.scalar(query.order_by(*near, ImageRow.version.desc()).limit(1))
    if row is None:
        old = session.scalar(seen.where(ImageRow.family == ref).order_by(ImageRow.version.desc()).limit(1))
        hint = f"all its versions are deprecated; {pinned(old)} names the newest" if old is not None else ""
        raise NotFound("image", ref, hint=hint)
    return row


def get(broker: Broker, actor: Actor, ref: str, *, here: bool = False) -> ImageRow:
    """One image; ``ref`` and ``here`` as in ``find``. Raises NotFound."""
    access.require(actor, "image.get")
    with broker.store.reading() as session:
        return find(session, actor, ref, here=here)


def list_images(
    broker: Broker, actor: Actor, *, here: bool = False, **which: Unpack[listing.Which]
) -> Sequence[ImageRow]:
    """The versions of images that the caller sees, in ``order``, or so many by their ids; ``here`` as in ``find``."""
    access.require(actor, "image.list")
    query = access.offered(_living(select(ImageRow)), actor, ImageRow, "image.list", here=here)
    with broker.store.reading() as session:
        found = session.scalars(listing.narrowed(query.options(*_SHOWN), ImageRow, which)).all()
    return found if which.get("limit") else sorted(found, key=order)


def order(row: ImageRow) -> tuple[str, str, int]:
    """What whole lists are ordered by: the family, then the owner (the broker first), then the version."""
    return row.family, row.project_id or "", row.version


def pinned(row: ImageRow) -> str:
    """The reference that always means this version."""
    return f"{row.family}@{row.version}"


def map_sites(broker: Broker, actor: Actor, ref: str, sites: Mapping[str, str]) -> ImageRow:
    """Set under which id each cloud site knows this image. Raises NotFound."""
    access.require(actor, "image.map")
    with broker.store.transaction() as session:
        row = find(session, actor, ref)
        wanted = _sites(session, sites)
        # Locked, and read again: two that map it at once leave the map of one of them.
        session.execute(select(ImageRow.id).where(ImageRow.id == row.id).with_for_update())
        session.refresh(row, ["realisations"])
        _realise(broker, row, wanted)
        event.record(
            broker,
            session,
            "image.mapped",
            row.id,
            f"image {row.name} mapped by {actor.name}",
            project_id=row.project_id,
            sites=dict(sites),
        )
        session.flush()
        session.refresh(row, ["refs"])
    broker.signals.set("place")
    return row


def deprecate(broker: Broker, actor: Actor, ref: str, on: bool = True) -> ImageRow:
    """Have the family's bare name not mean this version any more (``on``), or mean it again. It can be used as before.

    Again changes nothing. Raises NotFound.
    """
    access.require(actor, "image.deprecate")
    with broker.store.transaction() as session:
        row = find(session, actor, ref)
        if on != (row.deprecated_at is not None):
            row.deprecated_at = broker.clock.now() if on else None
            event.record(
                broker,
                session,
                "image.deprecated" if on else "image.undeprecated",
                row.id,
                f"image {pinned(row)} is {'' if on else 'no longer '}deprecated, by {actor.name}",
                project_id=row.project_id,
            )
    return row


def delete(broker: Broker, actor: Actor, ref: str) -> None:
    """Remove a version that no VM uses. Raises InUse, InvalidRequest (a bare name of several), NotFound."""
    access.require(actor, "image.delete")
    with broker.store.transaction() as session:
        row = find(session, actor, ref)
        family = ImageRow.family == row.family, ImageRow.project_id == row.project_id
        living = session.scalars(_living(select(ImageRow.version)).where(*family).order_by(ImageRow.version))
        others = [version for version in living if version != row.version]
        if others and ref == row.family:
            raise InvalidRequest(
                f"image {ref} has other versions: {', '.join(map(str, others))}",
                hint=f"say which to delete: {pinned(row)} is the one that the name means",
            )
        of_it = select(func.count()).select_from(VMRow).where(VMRow.image_id == row.id)
        users = session.scalar(of_it.where(VMRow.state != VMState.TERMINATED))
        if users:
            raise InUse(f"image {row.name} is the base of {users} VMs", hint="delete them first")
        if others or session.scalar(of_it):
            # Terminated VMs keep their history, and the family does not give the number again. The files go.
            row.state, row.realisations = ImageState.DELETED, []
            label.remove(session, [row.id])
        else:
            session.delete(row)
        event.record(
            broker,
            session,
            "image.deleted",
            row.id,
            f"image {ref} deleted by {actor.name}",
            project_id=row.project_id,
        )
    shutil.rmtree(broker.images_dir / row.id, ignore_errors=True)


def spec(row: ImageRow, site_id: str) -> ImageSpec:
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
        remote_id=row.refs.get(site_id, ""),
    )


def _living(query: Q) -> Q:
    return query.where(ImageRow.state != ImageState.DELETED)


def _next_version(session: Session, family: Sequence[ColumnElement[bool]]) -> int:
    """From 1 where nothing is left of the family; otherwise no number that a version had before."""
    if session.scalar(_living(select(ImageRow.id)).where(*family).limit(1)) is None:
        return 1
    return (session.scalar(select(func.max(ImageRow.version)).where(*family)) or 0) + 1


def _sites(session: Session, sites: Mapping[str, str]) -> list[tuple[SiteRow, str]]:
    """The sites of a map by their names, and what the image is there. Raises NotFound."""
    found = [(site.find(session, name), ref) for name, ref in sites.items()]
    return [(at, ref) for at, ref in found if ref]


def _realise(broker: Broker, row: ImageRow, wanted: Sequence[tuple[SiteRow, str]]) -> None:
    """Make these all that sites have of the image."""
    now = broker.clock.now()
    have = {one.site_id: one for one in row.realisations}
    row.realisations = []
    for at, ref in wanted:
        one = have.get(at.id)
        if one is None:
            state = RealisationState.AVAILABLE
            one = RealisationRow(site=at, site_id=at.id, state=state, created_at=now)
        if one.ref != ref:
            one.ref, one.updated_at = ref, now
        row.realisations.append(one)


def _same(one: ImageRow, other: ImageRow) -> bool:
    """Whether VMs of both would be alike."""
    facts = ("sha256", "format", "architecture", "cmdline")
    return all(getattr(one, fact) == getattr(other, fact) for fact in facts) and all(
        _same_file(getattr(one, part), getattr(other, part)) for part in ("kernel", "initrd")
    )


def _same_file(one: str, other: str) -> bool:
    if not (one and other):
        return one == other
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False


def _min_disk(disk: Path, format: str, named: Path, asked: int | None) -> int:
    """The least disk in GiB that the image fits on, or the one ``asked`` for. Raises InvalidRequest when that is less.

    qcow2 has what the guest sees of it, in bytes, big-endian at byte 24 (QEMU docs/interop/qcow2.txt).
    """
    size = disk.stat().st_size
    if format == "qcow2":
        with disk.open("rb") as stream:
            size = int.from_bytes(stream.read(32)[24:], "big")
    needed = min(-(-size // _GIB), _LARGEST_GB)
    if asked is not None and asked < needed:
        raise InvalidRequest(
            f"{named} is a disk of {needed} GiB, which does not fit on {asked}",
            hint=f"ask for {needed} or more, or leave it out",
        )
    return needed if asked is None else asked


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
