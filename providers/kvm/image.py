"""Images on a host: volumes of the pool, uploaded once and marked when they are whole.

An upload goes to names that carry a nonce of its own; when all files are there an empty volume
``KEY-NONCE.complete`` is made. Readers see only what has that marker, so a broker, a libvirtd or a host that dies
halfway leaves nothing that could be taken for an image, and two brokers that upload at once do not collide.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lxml import etree

from providers.kvm import pool as volumes
from providers.port import ImageSpec, InvalidSpec, NotFound, Progress

_COMPLETE = ".complete"
_ABANDONED_S = 6 * 3600.0
"""An upload without marker that was last written to so long ago is nobody's any more."""

_QCOW2_MAGIC = b"QFI\xfb"


@dataclass(frozen=True)
class ImageFiles:
    """Paths of an image on the host."""

    disk: str
    kernel: str = ""
    initrd: str = ""


def image_key(image: ImageSpec) -> str:
    """What an image's volumes are called: its id and the beginning of its content's hash."""
    return f"{image.id}-{image.sha256[:12] or 'nohash'}"


def virtual_size(image: ImageSpec) -> int:
    """Bytes that the guest sees of the image's disk; 0 when the file is not readable here.

    qcow2 has it big-endian at byte 24 (QEMU docs/interop/qcow2.txt). Raises InvalidSpec when it is no qcow2.
    """
    try:
        with open(image.path, "rb") as file:
            head = file.read(32)
    except OSError:
        return 0
    if image.format == "raw":
        return os.path.getsize(image.path)
    if not head.startswith(_QCOW2_MAGIC) or len(head) < 32:
        raise InvalidSpec(f"image {image.name}: {image.path} is not a qcow2 file")
    return int.from_bytes(head[24:32], "big")


def find_image(pool: Any, path: str, image: ImageSpec) -> ImageFiles | None:
    """The image's files on the host when all of it is there."""
    key = image_key(image)
    names = set(volumes.volume_names(pool))
    for name in sorted(names):
        if name.startswith(f"{key}-") and name.endswith(_COMPLETE):
            stem = name.removesuffix(_COMPLETE)
            if names.issuperset(f"{stem}{suffix}" for suffix in _sources(image)):
                return _files(path, stem, image)
    return None


def image_ids(pool: Any) -> tuple[str, ...]:
    """The ids of the images that are whole on the host."""
    found = {
        # KEY-NONCE.complete, where KEY is the id and the hash
        name.removesuffix(_COMPLETE).rsplit("-", 2)[0]
        for name in volumes.volume_names(pool)
        if name.endswith(_COMPLETE)
    }
    return tuple(sorted(found))


def upload_image(
    connection: Any,
    pool: Any,
    path: str,
    image: ImageSpec,
    progress: Progress | None = None,
    *,
    nonce: Callable[[], str] = lambda: secrets.token_hex(4),
    clock: Callable[[], float] = time.time,
) -> ImageFiles:
    """Upload the image's files and mark them whole. Raises NotFound when a file is not readable here."""
    virtual_size(image)
    sources = _sources(image)
    try:
        sizes = {suffix: os.path.getsize(source) for suffix, source in sources.items()}
    except OSError as error:
        raise NotFound(
            f"image {image.name}: {error.strerror}: {error.filename!r}; import it again"
        ) from error
    _sweep(pool, image_key(image), clock())
    stem = f"{image_key(image)}-{nonce()}"
    total, done = sum(sizes.values()), 0

    def sent(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    made = []
    try:
        for suffix, source in sources.items():
            made.append(f"{stem}{suffix}")
            with open(source, "rb") as file:
                volumes.upload_file(connection, pool, made[-1], file, sizes[suffix], sent)
        volumes.create_empty(pool, f"{stem}{_COMPLETE}")
    except OSError as error:
        _drop(pool, made)
        raise NotFound(f"image {image.name}: cannot read {error.filename!r}: {error.strerror}") from error
    except BaseException:
        _drop(pool, made)
        raise
    return _files(path, stem, image)


def _sources(image: ImageSpec) -> dict[str, str]:
    """The image's files here, by the suffix that their volumes have."""
    optional = {".kernel": image.kernel, ".initrd": image.initrd}
    return {".disk": image.path, **{suffix: source for suffix, source in optional.items() if source}}


def _files(path: str, stem: str, image: ImageSpec) -> ImageFiles:
    return ImageFiles(
        disk=f"{path}/{stem}.disk",
        kernel=f"{path}/{stem}.kernel" if image.kernel else "",
        initrd=f"{path}/{stem}.initrd" if image.initrd else "",
    )


def _sweep(pool: Any, key: str, now: float) -> None:
    """Delete files of uploads that were given up long ago."""
    names = volumes.volume_names(pool)
    whole = {name.removesuffix(_COMPLETE) for name in names if name.endswith(_COMPLETE)}
    for name in names:
        stem, dot, suffix = name.rpartition(".")
        if not name.startswith(f"{key}-") or dot + suffix == _COMPLETE or stem in whole:
            continue
        volume = volumes.find_volume(pool, name)
        written = etree.fromstring(volume.XMLDesc(0)).findtext("target/timestamps/mtime") if volume else None
        if written and now - float(written) > _ABANDONED_S:
            volumes.delete_volume(pool, name)


def _drop(pool: Any, names: list[str]) -> None:
    """Take back what a failed upload made, as far as the host lets us; ``_sweep`` gets the rest."""
    for name in names:
        try:
            volumes.delete_volume(pool, name)
        except Exception:  # the upload's own error is the one to tell
            return
