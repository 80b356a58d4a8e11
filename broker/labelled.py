"""What carries labels: every noun that its users make, how each is found, and who may label it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, and_, or_, select
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
    ids: Sequence[str] | None = None,
    keys: Sequence[str] | None = None,
    values: Sequence[str] | None = None,
) -> list[tuple[str, str, str, str]]:
    """(noun, id, key, value) of the labels in the caller's project and on what all projects share, by id and key."""
    access.require(actor, "label.list")
    query = select(LabelRow.noun, LabelRow.resource, LabelRow.key, LabelRow.value)
    for column, wanted in ((LabelRow.resource, ids), (LabelRow.key, keys), (LabelRow.value, values)):
        if wanted is not None:
            query = query.where(column.in_(wanted))
    of_noun = {noun: _seen(actor, noun) for noun in nouns}
    seen = [
        LabelRow.noun == noun
        if ids_seen is None
        else and_(LabelRow.noun == noun, LabelRow.resource.in_(ids_seen))
        for noun, ids_seen in of_noun.items()
    ]
    with broker.store.reading() as session:
        rows = session.execute(query.where(or_(*seen)).order_by(LabelRow.resource, LabelRow.key))
        return [(noun, resource, key, value) for noun, resource, key, value in rows]


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
