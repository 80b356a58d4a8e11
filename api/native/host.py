"""``/v1/hosts``. A reference may hold a slash: ``site/name``, or a cloud's ``zone/type``."""

from __future__ import annotations

from fastapi import APIRouter

from api.native.auth import Caller, TheBroker
from api.native.paging import Limit, Ref, Text, Token, cut, last_texts
from broker import host
from broker.host import HostView
from isthmus import schema

router = APIRouter(prefix="/v1/hosts", tags=["host"])


@router.get("")
def list_hosts(
    broker: TheBroker, caller: Caller, site: Text = None, limit: Limit = 100, page: Token = None
) -> schema.Page[schema.Host]:
    """Hosts, by site and name."""
    after = last_texts(page) if page else None
    views = host.list_hosts(broker, caller, site_ref=site, after=after, limit=limit + 1)
    rows, following = cut(views, lambda view: (view.row.site.name, view.row.name), limit, None)
    return schema.Page(items=[_answer(view) for view in rows], next=following)


@router.get("/{ref:path}")
def get_host(broker: TheBroker, caller: Caller, ref: Ref) -> schema.Host:
    """One host, with the attributes that requirements and ranks may name."""
    return _answer(host.get(broker, caller, ref))


@router.patch("/{ref:path}")
def update_host(broker: TheBroker, caller: Caller, ref: Ref, body: schema.HostUpdate) -> schema.Host:
    """Put a host into maintenance, or take it out. Admins only."""
    return _answer(host.set_maintenance(broker, caller, ref, body.maintenance))


def _answer(view: HostView) -> schema.Host:
    row = view.row
    return schema.Host(
        id=row.id,
        name=row.name,
        site=row.site.name,
        state=row.condition,
        in_maintenance=row.maintenance,
        status_reason=row.status_reason,
        elastic=row.elastic,
        vcpus_total=row.vcpus_total,
        vcpus_free=view.vcpus_free,
        mem_total_mb=row.mem_total_mb,
        mem_free_mb=view.mem_free_mb,
        vms=view.vms,
        attributes=view.attributes,
        seen_at=row.seen_at,
    )
