"""A disk image VMs are cloned from: one version of a family."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from isthmus.schema._base import Answer, Name, NewLabels, Request

LoginUser = Annotated[str, StringConstraints(pattern=r"^([a-z_][a-z0-9_-]{0,31})?$")]
"""A user of the guest, as useradd(8) lets one be called; empty where nobody said."""


class Realisation(Answer):
    """What a site has of an image. ``ref`` is its id there (an AMI); ``bytes`` is null where nobody said how large it is."""

    site: str
    state: str
    status_reason: str = ""
    ref: str
    bytes: int | None = None
    created_at: datetime
    updated_at: datetime


class Image(Answer):
    """A version of a family. ``name`` is the family for the first version and ``family@version`` from the second on.

    The family alone refers to its newest version that is not deprecated, ``family@version`` always to this one. ``project`` is
    whose it is, null for the broker's own; ``visibility``: ``shared`` with all, or ``private``. ``min_disk_gb`` (GiB) is the
    least disk of a VM, 0 where it is not known. ``sites`` maps a cloud site's name to the image's id there (an AMI).
    """

    id: str
    name: str
    family: str = ""
    version: int = 1
    project: str | None = None
    visibility: str = "shared"
    state: str
    status_reason: str = ""
    format: str
    size_bytes: int
    sha256: str
    architecture: str = "x86_64"
    direct_kernel: bool = False
    cmdline: str = ""
    min_disk_gb: int = 0
    login_user: str = ""
    deprecated_at: datetime | None = None
    sites: dict[str, str] = Field(default_factory=dict)
    realisations: list[Realisation] = Field(default_factory=list)
    labels: dict[str, str] = Field(default_factory=dict)
    created_at: datetime


class ImageCreate(Request):
    """Paths are absolute, of files on the broker's machine; that is why only admins import images.

    ``name`` is the family: one that is there gets its next version. ``min_disk_gb`` is by default the size of the disk.
    With ``project`` the image is that project's, and ``private`` by default; without, it is the broker's own, and ``shared``.
    """

    name: Name
    path: str
    format: str = Field(default="qcow2", pattern="^(qcow2|raw)$")
    architecture: str = "x86_64"
    kernel: str | None = None
    initrd: str | None = None
    cmdline: str = Field(default="", max_length=2048)
    min_disk_gb: int | None = Field(default=None, ge=0, le=1 << 20)
    login_user: LoginUser = ""
    project: str | None = None
    visibility: Literal["private", "shared"] | None = None
    sites: dict[str, str] = Field(default_factory=dict)
    labels: NewLabels = Field(default_factory=dict)


class ImageUpdate(Request):
    """``sites``: the whole new map of cloud sites to their ids of this image. ``deprecated``: whether the family's bare name no
    longer means this version."""

    sites: dict[str, str] | None = None
    deprecated: bool | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.sites is None and self.deprecated is None:
            raise ValueError("say `sites`, `deprecated` or both")
        return self
