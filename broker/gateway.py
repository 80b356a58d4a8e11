"""Gateways: where a site's private network meets the tunnels. The broker plans, the agent pulls.

Broker and agents are not upgraded at one moment: an agent says which versions of the document it reads, and gets the
newest that both know, or none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session, defaultload

from broker import access, event, label, network, overlap, site, token
from broker.actor import GATEWAY, Actor
from broker.broker import Broker
from broker.errors import Conflict, Exists, Forbidden, InUse, InvalidRequest, NotFound
from broker.states import LIVE_PEER, SubnetMode
from broker.store import LABELS, GatewayRow, NetworkRow, PeerRow, SubnetRow, TokenRow
from vpn.document import READS, GatewayDocument
from vpn.plan import GatewaySpec, PeerSpec, plan

_ENDPOINT = re.compile(r"^([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):([0-9]{1,5})$")
Q = TypeVar("Q", bound="Select[*tuple[Any, ...]]")


@dataclass(frozen=True)
class PeerReport:
    """One peer as the gateway's WireGuard shows it; ``last_handshake`` in seconds since the epoch, 0 = never."""

    public_key: str
    last_handshake: float
    rx_bytes: int
    tx_bytes: int


def create(
    broker: Broker,
    actor: Actor,
    *,
    name: str,
    site_ref: str,
    network_ref: str,
    endpoint: str,
    labels: Mapping[str, str] | None = None,
) -> tuple[GatewayRow, str]:
    """A new gateway and its agent's token, shown once. Admins only. Raises Exists, InvalidRequest, NotFound, Overlap."""
    access.require(actor, "gateway.create")
    match = _ENDPOINT.fullmatch(endpoint)
    if match is None or not 0 < int(match[2]) < 65536:
        raise InvalidRequest(f"endpoint {endpoint!r} is not HOST:PORT", hint="such as 203.0.113.7:51820")
    with broker.store.transaction() as session:
        if session.scalar(select(GatewayRow).where(GatewayRow.name == name)):
            raise Exists("gateway", name)
        at = site.find(session, site_ref)
        net = network.find(session, actor, network_ref)
        if session.scalar(select(GatewayRow).where(GatewayRow.network_id == net.id)):
            raise Conflict(
                f"network {net.name} has a gateway already", hint="a network has one gateway in this version"
            )
        if not any(subnet.site_id == at.id and subnet.mode != SubnetMode.TUNNEL for subnet in net.subnets):
            raise InvalidRequest(
                f"network {net.name} has no subnet at {at.name}",
                hint="`isthmus network add-subnet` gives it one",
            )
        overlap.check_gateway(session, net, at, endpoint)
        row = GatewayRow(
            id=broker.new_id("gw"),
            name=name,
            site_id=at.id,
            network_id=net.id,
            endpoint=endpoint,
            public_key=None,
            generation=1,
            applied_generation=0,
            document_versions=[1],
            features=[],
            software="",
            refusal="",
            problems=[],
            seen_at=None,
            created_at=broker.clock.now(),
        )
        row.site, row.network = at, net
        session.add(row)
        session.flush()
        label.give(session, row, labels)
        secret = _add_token(broker, session, actor, row)
        event.record(
            broker,
            session,
            "gateway.created",
            row.id,
            f"gateway {name} created by {actor.name}",
            project_id=net.project_id,
        )
    return row, secret


def renew_token(broker: Broker, actor: Actor, ref: str) -> tuple[GatewayRow, str]:
    """A new token for a gateway's agent, shown once; the one before is dead at once. Admins only. Raises NotFound."""
    access.require(actor, "gateway.renew_token")
    with broker.store.transaction() as session:
        row = find(session, actor, ref)
        for old in session.scalars(select(TokenRow).where(TokenRow.gateway_id == row.id)):
            session.delete(old)
        secret = _add_token(broker, session, actor, row)
        event.record(
            broker,
            session,
            "gateway.token_renewed",
            row.id,
            f"gateway {row.name} has a new token, by {actor.name}",
        )
    return row, secret


def offered(query: Q, actor: Actor, permission: str, *, here: bool = False) -> Q:
    """A query of those gateways only whose networks are offered to the actor: see ``access.offered``."""
    of_network = query.join(NetworkRow, NetworkRow.id == GatewayRow.network_id)
    return access.offered(of_network, actor, NetworkRow, permission, here=here)


def find(session: Session, actor: Actor, ref: str) -> GatewayRow:
    """A gateway by id or name. Raises NotFound, also when its network is another project's own."""
    query = offered(select(GatewayRow), actor, "gateway.get")
    query = query.where((GatewayRow.id == ref) | (GatewayRow.name == ref))
    row = session.scalar(query.options(LABELS))
    if row is None:
        raise NotFound("gateway", ref)
    return row


