"""``/v1/networks``."""

from __future__ import annotations

from fastapi import APIRouter

from api.native.auth import Caller, TheBroker
from api.native.label import Label, wanted
from api.native.paging import Limit, Ref, Token, cut
from broker import network
from broker.store import NetworkRow, SubnetRow
from isthmus import schema

router = APIRouter(prefix="/v1/networks", tags=["network"])


@router.post("", status_code=201)
def create_network(broker: TheBroker, caller: Caller, body: schema.NetworkCreate) -> schema.Network:
    """Add a network. Admins only."""
    row = network.create(
        broker,
        caller,
        name=body.name,
        cidr=body.cidr,
        project_ref=body.project,
        visibility=body.visibility,
        labels=body.labels,
    )
    return _answer(row, {})


@router.get("")
def list_networks(
    broker: TheBroker,
    caller: Caller,
    label: Label = [],  # noqa: B006
    limit: Limit = 100,
    page: Token = None,
) -> schema.Page[schema.Network]:
    """The project's networks and those that are shared, by name."""
    rows, following = cut(
        network.list_networks(broker, caller, labels=wanted(label)), network.order, limit, page
    )
    leased = network.leased(broker, caller)
    return schema.Page(items=[_answer(row, leased) for row in rows], next=following)


@router.get("/{ref}")
def get_network(broker: TheBroker, caller: Caller, ref: Ref) -> schema.Network:
    """One network with its subnets. Of networks of one name the project's own comes before the broker's."""
    return _answer(network.get(broker, caller, ref), network.leased(broker, caller))


@router.delete("/{ref}", status_code=204)
def delete_network(broker: TheBroker, caller: Caller, ref: Ref) -> None:
    """Remove a network without leases and gateways. Admins only."""
    network.delete(broker, caller, ref)


@router.post("/{ref}/subnets", status_code=201)
def create_subnet(broker: TheBroker, caller: Caller, ref: Ref, body: schema.SubnetCreate) -> schema.Subnet:
    """Give a network a subnet at a site. Admins only."""
    row = network.add_subnet(
        broker,
        caller,
        ref,
        site_ref=body.site,
        cidr=body.cidr,
        mode=body.mode,
        gateway=body.gateway,
        bridge=body.bridge,
        dns=body.dns,
        reserved=body.reserved,
        mtu=body.mtu,
        labels=body.labels,
    )
    return _subnet(row, {})


@router.delete("/{ref}/subnets/{site}", status_code=204)
def delete_subnet(broker: TheBroker, caller: Caller, ref: Ref, site: Ref) -> None:
    """Take a network's subnet from a site. Admins only."""
    network.remove_subnet(broker, caller, ref, site)


def _answer(row: NetworkRow, leased: dict[str, int]) -> schema.Network:
    return schema.Network(
        id=row.id,
        name=row.name,
        project=row.project.name if row.project is not None else None,
        visibility=row.visibility,
        cidr=row.cidr,
        subnets=[_subnet(subnet, leased) for subnet in row.subnets],
        labels=row.labels,
        created_at=row.created_at,
    )


def _subnet(row: SubnetRow, leased: dict[str, int]) -> schema.Subnet:
    return schema.Subnet(
        id=row.id,
        network=row.network.name,
        site=row.site.name,
        cidr=row.cidr,
        mode=row.mode,
        gateway=row.gateway,
        bridge=row.bridge,
        dns=row.dns,
        reserved=row.reserved,
        mtu=row.mtu,
        leased=leased.get(row.id, 0),
        labels=row.labels,
    )
