"""Rows of sites and hosts."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, ForeignKey, UniqueConstraint, and_
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import Mapped, mapped_column, relationship, undefer_group

from broker.states import HostState, SiteState
from broker.store.base import Row, one_of
from broker.store.label import Labelled


class SiteRow(Labelled, Row):
    """``elastic``: it is a cloud, all of whose hosts are elastic.

    ``options`` name each host of a site, and hosts, VMs and subnets load their site with them: so the options
    are not loaded unless asked for (``SITE_SETTINGS``). Read them elsewhere only inside a transaction.
    """

    __tablename__ = "site"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str]
    state: Mapped[SiteState] = mapped_column(one_of(SiteState, "state"))
    status_reason: Mapped[str] = mapped_column(default="")
    elastic: Mapped[bool] = mapped_column(default=False)
    options: Mapped[dict[str, Any]] = mapped_column(deferred=True, deferred_group="settings")
    attributes: Mapped[dict[str, Any]]
    host_attributes: Mapped[dict[str, Any]] = mapped_column(deferred=True, deferred_group="settings")
    sealed_credentials: Mapped[str] = mapped_column(deferred=True, deferred_group="settings")
    created_at: Mapped[datetime]


SITE_SETTINGS = undefer_group("settings")
"""For a query of sites: load what their providers are made from, too."""


class HostRow(Row):
    """``state``: whether it answers; ``maintenance``: an admin keeps VMs away. It takes VMs when it is up and not in maintenance.

    ``generation`` grows with each claim, so that two matchmakers never give the same room away twice.

    ``held_*``: what our VMs hold there, written with each claim (``broker.store.claim``).
    """

    __tablename__ = "host"
    __table_args__ = (UniqueConstraint("site_id", "name"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    site_id: Mapped[str] = mapped_column(ForeignKey("site.id", ondelete="CASCADE"), index=True)
    site: Mapped[SiteRow] = relationship(lazy="joined")
    name: Mapped[str] = mapped_column(index=True)
    state: Mapped[HostState] = mapped_column(one_of(HostState, "state"))
    status_reason: Mapped[str] = mapped_column(default="")
    maintenance: Mapped[bool] = mapped_column(default=False)
    elastic: Mapped[bool]
    generation: Mapped[int] = mapped_column(default=0)
    vcpus_total: Mapped[float] = mapped_column(default=0)
    mem_total_mb: Mapped[float] = mapped_column(default=0)
    reserved_vcpus: Mapped[float] = mapped_column(default=0)
    reserved_mem_mb: Mapped[float] = mapped_column(default=0)
    held_vms: Mapped[int] = mapped_column(default=0)
    held_vcpus: Mapped[int] = mapped_column(default=0)
    held_mem_mb: Mapped[int] = mapped_column(BigInteger, default=0)
    held_gpus: Mapped[int] = mapped_column(default=0)
    held_dedicated_cpus: Mapped[int] = mapped_column(default=0)
    held_hugepages_mb: Mapped[int] = mapped_column(BigInteger, default=0)
    attributes: Mapped[dict[str, Any]]
    seen_at: Mapped[datetime | None]

    @hybrid_property
    def takes_vms(self) -> bool:
        """Whether it answers, and nobody keeps VMs away from it."""
        return self.state == HostState.UP and not self.maintenance

    @takes_vms.inplace.expression
    @classmethod
    def _takes_vms(cls) -> ColumnElement[bool]:
        return and_(cls.state == HostState.UP, cls.maintenance.is_(False))

    @property
    def condition(self) -> str:
        """In a word, for people: ``unreachable`` before ``maintenance`` before ``up``."""
        return str(self.state) if self.state != HostState.UP else "maintenance" if self.maintenance else "up"
