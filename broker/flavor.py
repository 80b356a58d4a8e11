"""Flavors: the sizes VMs come in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

from sqlalchemy import case, select
from sqlalchemy.orm import Session

from broker import access, event, label
from broker.actor import Actor
from broker.broker import Broker
from broker.errors import Exists, NotFound
from broker.store import LABELS, FlavorRow, ReservationRow, VMRow

Sized = FlavorRow | VMRow | ReservationRow
"""A flavor, or what has its size."""

SHARED_VCPUS = case((VMRow.dedicated_cpus, 0), else_=VMRow.vcpus)
ORDINARY_MEM_MB = case((VMRow.hugepages, 0), else_=VMRow.mem_mb)
"""What a VM takes of the cores that all share, and of ordinary memory."""


class Room(TypedDict):
    """What a VM takes of a host, as ``placement.size`` names it."""

    cpu: float
    mem_mb: float
    disk_gb: float
    gpus: float
    dedicated_cpus: float
    hugepages_mb: float


def room(size: Sized) -> Room:
    """What a VM of this size takes of a host."""
    return {
        "cpu": 0.0 if size.dedicated_cpus else float(size.vcpus),
        "mem_mb": 0.0 if size.hugepages else float(size.mem_mb),
        "disk_gb": float(size.disk_gb),
        "gpus": float(size.gpus),
        "dedicated_cpus": float(size.vcpus) if size.dedicated_cpus else 0.0,
        "hugepages_mb": float(size.mem_mb) if size.hugepages else 0.0,
    }


def bound_by(size: Sized) -> str:
    """What ties a VM of this size to its host while it runs; empty when nothing does."""
    if size.gpus:
        return "GPUs of its host"
    if size.dedicated_cpus:
        return "dedicated CPUs of its host"
    return "huge pages of its host" if size.hugepages else ""


def create(
    broker: Broker,
    actor: Actor,
    *,
    name: str,
    vcpus: int,
    mem_mb: int,
    disk_gb: int,
    gpus: int = 0,
    dedicated_cpus: bool = False,
    hugepages: bool = False,
    labels: Mapping[str, str] | None = None,
) -> FlavorRow:
    """A new flavor. Admins only. Raises Exists."""
    access.require(actor, "flavor.create")
    with broker.store.transaction() as session:
        if session.get(FlavorRow, name):
            raise Exists("flavor", name)
        row = FlavorRow(
            name=name,
            id=broker.new_id("flv"),
            vcpus=vcpus,
            mem_mb=mem_mb,
            disk_gb=disk_gb,
            gpus=gpus,
            dedicated_cpus=dedicated_cpus,
            hugepages=hugepages,
        )
        session.add(row)
        label.give(session, row, labels)
        event.record(broker, session, "flavor.created", name, f"flavor {name} created by {actor.name}")
    return row


def find(session: Session, ref: str) -> FlavorRow:
    """A flavor by name or id. Raises NotFound."""
    query = select(FlavorRow).where((FlavorRow.name == ref) | (FlavorRow.id == ref))
    row = session.scalar(query.options(LABELS))
    if row is None:
        raise NotFound("flavor", ref)
    return row


def get(broker: Broker, actor: Actor, name: str) -> FlavorRow:
    """One flavor. Raises NotFound."""
    access.require(actor, "flavor.get")
    with broker.store.reading() as session:
        return find(session, name)


def list_flavors(
    broker: Broker, actor: Actor, *, labels: Mapping[str, str] | None = None
) -> Sequence[FlavorRow]:
    """All flavors that carry these labels, smallest first."""
    access.require(actor, "flavor.list")
    with broker.store.reading() as session:
        query = select(FlavorRow).order_by(FlavorRow.vcpus, FlavorRow.mem_mb, FlavorRow.name)
        return list(session.scalars(label.filter(query.options(LABELS), FlavorRow, labels)))


def delete(broker: Broker, actor: Actor, name: str) -> None:
    """Remove a flavor; VMs keep the size they were made with. Raises NotFound."""
    access.require(actor, "flavor.delete")
    with broker.store.transaction() as session:
        row = find(session, name)
        session.delete(row)
        event.record(
            broker, session, "flavor.deleted", row.name, f"flavor {row.name} deleted by {actor.name}"
        )
