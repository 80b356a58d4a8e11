"""Rows of projects, tokens and access keys."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column, relationship

from broker.store.base import Row
from broker.store.label import Labelled
from broker.store.size import Limited, Using


class ProjectRow(Labelled, Limited, Using, Row):
    """``account`` is the project's twelve-digit account in the EC2 face."""

    __tablename__ = "project"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    account: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime]


class TokenRow(Row):
    """``hash`` is the SHA-256 of the secret, which has 256 bits of its own and needs no slow hash."""

    __tablename__ = "token"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id", ondelete="CASCADE"), index=True)
    project: Mapped[ProjectRow] = relationship(lazy="joined")
    role: Mapped[str]
    gateway_id: Mapped[str | None] = mapped_column(ForeignKey("gateway.id", ondelete="CASCADE"))
    hash: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]


class AccessKeyRow(Row):
    """The secret is sealed, not hashed: SigV4 needs it back."""

    __tablename__ = "access_key"

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id", ondelete="CASCADE"), index=True)
    project: Mapped[ProjectRow] = relationship(lazy="joined")
    role: Mapped[str]
    sealed_secret: Mapped[str]
    created_at: Mapped[datetime]
