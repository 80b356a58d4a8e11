"""Flavors: the sizes VMs come in."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from broker import event
from broker.actor import ADMIN, READER, Actor
from broker.broker import Broker
from broker.errors import Exists, NotFound
from broker.store import FlavorRow


def create(broker: Broker, actor: Actor, *, name: str, vcpus: int, mem_mb: int, disk_gb: int) -> FlavorRow:
    """A new flavor. Admins only. Raises Exists."""
    actor.require(ADMIN)
    with broker.store.transaction() as session:
        if session.get(FlavorRow, name):
            raise Exists("flavor", name)
        row = FlavorRow(name=name, vcpus=vcpus, mem_mb=mem_mb, disk_gb=disk_gb)
        session.add(row)
        event.record(broker, session, "flavor.created", name, f"flavor {name} created by {actor.name}")
    return row


def find(session: Session, name: str) -> FlavorRow:
    """A flavor by name. Raises NotFound."""
    row = session.get(FlavorRow, name)
    if row is None:
        raise NotFound("flavor", name)
    return row


def get(broker: Broker, actor: Actor, name: str) -> FlavorRow:
    """One flavor. Raises NotFound."""
    actor.require(READER)
    with broker.store.reading() as session:
        return find(session, name)


def list_flavors(broker: Broker, actor: Actor) -> Sequence[FlavorRow]:
    """All flavors, smallest first."""
    actor.require(READER)
    with broker.store.reading() as session:
        return list(
            session.scalars(select(FlavorRow).order_by(FlavorRow.vcpus, FlavorRow.mem_mb, FlavorRow.name))
        )


def delete(broker: Broker, actor: Actor, name: str) -> None:
    """Remove a flavor; VMs keep the size they were made with. Raises NotFound."""
    actor.require(ADMIN)
    with broker.store.transaction() as session:
        session.delete(find(session, name))
        event.record(broker, session, "flavor.deleted", name, f"flavor {name} deleted by {actor.name}")
