"""Rows of reservations."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from broker.store.base import Row
from broker.store.project import ProjectRow


class ReservationRow(Row):
    """Room for ``count`` VMs of one size, from ``start_at`` to ``end_at``.

    ``state``: scheduled, active, ended or cancelled. ``slots``: host id -> how many of the VMs there is room kept for.
    """

    __tablename__ = "capacity_reservation"
    __table_args__ = (UniqueConstraint("project_id", "name"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id", ondelete="CASCADE"), index=True)
    project: Mapped[ProjectRow] = relationship(lazy="joined")
    state: Mapped[str] = mapped_column(index=True)
    status_reason: Mapped[str] = mapped_column(default="")
    count: Mapped[int]
    vcpus: Mapped[int]
    mem_mb: Mapped[int]
    disk_gb: Mapped[int]
    gpus: Mapped[int] = mapped_column(default=0)
    requirements: Mapped[str | None]
    slots: Mapped[dict[str, Any]] = mapped_column(default=dict)
    start_at: Mapped[datetime]
    end_at: Mapped[datetime]
    created_at: Mapped[datetime]
