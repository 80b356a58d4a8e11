"""Rows of operations, events, policies and leadership."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Index, Integer
from sqlalchemy.orm import Mapped, mapped_column

from broker.states import OperationState
from broker.store.base import Row, one_of


class OperationRow(Row):
    """A durable change. ``claim_token`` and ``claim_until`` fence its driver; ``params`` holds no secrets.

    ``next_at``: when to look at it again; None when nobody's clock moves it, but what it waits for. ``site_id``: the site whose
    machines it works on, as far as that is known.
    """

    __tablename__ = "operation"
    __table_args__ = (
        Index("ix_operation_live", "state", "claim_until"),
        Index("ix_operation_due", "state", "next_at"),
        Index("ix_operation_over", "ended_at"),
        Index("ix_operation_project", "project_id", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    target: Mapped[str] = mapped_column(index=True)
    project_id: Mapped[str | None]
    site_id: Mapped[str | None]
    state: Mapped[OperationState] = mapped_column(one_of(OperationState, "state"))
    phase: Mapped[str]
    message: Mapped[str] = mapped_column(default="")
    attempt: Mapped[int] = mapped_column(default=0)
    error: Mapped[str | None]
    params: Mapped[dict[str, Any]]
    claim_token: Mapped[str | None]
    claim_until: Mapped[datetime | None]
    next_at: Mapped[datetime | None]
    phase_at: Mapped[datetime]
    created_at: Mapped[datetime] = mapped_column(index=True)
    ended_at: Mapped[datetime | None]


class EventRow(Row):
    """``seq`` only grows."""

    __tablename__ = "event"
    __table_args__ = (Index("ix_event_project", "project_id", "seq"),)

    seq: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    time: Mapped[datetime]
    kind: Mapped[str] = mapped_column(index=True)
    project_id: Mapped[str | None]
    target: Mapped[str] = mapped_column(index=True)
    message: Mapped[str]
    data: Mapped[dict[str, Any]]


class PolicyRow(Row):
    """One applied version of the policy; the highest is in force."""

    __tablename__ = "policy"

    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str]
    text: Mapped[str]
    applied_by: Mapped[str]
    applied_at: Mapped[datetime]


class BurstRow(Row):
    """The burst's state: one row, id 1."""

    __tablename__ = "burst"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    open: Mapped[bool]
    since: Mapped[datetime]
    close_holds_since: Mapped[datetime | None]
    reason: Mapped[str]


class DutyRow(Row):
    """Who runs a periodic duty now (reconcile, policy, sweep) when several brokers share a database."""

    __tablename__ = "duty"

    name: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[str]
    until: Mapped[datetime]


class MetaRow(Row):
    """Facts about the database itself, such as the broker's id."""

    __tablename__ = "meta"

    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]
