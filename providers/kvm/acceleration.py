"""Does KVM really run a guest on this host? Found out by booting one, once.

``/dev/kvm`` may exist and hang or crawl: nested in a hypervisor that only half supports it, for instance. So a boot
sector is started in a transient domain: it counts down from 500 million (0.2 s with KVM, 1 s emulated) and
powers the machine off through ACPI. A machine that is not off after five seconds is no faster than emulation.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lxml import etree
from lxml.builder import E

from providers.kvm import driver
from providers.kvm import pool as volumes
from providers.port import OutOfCapacity, Unreachable

PROBE_S = 5.0
RETRY_REFUSED_S = 24 * 3600.0
"""A refusal is looked at again after a day: the host may have been mended meanwhile."""

_COUNT = 500_000_000
_DISK_BYTES = 1024 * 1024  # SeaBIOS reads no disk that is smaller than a cylinder


def boot_sector() -> bytes:
    """x86 real mode; ends by writing SLP_TYP=S5, SLP_EN to PM1a_CNT, which q35's firmware puts at 0x604."""
    code = (
        b"\x66\xb9" + struct.pack("<I", _COUNT)  # mov ecx, COUNT
        + b"\x66\x49\x75\xfc"  # l: dec ecx; jnz l
        + b"\xba\x04\x06\xb8\x00\x20\xef"  # mov dx, 0x604; mov ax, 0x2000; out dx, ax
        + b"\xf4\xeb\xfd"  # h: hlt; jmp h
    )  # fmt: skip
    return code.ljust(510, b"\0") + b"\x55\xaa"


def kvm_boots(
    connection: Any,
    pool: Any,
    path: str,
    *,
    cpu_mode: str,
    emulator: str = "",
    domain_type: str = "kvm",
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[bool, str]:
    """Boot the sector. (whether the machine powered off in time, what happened in words).

    Raises LibvirtError when the host is out of reach or out of memory, which is no verdict.
    """
    name = f"probe-isthmus-{uuid.uuid4().hex[:12]}"
    disk = f"{name}.img"
    domain = None
    try:
        volume = volumes.create_empty(pool, disk, _DISK_BYTES)
        volumes.send(connection, volume, boot_sector())
        # AUTODESTROY: it goes when this connection does, so a killed broker leaves no guest that spins.
        domain = connection.createXML(
            _probe_xml(name, f"{path}/{disk}", cpu_mode, emulator, domain_type),
            driver.api.VIR_DOMAIN_START_AUTODESTROY,
        )
        begun = clock()
        while clock() - begun < PROBE_S:
            try:
                state = domain.state(0)[0]
            except driver.LibvirtError as error:
                if not driver.is_code(error, driver.api.VIR_ERR_NO_DOMAIN):
                    raise
                state = driver.api.VIR_DOMAIN_SHUTOFF
            if state in (driver.api.VIR_DOMAIN_SHUTOFF, driver.api.VIR_DOMAIN_CRASHED):
                domain = None
                return True, f"a guest booted and powered off in {clock() - begun:.1f} s"
            sleep(0.05)
        return False, f"a guest had not powered off after {PROBE_S:g} s"
    except driver.LibvirtError as error:
        if isinstance(driver.translate(error, ""), Unreachable | OutOfCapacity):
            raise  # tells nothing of KVM, and must not be remembered
        return False, str(error)
    finally:
        with contextlib.suppress(driver.LibvirtError):
            if domain is not None:
                domain.destroy()
        with contextlib.suppress(driver.LibvirtError):
            volumes.delete_volume(pool, disk)


class ProbeCache:
    """What was found out, in a file of the site's cache directory; several processes may share it."""

    def __init__(self, directory: str, *, clock: Callable[[], float] = time.time) -> None:
        self._path = Path(directory) / "acceleration.json" if directory else None
        self._clock = clock
        self._known: dict[str, dict[str, Any]] = {}

    def get(self, key: str) -> bool | None:
        """Whether KVM boots there; None when it must be (re)tried."""
        row = self._load().get(key)
        if row is None or (not row["boots"] and self._clock() - row["at"] > RETRY_REFUSED_S):
            return None
        return bool(row["boots"])

    def put(self, key: str, boots: bool, reason: str) -> None:
        """Remember it."""
        self._known = {**self._load(), key: {"boots": boots, "reason": reason, "at": self._clock()}}
        if self._path is not None:
            scratch = self._path.with_name(f"{self._path.name}.{os.getpid()}")
            scratch.write_text(json.dumps(self._known, indent=1))
            os.replace(scratch, self._path)

    def _load(self) -> dict[str, dict[str, Any]]:
        if self._path is not None:
            with contextlib.suppress(OSError, ValueError):
                self._known = json.loads(self._path.read_text())
        return self._known


def _probe_xml(name: str, disk: str, cpu_mode: str, emulator: str, domain_type: str) -> str:
    devices = E.devices(
        E.controller(type="usb", model="none"),
        E.memballoon(model="none"),
        E.disk(
            E.driver(name="qemu", type="raw"),
            E.source(file=disk),
            E.target(dev="vda", bus="virtio"),
            type="file",
            device="disk",
        ),
    )
    if emulator:
        devices.insert(0, E.emulator(emulator))
    domain = E.domain(
        E.name(name),
        E.memory("64", unit="MiB"),
        E.vcpu("1"),
        E.os(E.type("hvm", arch="x86_64", machine="q35"), E.boot(dev="hd")),
        E.features(E.acpi()),
        E.cpu(mode=cpu_mode),
        E.on_poweroff("destroy"),
        E.on_crash("destroy"),
        devices,
        type=domain_type,
    )
    return etree.tostring(domain, encoding="unicode")
