"""Peers: each burst VM's end of a tunnel, from its bootstrap key to its removal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from broker import event, gateway
from broker.actor import READER, Actor
from broker.broker import Broker
from broker.errors import EnrolmentRefused
from broker.store import GatewayRow, PeerRow, VMRow
from vpn import keys
from vpn.address import free_address
from vpn.bootstrap import End, script
from vpn.plan import ENROLMENT_POOL, LINK_ADDRESS

BOOTSTRAP = "bootstrap"
ENROLLED = "enrolled"
EXPIRED = "expired"
REMOVED = "removed"


def prepare(broker: Broker, session: Session, vm: VMRow, through: GatewayRow, address: str) -> PeerRow:
    """The bootstrap peer of one launch, in the caller's transaction. Preparing again gives the same one."""
    have = live(session, vm.id)
    if have is not None:
        return have
    private, public = keys.generate()
    taken = set(session.scalars(select(PeerRow.bootstrap_address).where(PeerRow.state.in_(gateway.LIVE))))
    now = broker.clock.now()
    row = PeerRow(
        id=broker.new_id("peer"),
        gateway_id=through.id,
        vm_id=vm.id,
        network_id=through.network_id,
        state=BOOTSTRAP,
        address=address,
        bootstrap_address=free_address(ENROLMENT_POOL, taken, LINK_ADDRESS),
        bootstrap_public_key=public,
        sealed_bootstrap_key=broker.sealer.seal(private),
        public_key=None,
        generation=_bump(session, through.id),
        expires_at=now + timedelta(seconds=broker.settings.timing.enrol_s),
        enrolled_at=None,
        last_handshake_at=None,
        rx_bytes=0,
        tx_bytes=0,
        created_at=now,
    )
    row.gateway = through
    session.add(row)
    event.record(
        broker,
        session,
        "peer.prepared",
        row.id,
        f"{vm.name} may enrol at {through.name}",
        project_id=vm.project_id,
        vm=vm.id,
    )
    return row


def user_data(broker: Broker, row: PeerRow, mtu: int) -> str:
    """The script that enrols the VM at its first boot. It holds the bootstrap key: good for one launch and one post."""
    if row.gateway.public_key is None:
        raise ValueError(f"gateway {row.gateway.name} has no key yet")
    return script(
        End(
            bootstrap_private_key=broker.sealer.open(row.sealed_bootstrap_key),
            bootstrap_public_key=row.bootstrap_public_key,
            bootstrap_address=row.bootstrap_address,
            gateway_public_key=row.gateway.public_key,
            endpoint=row.gateway.endpoint,
            mtu=mtu,
        )
    )


def enrol(broker: Broker, actor: Actor, address: str, public_key: str) -> tuple[PeerRow, list[str]]:
    """Exchange a bootstrap key for the VM's own. (the peer, the prefixes the VM routes into the tunnel)

    A repeated post of the same key succeeds, because an answer can be lost. Raises EnrolmentRefused for a
    bootstrap that is used, expired or unknown, and for a key that was seen before.
    """
    gateway_id = gateway.own(actor)
    refused: str | None = None
    with broker.store.transaction() as session:
        row = session.scalar(
            select(PeerRow)
            .where(PeerRow.gateway_id == gateway_id, PeerRow.bootstrap_address == address)
            .where(PeerRow.state.in_((*gateway.LIVE, EXPIRED)))
            .order_by(PeerRow.created_at.desc())
            .with_for_update(of=PeerRow)
        )
        if row is None:
            refused = f"no launch has the bootstrap address {address}"
        elif row.state == ENROLLED and row.public_key == public_key:
            return row, _prefixes(row)
        elif row.state == ENROLLED:
            refused = "the bootstrap key was used already"
        elif row.state == EXPIRED or row.expires_at <= broker.clock.now():
            refused = "the bootstrap key has expired"
        elif not keys.is_key(public_key) or _seen(session, public_key):
            refused = "this key was seen before: a VM must make a key of its own"
        else:
            row.state, row.public_key, row.enrolled_at = ENROLLED, public_key, broker.clock.now()
            row.sealed_bootstrap_key = ""
            row.generation = _bump(session, gateway_id)
            vm = session.get(VMRow, row.vm_id)
            if vm is not None:
                vm.enrolled_at = row.enrolled_at
                event.record(
                    broker,
                    session,
                    "peer.enrolled",
                    row.id,
                    f"{vm.name} enrolled at {row.address}",
                    project_id=vm.project_id,
                    vm=vm.id,
                )
        if refused:
            event.record(broker, session, "peer.refused", row.id if row else address, refused)
    if refused or row is None:
        raise EnrolmentRefused(refused or "unknown", hint="launch the VM anew")
    broker.signals.set("gateways")
    broker.signals.set(f"{row.vm_id}.peer")
    return row, _prefixes(row)


