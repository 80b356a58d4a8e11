"""Rows of usage records."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from broker.store.base import Row
from broker.store.size import Held, HeldHours


class UsageRow(Held, Row):
    """A VM's stay on one host: written with its claim, ended when the claim is given up. Never deleted with the VM.

    ``price_hour`` is what an hour of it costs, None where that is not known (a host of one's own without a price).
    """

    __tablename__ = "usage"
    __table_args__ = (Index("ix_usage_live", "ended_at", "elastic"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    vm_id: Mapped[str] = mapped_column(index=True)
    project_id: Mapped[str] = mapped_column(index=True)
    project: Mapped[str]
    site: Mapped[str]
    host: Mapped[str]
    elastic: Mapped[bool]
    spot: Mapped[bool] = mapped_column(default=False)
    price_hour: Mapped[float | None]
    started_at: Mapped[datetime] = mapped_column(index=True)
    ended_at: Mapped[datetime | None]


class UsageMonthRow(HeldHours, Row):
    """A calendar month (UTC) of a project's stays on one site, summed up: what is left of them when they are pruned.

    ``month`` is its first moment. ``vms`` held room in it, of which ``new_vms`` held none there in the month before.
    """

    __tablename__ = "usage_month"

    month: Mapped[datetime] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(primary_key=True)
    project: Mapped[str] = mapped_column(primary_key=True)
    site: Mapped[str] = mapped_column(primary_key=True)
    elastic: Mapped[bool] = mapped_column(primary_key=True)
    vms: Mapped[int]
    new_vms: Mapped[int]
    cost: Mapped[float]
    unpriced_hours: Mapped[float]
