"""Rows of advance reservations."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column, relationship

from broker.states import ReservationState
from broker.store.base import Row, one_of
from broker.store.label import Labelled
from broker.store.project import ProjectRow
from broker.store.size import Sized


class ReservationRow(Labelled, Sized, Row):
    """Room for ``count`` VMs of one size that is kept for a project from ``start_at`` to ``end_at``.

    ``slots``: host id -> how many of the VMs there is room kept for there.
    """

    __tablename__ = "reservation"
    __table_args__ = (Index("ix_reservation_end", "state", "end_at"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"), index=True)
    project: Mapped[ProjectRow] = relationship(lazy="joined")
    state: Mapped[ReservationState] = mapped_column(one_of(ReservationState, "state"))
    flavor: Mapped[str]
    count: Mapped[int]
    requirements: Mapped[str | None]
    start_at: Mapped[datetime]
    end_at: Mapped[datetime]
    slots: Mapped[dict[str, int]]
    created_at: Mapped[datetime]
