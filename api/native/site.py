"""``/v1/sites``."""

from __future__ import annotations

from fastapi import APIRouter

from api.native.auth import Caller, TheBroker
from api.native.label import Label, wanted
from api.native.paging import Limit, Ref, Token, cut
from broker import site
from broker.actor import Actor
from broker.broker import Broker
from broker.store import SiteRow
from isthmus import schema

router = APIRouter(prefix="/v1/sites", tags=["site"])


@router.post("", status_code=201)
def create_site(broker: TheBroker, caller: Caller, body: schema.SiteCreate) -> schema.Site:
    """Add a site: it is reached at once, and its hosts are taken. Admins only."""
    row = site.create(
        broker,
        caller,
        name=body.name,
        kind=body.kind,
        options=body.options,
        attributes=body.attributes,
        host_attributes=body.host_attributes,
        credentials=body.credentials,
        labels=body.labels,
    )
    return _answer(broker, caller, row)


@router.get("")
def list_sites(
    broker: TheBroker,
    caller: Caller,
    label: Label = [],  # noqa: B006
    limit: Limit = 100,
    page: Token = None,
) -> schema.Page[schema.Site]:
    """All sites, by name."""
    rows, following = cut(
        site.list_sites(broker, caller, labels=wanted(label)), lambda row: (row.name,), limit, page
    )
    counts = site.host_counts(broker, caller)
    return schema.Page(items=[_map(row, counts) for row in rows], next=following)


@router.get("/{ref}")
def get_site(broker: TheBroker, caller: Caller, ref: Ref) -> schema.Site:
    """One site."""
    return _answer(broker, caller, site.get(broker, caller, ref))


@router.post("/{ref}/refresh")
def refresh_site(broker: TheBroker, caller: Caller, ref: Ref) -> schema.Site:
    """Look at a site now: its hosts, and whether it answers."""
    return _answer(broker, caller, site.refresh(broker, caller, ref))


@router.delete("/{ref}", status_code=204)
def delete_site(broker: TheBroker, caller: Caller, ref: Ref) -> None:
    """Remove a site that holds nothing of ours. Admins only."""
    site.delete(broker, caller, ref)


def _answer(broker: Broker, caller: Actor, row: SiteRow) -> schema.Site:
    return _map(row, site.host_counts(broker, caller))


def _map(row: SiteRow, host_counts: dict[str, int]) -> schema.Site:
    return schema.Site(
        id=row.id,
        name=row.name,
        kind=row.kind,
        state=row.state,
        status_reason=row.status_reason,
        options=row.options,
        attributes=row.attributes,
        hosts=host_counts.get(row.id, 0),
        labels=row.labels,
        created_at=row.created_at,
    )
