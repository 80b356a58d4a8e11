"""Flavors: the sizes VMs come in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from broker import access, event, label
from broker.actor import Actor
from broker.broker import Broker
from broker.errors import Exists, NotFound
from broker.size import Size
from broker.store import LABELS, FlavorRow


def create(
    broker: Broker,
    actor: Actor,
    *,
    name: str,
    size: Size,
    labels: Mapping[str, str] | None = None,
) -> FlavorRow:
    """A new flavor. Admins only. Raises Exists."""
    access.require(actor, "flavor.create")
    with broker.store.transaction() as session:
        if session.get(FlavorRow, name):
            raise Exists("flavor", name)
        row = FlavorRow(name=name, id=broker.new_id("flv"), **size.as_dict())
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
