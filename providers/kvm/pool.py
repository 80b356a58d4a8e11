"""The storage pool ``isthmus`` of a host and the volumes in it. Everything goes through libvirt's streams."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, BinaryIO

from lxml import etree
from lxml.builder import E

from providers.kvm import driver
from providers.port import Conflict

POOL = "isthmus"
_CHUNK = 256 * 1024
"""libvirt sends at most 256 KiB of stream data in one message."""

_BUSY_S = 0.05
_BUSY_TRIES = 200


def ensure_pool(connection: Any, host: str, path: str) -> Any:
    """The pool, defined, started and set to start with the host. Raises Conflict when it lies elsewhere."""
    try:
        pool = connection.storagePoolLookupByName(POOL)
    except driver.LibvirtError as error:
        if not driver.is_code(error, driver.api.VIR_ERR_NO_STORAGE_POOL):
            raise
        pool = connection.storagePoolDefineXML(_pool_xml(path), 0)
    there = etree.fromstring(pool.XMLDesc(0)).findtext("target/path")
    if there != path:
        raise Conflict(
            f"host {host} has a storage pool {POOL} at {there}, not at {path}: set the site's option pool_path, "
            f"or remove the pool (virsh pool-destroy {POOL}; virsh pool-undefine {POOL})"
        )
    if not pool.isActive():
        pool.build(0)  # makes the directory; does nothing when it exists
        with driver.ignoring(driver.api.VIR_ERR_OPERATION_INVALID):
            pool.create(0)
    if not pool.autostart():
        pool.setAutostart(1)
    return pool


def find_volume(pool: Any, name: str) -> Any:
    """The volume, or None."""
    try:
        return pool.storageVolLookupByName(name)
    except driver.LibvirtError as error:
        if driver.is_code(error, driver.api.VIR_ERR_NO_STORAGE_VOL):
            return None
        raise


def volume_names(pool: Any) -> list[str]:
    """Names of all volumes as libvirt knows them, without looking into the directory."""
    return sorted(str(name) for name in pool.listVolumes())


def create_empty(pool: Any, name: str, size: int = 0, *, shared: bool = False) -> Any:
    """A raw volume of ``size`` bytes of holes. Raises LibvirtError (exists).

    Only its owner may read it, since seeds and consoles hold users' secrets; libvirt gives it to the guest's QEMU.
    A ``shared`` one is read by many guests, and by whoever is logged in on the host.
    """
    return pool.createXML(_raw_xml(name, size, "0644" if shared else "0600"), 0)


def create_filled(connection: Any, pool: Any, name: str, data: bytes) -> Any:
    """A raw volume with that content, in place of one that has the name."""
    delete_volume(pool, name)
    volume = create_empty(pool, name, len(data))
    send(connection, volume, data)
    return volume


def send(connection: Any, volume: Any, data: bytes) -> None:
    """Write ``data`` to the beginning of a volume."""
    _send(connection, volume, len(data), _reader(data))


def upload_file(
    connection: Any, pool: Any, name: str, file: BinaryIO, size: int, sent: Callable[[int], None]
) -> Any:
    """A shared raw volume with the file's bytes; ``sent`` is told how many went over with each chunk."""
    volume = create_empty(pool, name, size, shared=True)

    def read(count: int) -> bytes:
        data = file.read(count)
        sent(len(data))
        return data

    _send(connection, volume, size, read)
    return volume


def create_clone(pool: Any, name: str, size: int, backing: str, backing_format: str) -> Any:
    """A qcow2 volume of ``size`` bytes that begins as ``backing``. Raises LibvirtError (exists)."""
    volume = E.volume(
        E.name(name),
        E.capacity(str(size), unit="bytes"),
        E.target(E.format(type="qcow2")),
        E.backingStore(E.path(backing), E.format(type=backing_format)),
    )
    return pool.createXML(etree.tostring(volume, encoding="unicode"), 0)


def read_tail(connection: Any, volume: Any, count: int) -> bytes:
    """The last ``count`` bytes of a raw volume, as long as the file is now."""
    size = int(volume.info()[1])  # asks the file system, not libvirt's memory
    count = min(count, size)
    if count == 0:
        return b""
    stream = connection.newStream(0)
    volume.download(stream, size - count, count, 0)
    parts = []
    try:
        while data := stream.recv(_CHUNK):
            parts.append(data)
    except BaseException:
        stream.abort()
        raise
    stream.finish()
    return b"".join(parts)


def delete_volume(pool: Any, name: str) -> None:
    """Delete the volume; nothing when it is not there.

    One that libvirt still fills for a caller who is gone is waited for, up to ten seconds.
    """
    for attempt in range(_BUSY_TRIES + 1):
        try:
            pool.storageVolLookupByName(name).delete(0)
            return
        except driver.LibvirtError as error:
            if driver.is_code(error, driver.api.VIR_ERR_NO_STORAGE_VOL):
                return
            if attempt == _BUSY_TRIES or not driver.is_code(error, driver.api.VIR_ERR_OPERATION_INVALID):
                raise
        time.sleep(_BUSY_S)


def refresh(pool: Any) -> bool:
    """Let libvirt look into the directory. False when it is busy with a volume and would not."""
    try:
        pool.refresh(0)
    except driver.LibvirtError as error:
        if driver.is_code(error, driver.api.VIR_ERR_INTERNAL_ERROR, driver.api.VIR_ERR_OPERATION_INVALID):
            return False
        raise
    return True


def _send(connection: Any, volume: Any, size: int, read: Callable[[int], bytes]) -> None:
    if size == 0:
        return
    stream = connection.newStream(0)
    try:
        volume.upload(stream, 0, size, 0)
        left = size
        while left > 0 and (data := read(min(_CHUNK, left))):
            view = data
            while view:
                view = view[stream.send(view) :]
            left -= len(data)
        if left:
            raise EOFError(f"{left} bytes short")
    except BaseException:
        with driver.ignoring(driver.api.VIR_ERR_INTERNAL_ERROR, driver.api.VIR_ERR_INVALID_STREAM):
            stream.abort()
        raise
    stream.finish()  # answers when the host has written it all


def _reader(data: bytes) -> Callable[[int], bytes]:
    at = 0

    def read(count: int) -> bytes:
        nonlocal at
        at += count
        return data[at - count : at]

    return read


def _pool_xml(path: str) -> str:
    pool = E.pool(E.name(POOL), E.target(E.path(path)), type="dir")
    return etree.tostring(pool, encoding="unicode")


def _raw_xml(name: str, size: int, mode: str) -> str:
    volume = E.volume(
        E.name(name),
        E.capacity(str(size), unit="bytes"),
        E.allocation("0"),
        E.target(E.format(type="raw"), E.permissions(E.mode(mode))),
    )
    return etree.tostring(volume, encoding="unicode")
