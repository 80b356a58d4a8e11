"""Rows of networks, subnets, gateways and peers."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from broker.states import PeerState, SubnetMode, Visibility
from broker.store.base import Row, one_of
from broker.store.label import Labelled
from broker.store.project import ProjectRow
from broker.store.site import SiteRow

_UNOWNED = text("project_id IS NULL")


class NetworkRow(Labelled, Row):
    """``cidr`` covers all of its subnets; other networks may have the same. ``project_id`` is the owner, None for the
    broker itself."""

    __tablename__ = "network"
    __table_args__ = (
        # Two, since no database takes one NULL for another.
        Index(
            "uq_network_shared_name", "name", unique=True, sqlite_where=_UNOWNED, postgresql_where=_UNOWNED
        ),
        UniqueConstraint("project_id", "name"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    project_id: Mapped[str | None] = mapped_column(ForeignKey("project.id", ondelete="SET NULL"))
    project: Mapped[ProjectRow | None] = relationship()
    visibility: Mapped[Visibility] = mapped_column(one_of(Visibility, "visibility"))
    cidr: Mapped[str]
    created_at: Mapped[datetime]
    subnets: Mapped[list[SubnetRow]] = relationship(
        back_populates="network", lazy="selectin", order_by="SubnetRow.cidr", cascade="all, delete-orphan"
    )


class SubnetRow(Labelled, Row):
    """``reserved`` addresses are never leased."""

    __tablename__ = "subnet"
    __table_args__ = (
        UniqueConstraint("network_id", "site_id"),
        UniqueConstraint("network_id", "cidr", name="uq_subnet_network_cidr"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    network_id: Mapped[str] = mapped_column(ForeignKey("network.id", ondelete="CASCADE"))
    network: Mapped[NetworkRow] = relationship(back_populates="subnets", lazy="joined")
    site_id: Mapped[str] = mapped_column(ForeignKey("site.id"))
    site: Mapped[SiteRow] = relationship(lazy="joined")
    cidr: Mapped[str]
    mode: Mapped[SubnetMode] = mapped_column(one_of(SubnetMode, "mode"))
    gateway: Mapped[str]
    bridge: Mapped[str]
    dns: Mapped[list[str]]
    reserved: Mapped[list[str]]
    mtu: Mapped[int]


class GatewayRow(Labelled, Row):
    """``generation`` is what the broker wants; ``applied_generation`` what the agent says it has applied.

    ``document_versions``, ``features`` and ``software`` are what the agent said of itself when it registered; one that
    says nothing is of 0.1.0, and reads version 1. ``refusal``: why it gets no document; ``problems``: what of the newest
    one it could not apply. All in words, and empty when all is well.
    """

    __tablename__ = "gateway"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    site_id: Mapped[str] = mapped_column(ForeignKey("site.id"))
    site: Mapped[SiteRow] = relationship(lazy="joined")
    network_id: Mapped[str] = mapped_column(ForeignKey("network.id"), unique=True)
    network: Mapped[NetworkRow] = relationship(lazy="joined")
    endpoint: Mapped[str]
    public_key: Mapped[str | None]
    generation: Mapped[int] = mapped_column(default=1)
    applied_generation: Mapped[int] = mapped_column(default=0)
    document_versions: Mapped[list[int]] = mapped_column(default=lambda: [1], server_default="[1]")
    features: Mapped[list[str]] = mapped_column(default=list, server_default="[]")
    software: Mapped[str] = mapped_column(default="", server_default="")
    refusal: Mapped[str] = mapped_column(default="", server_default="")
    problems: Mapped[list[str]] = mapped_column(default=list, server_default="[]")
    seen_at: Mapped[datetime | None]
    created_at: Mapped[datetime]


class PeerRow(Row):
    """A burst VM's end of a tunnel, one for each of its networks.

    ``generation`` is the gateway's generation that first showed the peer's present state.
    """

    __tablename__ = "peer"
    __table_args__ = (
        Index(
            "uq_peer_live",
            "vm_id",
            "network_id",
            unique=True,
            sqlite_where=text("state IN ('bootstrap', 'enrolled')"),
            postgresql_where=text("state IN ('bootstrap', 'enrolled')"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    gateway_id: Mapped[str] = mapped_column(ForeignKey("gateway.id"), index=True)
    gateway: Mapped[GatewayRow] = relationship(lazy="joined")
    vm_id: Mapped[str] = mapped_column(ForeignKey("vm.id"), index=True)
    network_id: Mapped[str] = mapped_column(ForeignKey("network.id"))
    """Which of the VM's NICs this is the tunnel of: a VM is on a network once."""
    state: Mapped[PeerState] = mapped_column(one_of(PeerState, "state"), index=True)
    address: Mapped[str]
    bootstrap_address: Mapped[str]
    bootstrap_public_key: Mapped[str] = mapped_column(unique=True)
    sealed_bootstrap_key: Mapped[str]
    public_key: Mapped[str | None] = mapped_column(unique=True)
    generation: Mapped[int]
    expires_at: Mapped[datetime]
    enrolled_at: Mapped[datetime | None]
    last_handshake_at: Mapped[datetime | None]
    rx_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    tx_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    created_at: Mapped[datetime]
