"""Rows of images, flavors and key pairs."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column, relationship

from broker.store.base import Row
from broker.store.label import Labelled
from broker.store.project import ProjectRow


class ImageRow(Labelled, Row):
    """Paths are files below the data directory; empty where the image has none."""

    __tablename__ = "image"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    state: Mapped[str]
    status_reason: Mapped[str] = mapped_column(default="")
    format: Mapped[str]
    path: Mapped[str]
    sha256: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    architecture: Mapped[str]
    kernel: Mapped[str] = mapped_column(default="")
    initrd: Mapped[str] = mapped_column(default="")
    cmdline: Mapped[str] = mapped_column(default="")
    sites: Mapped[dict[str, str]]
    created_at: Mapped[datetime]


class Hardware:
    """What a VM may have of its host for itself alone; ``mem_mb`` is in huge pages, or none of it is."""

    gpus: Mapped[int] = mapped_column(default=0)
    dedicated_cpus: Mapped[bool] = mapped_column(default=False)
    hugepages: Mapped[bool] = mapped_column(default=False)


class FlavorRow(Labelled, Hardware, Row):
    """The size of a VM."""

    __tablename__ = "flavor"

    name: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)
    vcpus: Mapped[int]
    mem_mb: Mapped[int]
    disk_gb: Mapped[int]


class KeyPairRow(Labelled, Row):
    """An SSH public key of a project."""

    __tablename__ = "key_pair"

    project_id: Mapped[str] = mapped_column(ForeignKey("project.id", ondelete="CASCADE"), primary_key=True)
    project: Mapped[ProjectRow] = relationship(lazy="joined")
    name: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)
    public_key: Mapped[str]
    fingerprint: Mapped[str]
    created_at: Mapped[datetime]
