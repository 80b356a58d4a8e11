"""What carries labels: every noun that its users make, how each is found, and who may label it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import CompoundSelect, Select, literal, select, tuple_, union_all
from sqlalchemy.orm import Session

from broker import access, flavor, gateway, image, keypair, label, network, project, reservation, site, vm
from broker.actor import Actor
from broker.broker import Broker
from broker.errors import InvalidRequest
from broker.store import (
    GatewayRow,
    ImageRow,
    KeyPairRow,
    Labelled,
    LabelRow,
    NetworkRow,
    ReservationRow,
    SubnetRow,
    VMRow,
)

Query = Select[*tuple[Any, ...]]


@dataclass(frozen=True)
class Kind:
    """One noun. ``find`` raises NotFound; ``shared``: all projects have it, and who labels it labels it for all."""

    find: Callable[[Session, Actor, str], Any]
    shared: bool


KINDS: dict[str, Kind] = {
    "vm": Kind(vm.find, shared=False),
    "site": Kind(lambda session, _, ref: site.find(session, ref), shared=True),
    "reservation": Kind(reservation.find, shared=False),
    "flavor": Kind(lambda session, _, ref: flavor.find(session, ref), shared=True),
    "image": Kind(image.find, shared=True),
    "keypair": Kind(keypair.find, shared=False),
    "network": Kind(network.find, shared=True),
    "subnet": Kind(network.find_subnet, shared=True),
    "gateway": Kind(gateway.find, shared=True),
    "project": Kind(project.find, shared=True),
}
"""By the noun's name, in the order of the table of nouns."""


def get(broker: Broker, actor: Actor, noun: str, ref: str) -> dict[str, str]:
    """The labels of one thing. Raises InvalidRequest, NotFound."""
    access.require(actor, "label.get")
    kind = _kind(noun)
    with broker.store.reading() as session:
        row: Labelled = kind.find(session, actor, ref)
        return dict(row.labels)


def change(
    broker: Broker, actor: Actor, things: Sequence[tuple[str, str]], make: label.Change
) -> list[dict[str, str]]:
    """Make the labels of things, each a noun and a name or id, from those they have; of all or of none.

    What they have afterwards, in the same order. Raises Forbidden, InvalidRequest, NotFound.
    """
    access.require(actor, "label.change")
    if any(_kind(noun).shared for noun, _ in things):
        _require_shared(actor)
    with broker.store.transaction() as session:
        rows = [KINDS[noun].find(session, actor, ref) for noun, ref in things]
        # In the order of their ids, so that two changes at once never wait for each other.
        for row in sorted(rows, key=lambda row: str(row.id)):
            owner = getattr(row, "project_id", None)
            if owner is not None:
                access.require(actor, "label.change", owner)
            label.change(broker, session, actor, row, make, project_id=owner)
        return [dict(row.labels) for row in rows]


def list_labels(
    broker: Broker,
    actor: Actor,
    nouns: Sequence[str],
    *,
    titles: bool = False,
    ended_after: datetime | None = None,
    only: Mapping[str, Sequence[str]] | None = None,
    after: tuple[str, str, str] | None = None,
    limit: int | None = None,
) -> list[tuple[str, str, str, str]]:
    """(noun, id, key, value) of the labels in the caller's project and on what all projects share: by noun, in the order of
    ``nouns``, and by id and key.

    ``titles``: also each VM's name as its label ``Name``, where it has no such label and somebody named it.
    ``ended_after``: of VMs those that live, or ended since. ``only``: ``noun``, ``id``, ``key`` or ``value`` -> values,
    of which it has one.
    ``after``: the noun, id and key of the last one of the page before, which may be gone meanwhile.
    """
    access.require(actor, "label.list")
    found: list[tuple[str, str, str, str]] = []
    with broker.store.reading() as session:
        # One after the other: each is in the order of an index, so that a page does not sort all there are.
        for noun in nouns[nouns.index(after[0]) if after else 0 :]:
            last = after[1:] if after and after[0] == noun else None
            query = _labels(actor, noun, titles, ended_after, only or {}, last)
            rows = session.execute(query.limit(None if limit is None else limit - len(found)))
            found += [(noun, id, key, value) for id, key, value in rows]
            if len(found) == limit:
                break
    return found


def _labels(
    actor: Actor,
    noun: str,
    titles: bool,
    ended_after: datetime | None,
    only: Mapping[str, Sequence[str]],
    last: tuple[str, str] | None,
) -> CompoundSelect[*tuple[Any, ...]]:
    """(id, key, value) of one noun's, in order; the arguments are those of ``list_labels``."""
    seen = _seen(actor, noun)
    if noun == "vm" and seen is not None and ended_after is not None:
        seen = seen.where(vm.lately(ended_after))
    queries = [_chosen(noun, select(LabelRow.resource, LabelRow.key, LabelRow.value), only, last)]
    queries[0] = queries[0].where(LabelRow.noun == noun)
    if seen is not None:
        # Row by row: an IN would first list all that are seen.
        queries[0] = queries[0].where(seen.where(seen.selected_columns[0] == LabelRow.resource).exists())
    if noun == "vm" and seen is not None and titles:
        title = select(LabelRow.key).where(LabelRow.resource == VMRow.id, LabelRow.key == "Name")
        named = seen.where(VMRow.name != VMRow.id, ~title.exists())
        columns = VMRow.id, literal("Name"), VMRow.name
        queries.append(_chosen(noun, named.with_only_columns(*columns), only, last))
    return union_all(*queries).order_by("id", "key")


def _chosen(
    noun: str, query: Query, only: Mapping[str, Sequence[str]], last: tuple[str, str] | None
) -> Query:
    id, key, value = query.selected_columns
    for name, column in (("noun", literal(noun)), ("id", id), ("key", key), ("value", value)):
        if name in only:
            query = query.where(column.in_(only[name]))
    if last is not None:
        query = query.where(id >= last[0], tuple_(id, key) > tuple_(*last))
    return query.with_only_columns(id.label("id"), key.label("key"), value.label("value"))


_OWNED: dict[str, Any] = {"vm": VMRow, "keypair": KeyPairRow, "reservation": ReservationRow}
"""What belongs to one project."""

_OFFERED: dict[str, Any] = {"image": ImageRow, "network": NetworkRow}
"""What belongs to one project, or is shared."""


def _seen(actor: Actor, noun: str) -> Select[Any] | None:
    """The ids of what the caller's project has or shares of a noun; None for all there are."""
    if owned := _OWNED.get(noun):
        return select(owned.id).where(owned.project_id == actor.project_id)
    if kind := _OFFERED.get(noun):
        return access.offered(select(kind.id), actor, kind, "label.list", here=True)
    if noun == "subnet":
        return network.offered_subnets(select(SubnetRow.id), actor, "label.list", here=True)
    if noun == "gateway":
        return gateway.offered(select(GatewayRow.id), actor, "label.list", here=True)
    return None


def _require_shared(actor: Actor) -> None:
    access.require(actor, "label.change_shared")


def _kind(noun: str) -> Kind:
    if noun not in KINDS:
        raise InvalidRequest(f"{noun!r} carries no labels", hint=f"these do: {', '.join(KINDS)}")
    return KINDS[noun]
