"""Rows of images, flavors and key pairs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, ForeignKey, Index, Select, String, case, cast, select, text
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import Mapped, column_property, declared_attr, mapped_column, relationship

from broker.states import ImageState, RealisationState, Visibility
from broker.store.base import Row, one_of
from broker.store.label import Labelled, gathered
from broker.store.project import ProjectRow
from broker.store.site import SiteRow
from broker.store.size import Sized


class RealisationRow(Row):
    """What a site has of an image. ``ref`` is the image's id there (an AMI); ``bytes`` is None where nobody said how
    large it is."""

    __tablename__ = "image_realisation"

    image_id: Mapped[str] = mapped_column(ForeignKey("image.id", ondelete="CASCADE"), primary_key=True)
    site_id: Mapped[str] = mapped_column(
        ForeignKey("site.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    site: Mapped[SiteRow] = relationship(lazy="joined")
    state: Mapped[RealisationState] = mapped_column(one_of(RealisationState, "state"))
    status_reason: Mapped[str] = mapped_column(default="")
    ref: Mapped[str]
    bytes: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


_LIVES = text(f"state != '{ImageState.DELETED}'")
_LIVES_UNOWNED = text(f"project_id IS NULL AND {_LIVES.text}")


class ImageRow(Labelled, Row):
    """A version of an image. Paths are files below the data directory; empty where the image has none.

    ``version`` counts within the owner's family. ``project_id`` is the owner, None for the broker itself. ``min_disk_gb`` is
    0 where it is not known. ``deprecated_at``: since when the family's bare name does not mean this version any more.

    ``refs``: site id -> the image's id there, of the sites that have it. It comes with the row itself, because each
    VM's launch and each round's decision ask for it; ``realisations`` are loaded where they are shown.
    """

    __tablename__ = "image"
    __table_args__ = (
        # Two, since no database takes one NULL for another.
        Index(
            "uq_image_shared_version",
            "family",
            "version",
            unique=True,
            sqlite_where=_LIVES_UNOWNED,
            postgresql_where=_LIVES_UNOWNED,
        ),
        Index(
            "uq_image_project_version",
            "project_id",
            "family",
            "version",
            unique=True,
            sqlite_where=_LIVES,
            postgresql_where=_LIVES,
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    family: Mapped[str]
    version: Mapped[int]
    project_id: Mapped[str | None] = mapped_column(ForeignKey("project.id", ondelete="SET NULL"))
    project: Mapped[ProjectRow | None] = relationship()
    visibility: Mapped[Visibility] = mapped_column(one_of(Visibility, "visibility"))
    state: Mapped[ImageState] = mapped_column(one_of(ImageState, "state"))
    status_reason: Mapped[str] = mapped_column(default="")
    format: Mapped[str]
    path: Mapped[str]
    sha256: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    architecture: Mapped[str]
    kernel: Mapped[str] = mapped_column(default="")
    initrd: Mapped[str] = mapped_column(default="")
    cmdline: Mapped[str] = mapped_column(default="")
    min_disk_gb: Mapped[int] = mapped_column(default=0)
    login_user: Mapped[str] = mapped_column(default="")
    deprecated_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    realisations: Mapped[list[RealisationRow]] = relationship(
        cascade="all, delete-orphan", passive_deletes=True
    )

    @declared_attr
    def refs(cls) -> Mapped[dict[str, str]]:
        """Site id -> the image's id there."""
        pairs: Select[Any] = select(gathered(RealisationRow.site_id, RealisationRow.ref))
        mine = pairs.where(
            RealisationRow.image_id == cls.id, RealisationRow.state == RealisationState.AVAILABLE
        )
        return column_property(mine.correlate_except(RealisationRow).scalar_subquery(), expire_on_flush=False)

    @hybrid_property
    def name(self) -> str:
        """One word for it: the family for the first version, and ``family@version`` from the second on."""
        return image_name(self.family, self.version)

    @name.inplace.expression
    @classmethod
    def _name(cls) -> ColumnElement[str]:
        return case((cls.version == 1, cls.family), else_=cls.family + "@" + cast(cls.version, String))


def image_name(family: str, version: int) -> str:
    """What a version is called where it has one word: two versions never have the same."""
    return family if version == 1 else f"{family}@{version}"


class FlavorRow(Labelled, Sized, Row):
    """The size of a VM, under a name."""

    __tablename__ = "flavor"

    name: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)


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
