"""A disk image of the broker's catalogue, as a site is to offer it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


@dataclass(frozen=True)
class ImageSpec:
    """A disk image of the broker's catalogue. Paths are files readable by the broker.

    ``kernel``/``initrd``/``cmdline`` are for providers with ``Capability.DIRECT_KERNEL``; an image without
    them boots from its disk. ``remote_id`` is the image's id at this site (an AMI), where one is mapped.
    """

    id: str
    name: str
    format: str = "qcow2"
    path: str = ""
    sha256: str = ""
    size_bytes: int = 0
    kernel: str = ""
    initrd: str = ""
    cmdline: str = ""
    remote_id: str = ""
