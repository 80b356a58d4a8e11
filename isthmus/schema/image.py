"""A disk image VMs are cloned from."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from isthmus.schema._base import Answer, Name, NewLabels, Request


class Image(Answer):
    """``sites`` maps a cloud site's name to the image's id there (an AMI)."""

    id: str
    name: str
    project: str | None = None
    state: str
    status_reason: str = ""
    format: str
    size_bytes: int
    sha256: str
    architecture: str = "x86_64"
    direct_kernel: bool = False
    cmdline: str = ""
    sites: dict[str, str] = Field(default_factory=dict)
    labels: dict[str, str] = Field(default_factory=dict)
    created_at: datetime


class ImageCreate(Request):
    """Paths are absolute, of files on the broker's machine; that is why only admins import images."""

    name: Name
    path: str
    format: str = Field(default="qcow2", pattern="^(qcow2|raw)$")
    architecture: str = "x86_64"
    kernel: str | None = None
    initrd: str | None = None
    cmdline: str = Field(default="", max_length=2048)
    sites: dict[str, str] = Field(default_factory=dict)
    labels: NewLabels = Field(default_factory=dict)


class ImageUpdate(Request):
    """The whole new map of cloud sites to their ids of this image."""

    sites: dict[str, str]