def get(broker: Broker, actor: Actor, ref: str) -> GatewayRow:
    """One gateway. Raises NotFound."""
    access.require(actor, "gateway.get")
    with broker.store.reading() as session:
        return find(session, actor, ref)


LEAN = defaultload(GatewayRow.network).lazyload(NetworkRow.subnets)
"""For a list of gateways: nobody reads the subnets of their networks there."""


def list_gateways(
    broker: Broker, actor: Actor, *, labels: Mapping[str, str] | None = None
) -> Sequence[GatewayRow]:
    """All gateways of networks that the caller sees and that carry these labels, by name."""
    access.require(actor, "gateway.list")
    with broker.store.reading() as session:
        query = offered(select(GatewayRow), actor, "gateway.list")
        query = query.options(LABELS, LEAN).order_by(GatewayRow.name)
        return list(session.scalars(label.filter(query, GatewayRow, labels)))


def peer_counts(broker: Broker, actor: Actor) -> dict[str, int]:
    """Gateway id -> number of its live peers."""
    access.require(actor, "gateway.list")
    with broker.store.reading() as session:
        rows = session.execute(
            select(PeerRow.gateway_id, func.count())
            .where(PeerRow.state.in_(LIVE_PEER))
            .group_by(PeerRow.gateway_id)
        ).all()
    return dict(rows)


def state(broker: Broker, row: GatewayRow) -> str:
    """``new`` until its agent registered; ``up`` while the agent was seen within two minutes; else ``unreachable``.

    ``incompatible`` when no version of the document is known to both the agent and this broker.
    """
    if row.public_key is None or row.seen_at is None:
        return "new"
    if _version(row) is None:
        return "incompatible"
    return "up" if (broker.clock.now() - row.seen_at).total_seconds() < 120 else "unreachable"


def status_reason(row: GatewayRow) -> str:
    """What is wrong with it, in words: why it gets no document, or what of it the agent could not apply."""
    return _refusal(row) or "; ".join(row.problems)


def delete(broker: Broker, actor: Actor, ref: str) -> None:
    """Remove a gateway without live peers. Raises InUse, NotFound."""
    access.require(actor, "gateway.delete")
    with broker.store.transaction() as session:
        row = find(session, actor, ref)
        if session.scalar(
            select(PeerRow.id).where(PeerRow.gateway_id == row.id, PeerRow.state.in_(LIVE_PEER))
        ):
            raise InUse(f"gateway {row.name} has peers", hint="delete its burst VMs first")
        for past in session.scalars(select(PeerRow).where(PeerRow.gateway_id == row.id)):
            session.delete(past)
        session.flush()
        event.record(
            broker,
            session,
            "gateway.deleted",
            row.id,
            f"gateway {row.name} deleted by {actor.name}",
            project_id=row.network.project_id,
        )
        session.delete(row)


def own(actor: Actor) -> str:
    """The id of the agent's own gateway. Raises Forbidden for anybody else."""
    if actor.gateway_id is None:
        raise Forbidden(
            "this is for gateways' agents", hint="use the token that `isthmus gateway create` printed"
        )
    return actor.gateway_id


def register(
    broker: Broker,
    actor: Actor,
    public_key: str,
    *,
    document_versions: Sequence[int] = (1,),
    features: Sequence[str] = (),
    software: str = "",
) -> None:
    """The agent says its own public key, which versions of the document it reads, and what else it can.

    A new key replaces the old one: burst VMs launched before must be relaunched. Raises Overlap for the key of another gateway
    whose network has the same addresses.
    """
    access.require(actor, "gateway.register")
    gateway_id = own(actor)
    with broker.store.transaction() as session:
        row = session.get(GatewayRow, gateway_id, with_for_update={"of": GatewayRow})
        if row is None:
            raise NotFound("gateway", gateway_id)
        row.seen_at = broker.clock.now()
        row.document_versions = sorted(set(document_versions))
        row.features, row.software = sorted(set(features)), software
        refusal = _refusal(row)
        if refusal and refusal != row.refusal:
            event.record(broker, session, "gateway.incompatible", row.id, f"gateway {row.name}: {refusal}")
        row.refusal = refusal
        if row.public_key != public_key:
            overlap.check_key(session, row, public_key)
            row.public_key = public_key
            row.generation += 1
            event.record(
                broker, session, "gateway.registered", row.id, f"gateway {row.name} has the key {public_key}"
            )
    broker.signals.set("gateways")
    broker.signals.set("place")


def document(broker: Broker, actor: Actor) -> GatewayDocument:
    """The agent's desired document, planned from the rows as they are now, in the newest version that it reads.

    Raises Conflict when it reads none that this broker writes.
    """
    access.require(actor, "gateway.document")
    gateway_id = own(actor)
    with broker.store.reading() as session:
        row = session.get(GatewayRow, gateway_id)
        if row is None:
            raise NotFound("gateway", gateway_id)
        version = _version(row)
        if version is None:
            raise Conflict(
                _refusal(row), hint="what the gateway has applied stays in force; no VM bursts through it"
            )
        return _plan(session, row, version)