def live(session: Session, vm_id: str) -> PeerRow | None:
    """The VM's peer that the gateway has or should have, or None."""
    return session.scalar(select(PeerRow).where(PeerRow.vm_id == vm_id, PeerRow.state.in_(gateway.LIVE)))


def end(broker: Broker, session: Session, vm_id: str, state: str = REMOVED) -> PeerRow | None:
    """Take the VM's peer from its gateway's document; the peer with the generation that is without it."""
    row = live(session, vm_id)
    if row is not None:
        row.state = state
        row.sealed_bootstrap_key = ""
        row.generation = _bump(session, row.gateway_id)
        event.record(broker, session, f"peer.{state}", row.id, f"peer at {row.address} {state}", vm=vm_id)
        return row
    return session.scalar(
        select(PeerRow).where(PeerRow.vm_id == vm_id).order_by(PeerRow.created_at.desc(), PeerRow.id).limit(1)
    )


def list_peers(
    broker: Broker, actor: Actor, *, gateway_ref: str | None = None, vm_id: str | None = None
) -> Sequence[PeerRow]:
    """Peers, newest first; others than admins see those of their project's VMs."""
    actor.require(READER)
    query = select(PeerRow).order_by(PeerRow.created_at.desc(), PeerRow.id)
    if not actor.is_admin:
        query = query.join(VMRow, VMRow.id == PeerRow.vm_id).where(VMRow.project_id == actor.project_id)
    with broker.store.reading() as session:
        if gateway_ref:
            query = query.where(PeerRow.gateway_id == gateway.find(session, gateway_ref).id)
        if vm_id:
            query = query.where(PeerRow.vm_id == vm_id)
        return list(session.scalars(query))


def vm_names(broker: Broker, rows: Sequence[PeerRow]) -> dict[str, str]:
    """VM id -> name, for peers that were listed."""
    with broker.store.reading() as session:
        found = session.execute(select(VMRow.id, VMRow.name).where(VMRow.id.in_([row.vm_id for row in rows])))
        return {vm_id: name for vm_id, name in found}  # noqa: C416 - a Row is no pair to the type checker


def _seen(session: Session, public_key: str) -> bool:
    in_peers = (PeerRow.public_key == public_key) | (PeerRow.bootstrap_public_key == public_key)
    return (
        session.scalar(select(PeerRow.id).where(in_peers)) is not None
        or session.scalar(select(GatewayRow.id).where(GatewayRow.public_key == public_key)) is not None
    )


def _prefixes(row: PeerRow) -> list[str]:
    return [row.gateway.network.cidr, f"{LINK_ADDRESS}/32"]


def _bump(session: Session, gateway_id: str) -> int:
    row = session.get(GatewayRow, gateway_id, with_for_update={"of": GatewayRow}, populate_existing=True)
    if row is None:
        raise LookupError(gateway_id)
    row.generation += 1
    session.flush()
    return row.generation
