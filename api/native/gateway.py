"""``/v1/gateways``."""

from __future__ import annotations

from fastapi import APIRouter

from api.native.auth import Caller, TheBroker
from api.native.label import Label, wanted
from api.native.paging import Limit, Ref, Token, cut
from broker import gateway
from broker.broker import Broker
from broker.store import GatewayRow
from isthmus import schema

router = APIRouter(prefix="/v1/gateways", tags=["gateway"])


@router.post("", status_code=201)
def create_gateway(broker: TheBroker, caller: Caller, body: schema.GatewayCreate) -> schema.GatewayCreated:
    """Add a gateway. The agent's token is answered this once. Admins only."""
    row, secret = gateway.create(
        broker,
        caller,
        name=body.name,
        site_ref=body.site,
        network_ref=body.network,
        endpoint=body.endpoint,
        labels=body.labels,
    )
    return schema.GatewayCreated(gateway=_answer(broker, row, {}), token=secret)


@router.get("")
def list_gateways(
    broker: TheBroker,
    caller: Caller,
    label: Label = [],  # noqa: B006
    limit: Limit = 100,
    page: Token = None,
) -> schema.Page[schema.Gateway]:
    """The gateways of networks that the caller sees, by name."""
    rows, following = cut(
        gateway.list_gateways(broker, caller, labels=wanted(label)), lambda row: (row.name,), limit, page
    )
    counts = gateway.peer_counts(broker, caller)
    return schema.Page(items=[_answer(broker, row, counts) for row in rows], next=following)


@router.get("/{ref}")
def get_gateway(broker: TheBroker, caller: Caller, ref: Ref) -> schema.Gateway:
    """One gateway."""
    row = gateway.get(broker, caller, ref)
    return _answer(broker, row, gateway.peer_counts(broker, caller))


@router.post("/{ref}/token", status_code=201)
def renew_gateway_token(broker: TheBroker, caller: Caller, ref: Ref) -> schema.GatewayCreated:
    """Give the agent a new token, answered this once; the one before is dead at once. Admins only."""
    row, secret = gateway.renew_token(broker, caller, ref)
    return schema.GatewayCreated(
        gateway=_answer(broker, row, gateway.peer_counts(broker, caller)), token=secret
    )


@router.delete("/{ref}", status_code=204)
def delete_gateway(broker: TheBroker, caller: Caller, ref: Ref) -> None:
    """Remove a gateway without live peers. Admins only."""
    gateway.delete(broker, caller, ref)


def _answer(broker: Broker, row: GatewayRow, peers: dict[str, int]) -> schema.Gateway:
    return schema.Gateway(
        id=row.id,
        name=row.name,
        site=row.site.name,
        network=row.network.name,
        endpoint=row.endpoint,
        state=gateway.state(broker, row),
        status_reason=gateway.status_reason(row),
        public_key=row.public_key,
        generation=row.generation,
        applied_generation=row.applied_generation,
        peers=peers.get(row.id, 0),
        document_versions=row.document_versions,
        features=row.features,
        software=row.software,
        seen_at=row.seen_at,
        labels=row.labels,
        created_at=row.created_at,
    )