def next_document(broker: Broker, actor: Actor, after: int, wait_s: float) -> GatewayDocument | None:
    """The document when its generation is beyond ``after``; waits up to ``wait_s`` seconds for one, else None."""
    access.require(actor, "gateway.document")
    deadline = broker.clock.now().timestamp() + wait_s
    while True:
        seen = broker.signals.count("gateways")
        current = document(broker, actor)
        left = deadline - broker.clock.now().timestamp()
        # A generation that went back means another database: the agent must follow it.
        if current.generation != after or left <= 0:
            return current if current.generation != after else None
        broker.signals.wait("gateways", seen, min(left, 1.0))


def report(
    broker: Broker,
    actor: Actor,
    applied_generation: int,
    peers: Sequence[PeerReport],
    problems: Sequence[str] = (),
) -> None:
    """What the agent has applied, what its peers have sent, and what of its document it could not apply, in words."""
    access.require(actor, "gateway.report")
    gateway_id = own(actor)
    with broker.store.transaction() as session:
        row = session.get(GatewayRow, gateway_id, with_for_update={"of": GatewayRow})
        if row is None:
            raise NotFound("gateway", gateway_id)
        row.seen_at = broker.clock.now()
        advanced = applied_generation > row.applied_generation
        row.applied_generation = applied_generation
        if problems and list(problems) != row.problems:
            event.record(
                broker,
                session,
                "gateway.incomplete",
                row.id,
                f"gateway {row.name} could not apply all of its document: {'; '.join(problems)}",
            )
        if list(problems) != row.problems:
            row.problems = list(problems)
        known = {
            peer.public_key: peer
            for peer in session.scalars(
                select(PeerRow).where(PeerRow.gateway_id == row.id, PeerRow.state == "enrolled")
            )
        }
        waiting: list[str] = []
        for item in peers:
            peer = known.get(item.public_key)
            if peer is None:
                continue
            if item.last_handshake:
                if peer.last_handshake_at is None:
                    waiting.append(peer.vm_id)
                peer.last_handshake_at = datetime.fromtimestamp(item.last_handshake, UTC)
            peer.rx_bytes, peer.tx_bytes = item.rx_bytes, item.tx_bytes
    if advanced:
        broker.signals.set("applied")
    for vm_id in waiting:
        broker.signals.set(f"{vm_id}.peer")


def _add_token(broker: Broker, session: Session, actor: Actor, row: GatewayRow) -> str:
    name = f"gateway-{row.name}"
    return token.add(
        broker, session, name=name, project_id=actor.project_id, role=GATEWAY, gateway_id=row.id
    )[1]


def _version(row: GatewayRow) -> int | None:
    """The newest version of the document that both the agent and this broker know, or None."""
    return max(set(row.document_versions) & set(READS), default=None)


def _refusal(row: GatewayRow) -> str:
    if _version(row) is not None:
        return ""
    theirs = ", ".join(str(version) for version in row.document_versions) or "none"
    newer = min(row.document_versions, default=0) > max(READS)
    return (
        f"its agent ({row.software or 'version unknown'}) reads versions {theirs} of the document, and this broker writes "
        f"{', '.join(str(version) for version in READS)}: upgrade the {'broker' if newer else 'agent'}"
    )


def _plan(session: Session, row: GatewayRow, version: int) -> GatewayDocument:
    tunnels = session.scalars(
        select(SubnetRow).where(SubnetRow.network_id == row.network_id, SubnetRow.mode == SubnetMode.TUNNEL)
    ).all()
    peers: list[PeerSpec] = []
    for peer in session.scalars(
        select(PeerRow).where(PeerRow.gateway_id == row.id, PeerRow.state.in_(LIVE_PEER))
    ):
        if peer.state == "bootstrap":
            peers.append(
                PeerSpec(
                    id=peer.id,
                    kind="bootstrap",
                    public_key=peer.bootstrap_public_key,
                    address=peer.bootstrap_address,
                    expires_at=peer.expires_at.timestamp(),
                )
            )
        elif peer.public_key is not None:
            peers.append(PeerSpec(id=peer.id, kind="vm", public_key=peer.public_key, address=peer.address))
    return plan(
        GatewaySpec(
            id=row.id,
            generation=row.generation,
            tunnels=tuple(subnet.cidr for subnet in tunnels),
            listen_port=int(row.endpoint.rsplit(":", 1)[1]),
            mtu=min((subnet.mtu for subnet in tunnels), default=1420),
            version=version,
        ),
        peers,
    )
