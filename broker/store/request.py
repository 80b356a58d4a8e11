"""Rows of requests that are remembered."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from broker.store.base import Row


class RequestRow(Row):
    """A request that came under a caller's token, and changed something.

    ``action`` is what was asked for, ``fingerprint`` tells the same request from another one. ``resources`` are the ids
    that it made, where the change itself remembers them; else ``status`` and ``sealed_answer`` are what was answered, None
    until it is. Answers may hold a secret, so they are sealed.
    """

    __tablename__ = "request"

    project_id: Mapped[str] = mapped_column(primary_key=True)
    token: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)
    action: Mapped[str]
    fingerprint: Mapped[str]
    resources: Mapped[list[str]]
    status: Mapped[int | None]
    sealed_answer: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(index=True)
