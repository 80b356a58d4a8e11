"""Rows of VMs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, text
from sqlalchemy.orm import Mapped, foreign, mapped_column, relationship

from broker.states import VMState
from broker.store.base import Row, one_of
from broker.store.image import ImageRow
from broker.store.label import Labelled
from broker.store.nic import NICRow
from broker.store.project import ProjectRow
from broker.store.site import HostRow, SiteRow
from broker.store.size import Sized


class VMRow(Labelled, Sized, Row):
    """A VM. While ``host_id`` is set the VM holds its room there: the row is the claim.

    ``desired`` is running, stopped, suspended or terminated: what its owner last asked for. ``launch`` counts launches
    and is part of the provider's idempotency token. ``nics`` are there from its creation to its end, and leave with it.

    ``affinity``: rules as in ``isthmus.schema.AffinityRule``. ``runtime_s``: how long it runs, as its owner says;
    ``deadline``: when it must have run. ``interruptions``: how often a cloud took it back. ``preemptible``: it may be
    suspended for others. ``immediate``: it starts now or not at all. ``reservation`` is EC2's word for the VMs of one
    request, and ``launch_index`` the VM's place among them; ``reservation_id`` is the advance reservation in whose
    room the VM stands.

    ``client_token``: the ClientToken of the EC2 request that asked for it.

    ``unplaceable``: no host could take it, however empty; as of the last round.

    ``target_host_id``: where it is being migrated to; it holds room there too.

    ``site_wanted``: the only site where it may be.

    A suspended VM keeps its host, where its disk and its memory are saved, and holds neither cores nor memory there.
    """

    __tablename__ = "vm"
    labels_always = True
    __table_args__ = (
        Index(
            "uq_vm_live_name",
            "project_id",
            "name",
            unique=True,
            sqlite_where=text("state != 'terminated'"),
            postgresql_where=text("state != 'terminated'"),
        ),
        Index("ix_vm_project_age", "project_id", "created_at", "id"),
        Index("ix_vm_project_state", "project_id", "state", "created_at", "id"),
        Index("ix_vm_project_site", "project_id", "site_id", "created_at", "id"),
        Index(
            "ix_vm_runtime",
            "state",
            sqlite_where=text("runtime_s IS NOT NULL"),
            postgresql_where=text("runtime_s IS NOT NULL"),
        ),
        # SQLite takes a partial index only for a condition in the same words, and SQLAlchemy asks for "elastic = 1".
        Index("ix_vm_elastic", "state", sqlite_where=text("elastic = 1"), postgresql_where=text("elastic")),
        Index("ix_vm_site", "site_id", "state"),
        Index(
            "ix_vm_waiting",
            "unplaceable",
            "reservation_id",
            "created_at",
            sqlite_where=text("host_id IS NULL AND state = 'pending'"),
            postgresql_where=text("host_id IS NULL AND state = 'pending'"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(index=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"))
    project: Mapped[ProjectRow] = relationship(lazy="joined")
    state: Mapped[VMState] = mapped_column(one_of(VMState, "state"), index=True)
    status_reason: Mapped[str] = mapped_column(default="")
    desired: Mapped[VMState] = mapped_column(one_of(VMState, "desired"))
    image_id: Mapped[str] = mapped_column(ForeignKey("image.id"))
    image: Mapped[ImageRow] = relationship(lazy="joined")
    flavor: Mapped[str]
    site_id: Mapped[str | None] = mapped_column(ForeignKey("site.id"))
    site: Mapped[SiteRow | None] = relationship(lazy="joined")
    site_wanted_id: Mapped[str | None]
    site_wanted: Mapped[SiteRow | None] = relationship(
        lazy="joined", primaryjoin=lambda: foreign(VMRow.site_wanted_id) == SiteRow.id
    )
    host_id: Mapped[str | None] = mapped_column(ForeignKey("host.id"), index=True)
    host: Mapped[HostRow | None] = relationship(lazy="joined")
    elastic: Mapped[bool] = mapped_column(default=False)
    nics: Mapped[list[NICRow]] = relationship(
        lazy="selectin", order_by=NICRow.position, cascade="all, delete-orphan"
    )
    public_address: Mapped[str | None]
    key_pair: Mapped[str | None]
    sealed_user_data: Mapped[str] = mapped_column(default="")
    client_token: Mapped[str | None] = mapped_column(index=True)
    requirements: Mapped[str | None]
    rank: Mapped[str | None]
    local_only: Mapped[bool] = mapped_column(default=False)
    priority: Mapped[int] = mapped_column(default=0)
    runtime_s: Mapped[float | None]
    deadline: Mapped[datetime | None]
    affinity: Mapped[list[dict[str, Any]]] = mapped_column(default=list)
    interruptions: Mapped[int] = mapped_column(default=0)
    preemptible: Mapped[bool] = mapped_column(default=False)
    immediate: Mapped[bool] = mapped_column(default=False)
    reservation_id: Mapped[str | None]
    target_host_id: Mapped[str | None]
    unplaceable: Mapped[bool] = mapped_column(default=False)
    provider_ref: Mapped[str | None]
    launch: Mapped[int] = mapped_column(default=0)
    reservation: Mapped[str]
    launch_index: Mapped[int] = mapped_column(default=0, server_default="0")
    operation_id: Mapped[str | None]
    created_at: Mapped[datetime]
    state_at: Mapped[datetime]
    launched_at: Mapped[datetime | None]
    enrolled_at: Mapped[datetime | None]
    terminated_at: Mapped[datetime | None] = mapped_column(index=True)
