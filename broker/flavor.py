"""Flavors: the sizes VMs come in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Unpack

from sqlalchemy import literal, select, true, tuple_
from sqlalchemy.orm import Session

from broker import access, event, label, listing
from broker.actor import Actor
from broker.broker import Broker
from broker.errors import Exists, NotFound
from broker.size import Size
from broker.store import LABELS, FlavorRow, HostRow, SiteRow


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


def list_flavors(broker: Broker, actor: Actor, **which: Unpack[listing.Which]) -> Sequence[FlavorRow]:
    """The flavors, smallest first, or so many by name."""
    access.require(actor, "flavor.list")
    query = select(FlavorRow).order_by(FlavorRow.vcpus, FlavorRow.mem_mb, FlavorRow.name)
    with broker.store.reading() as session:
        found = listing.narrowed(query.options(LABELS), FlavorRow, which, by=FlavorRow.name)
        return session.scalars(found).all()


def list_offers(
    broker: Broker,
    actor: Actor,
    *,
    by_site: Literal["id", "name"] | None = None,
    names: Sequence[str] | None = None,
    sites: Sequence[str] | None = None,
    after: tuple[str, str] | None = None,
    limit: int | None = None,
) -> Sequence[tuple[str, str]]:
    """(flavor, site) of every flavor and site with a host of ours that is as large, in that order; no cloud counts.

    Of sites their ``by_site``, and "" with None: then each flavor comes once. ``names``: of these flavors only; ``sites``:
    at these only. ``after``: the last one of the page before, which may be gone meanwhile.
    """
    access.require(actor, "flavor.list")
    large_enough = select(HostRow.id).where(
        HostRow.elastic.is_(False),
        HostRow.vcpus_total >= FlavorRow.vcpus,
        HostRow.mem_total_mb >= FlavorRow.mem_mb,
    )
    place: Any = literal("")
    if by_site is None:
        query = select(FlavorRow.name, place).where(large_enough.exists())
    else:
        place = getattr(SiteRow, by_site)
        at_site = large_enough.where(HostRow.site_id == SiteRow.id)
        query = select(FlavorRow.name, place).join(SiteRow, true()).where(at_site.exists())
    if names is not None:
        query = query.where(FlavorRow.name.in_(names))
    if sites is not None:
        query = query.where(place.in_(sites))
    if after is not None:
        query = query.where(tuple_(FlavorRow.name, place) > tuple_(*after))
    with broker.store.reading() as session:
        rows = session.execute(query.order_by(FlavorRow.name, place).limit(limit))
        return [(name, at) for name, at in rows]


def delete(broker: Broker, actor: Actor, name: str) -> None:
    """Remove a flavor; VMs keep the size they were made with. Raises NotFound."""
    access.require(actor, "flavor.delete")
    with broker.store.transaction() as session:
        row = find(session, name)
        session.delete(row)
        event.record(
            broker, session, "flavor.deleted", row.name, f"flavor {row.name} deleted by {actor.name}"
        )
