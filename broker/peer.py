"""Peers: a burst VM's end of a tunnel for each of its networks, from its bootstrap key to its removal.

What touches several of a VM's peers takes their gateways in the order of their ids: each is locked, and two VMs that
have their networks in different orders would block each other.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import timedelta
from ipaddress import ip_address

from sqlalchemy import select
from sqlalchemy.orm import Session, defaultload

from broker import access, event, gateway
from broker.actor import Actor
from broker.broker import Broker
from broker.errors import EnrolmentRefused, InvalidRequest
from broker.states import LIVE_PEER, PeerState, SubnetMode
from broker.store import GatewayRow, NetworkRow, NICRow, PeerRow, VMRow
from vpn import keys
from vpn.address import free_address, overlapping
from vpn.bootstrap import End, interface_of, sample, script
from vpn.plan import ENROLMENT_POOL, LINK_ADDRESS
from vpn.userdata import UserDataError, multipart


def clash(gateways: Sequence[GatewayRow]) -> str:
    """Why no VM can have a tunnel to each of these gateways, in words; empty when one can."""
    for one, other in itertools.combinations(gateways, 2):
        names = f"networks {one.network.name} and {other.network.name}"
        if one.endpoint == other.endpoint or (one.public_key and one.public_key == other.public_key):
            return f"{names} share one gateway, and a VM in a cloud has one tunnel to a gateway"
        if overlapping(one.network.cidr, [other.network.cidr]):
            return f"{names} overlap, so that a VM in a cloud could not tell their tunnels apart"
    for one, other in itertools.permutations(gateways, 2):
        if _is_inside(one.endpoint, other.network.cidr):
            return (
                f"the endpoint {one.endpoint} of gateway {one.name} is an address of network {other.network.name}, "
                "whose tunnel its packets would take"
            )
    return ""


def refusal(broker: Broker, vm: VMRow, gateways: Sequence[GatewayRow]) -> str:
    """Why this VM cannot have a tunnel to each of these gateways, in words; empty when it can.

    One reason is user data: the script that joins has to travel with the VM's own.
    """
    words = clash(gateways)
    if words or (not vm.sealed_user_data and len(gateways) == 1):
        return words
    own = broker.sealer.open(vm.sealed_user_data) if vm.sealed_user_data else ""
    joined = "private network" if len(gateways) == 1 else f"{len(gateways)} private networks"
    try:
        multipart(own, sample([one.endpoint for one in gateways]))
    except UserDataError:
        if not own:
            return f"the script that joins {joined} is longer than user data may be"
        return f"the VM's user data leaves no room for the script that joins the {joined}"
    return ""


def check_networks(session: Session, networks: Sequence[NetworkRow]) -> None:
    """Refuse a VM on networks that are together in clouds only, and whose tunnels one VM cannot have. Raises InvalidRequest.

    Where they are together at a site of one's own, it can run there: then the queue refuses the clouds alone.
    """
    if len(networks) < 2:
        return
    modes = [{subnet.site_id: subnet.mode for subnet in each.subnets} for each in networks]
    sites = set.intersection(*(set(each) for each in modes))
    if not sites or any(each[site_id] != SubnetMode.TUNNEL for site_id in sites for each in modes):
        return
    ids = [each.id for each in networks]
    words = clash(session.scalars(select(GatewayRow).where(GatewayRow.network_id.in_(ids))).all())
    if words:
        raise InvalidRequest(words, hint="leave one of the networks out")


def prepare(broker: Broker, session: Session, vm: VMRow, through: GatewayRow, nic: NICRow) -> PeerRow:
    """The bootstrap peer of one launch on one network, in the caller's transaction. Preparing again gives the same one.

    Raises LookupError when the VM's NIC on that network has no address.
    """
    if nic.address is None:
        raise LookupError(f"{nic.id} has no address")
    have = tunnels(session, vm.id).get(through.network_id)
    if have is not None:
        return have
    private, public = keys.generate()
    # This locks the gateway: of two launches at once, the second sees which bootstrap address the first has.
    generation = _bump(session, through.id)
    taken = set(session.scalars(select(PeerRow.bootstrap_address).where(PeerRow.state.in_(LIVE_PEER))))
    now = broker.clock.now()
    row = PeerRow(
        id=broker.new_id("peer"),
        gateway_id=through.id,
        vm_id=vm.id,
        network_id=through.network_id,
        state=PeerState.BOOTSTRAP,
        address=nic.address,
        bootstrap_address=free_address(ENROLMENT_POOL, taken, LINK_ADDRESS),
        bootstrap_public_key=public,
        sealed_bootstrap_key=broker.sealer.seal(private),
        public_key=None,
        generation=generation,
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


def join_script(broker: Broker, ends: Sequence[tuple[PeerRow, int]]) -> str:
    """The script that enrols a VM at its first boot at each of these peers' gateways; each with the MTU of its tunnel.

    It holds the bootstrap keys: each good for one launch and one post.
    """
    made: list[End] = []
    for number, (row, mtu) in enumerate(ends):
        if row.gateway.public_key is None:
            raise ValueError(f"gateway {row.gateway.name} has no key yet")
        made.append(
            End(
                bootstrap_private_key=broker.sealer.open(row.sealed_bootstrap_key),
                bootstrap_public_key=row.bootstrap_public_key,
                bootstrap_address=row.bootstrap_address,
                gateway_public_key=row.gateway.public_key,
                endpoint=row.gateway.endpoint,
                mtu=mtu,
                interface=interface_of(number),
            )
        )
    return script(*made)


def enrol(broker: Broker, actor: Actor, address: str, public_key: str) -> tuple[PeerRow, list[str]]:
    """Exchange a bootstrap key for the VM's own. (the peer, the prefixes the VM routes into the tunnel)

    A repeated post of the same key succeeds, because an answer can be lost. Raises EnrolmentRefused for a
    bootstrap that is used, expired or unknown, and for a key that was seen before.
    """
    access.require(actor, "peer.enrol")
    gateway_id = gateway.own(actor)
    refused: str | None = None
    with broker.store.transaction() as session:
        row = session.scalar(
            select(PeerRow)
            .where(PeerRow.gateway_id == gateway_id, PeerRow.bootstrap_address == address)
            .where(PeerRow.state.in_((*LIVE_PEER, PeerState.EXPIRED)))
            .order_by(PeerRow.created_at.desc())
            .with_for_update(of=PeerRow)
        )
        if row is None:
            refused = f"no launch has the bootstrap address {address}"
        elif row.state == PeerState.ENROLLED and row.public_key == public_key:
            return row, _prefixes(row)
        elif row.state == PeerState.ENROLLED:
            refused = "the bootstrap key was used already"
        elif row.state == PeerState.EXPIRED or row.expires_at <= broker.clock.now():
            refused = "the bootstrap key has expired"
        elif not keys.is_key(public_key) or _seen(session, public_key):
            refused = "this key was seen before: a VM must make a key of its own"
        else:
            row.state, row.public_key, row.enrolled_at = PeerState.ENROLLED, public_key, broker.clock.now()
            row.sealed_bootstrap_key = ""
            row.generation = _bump(session, gateway_id)
            vm = session.get(VMRow, row.vm_id)
            if vm is not None:
                if all(each.state == PeerState.ENROLLED for each in tunnels(session, vm.id).values()):
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


def tunnels(session: Session, vm_id: str) -> dict[str, PeerRow]:
    """Network id -> the VM's peer on it that the gateway has or should have."""
    rows = session.scalars(select(PeerRow).where(PeerRow.vm_id == vm_id, PeerRow.state.in_(LIVE_PEER)))
    return {row.network_id: row for row in rows}


def expire(broker: Broker, session: Session, row: PeerRow) -> None:
    """Give up a bootstrap peer that nobody can use any more."""
    _end(broker, session, row, PeerState.EXPIRED)


def remove(broker: Broker, session: Session, vm_id: str) -> list[PeerRow]:
    """Take all of a VM's peers from their gateways' documents. Removing again changes nothing.

    For each network that the VM had a peer on the last one, with the generation that is without it.
    """
    rows = session.scalars(
        select(PeerRow).where(PeerRow.vm_id == vm_id).order_by(PeerRow.created_at, PeerRow.id.desc())
    )
    last = {row.network_id: row for row in rows} | tunnels(session, vm_id)
    ended = sorted(last.values(), key=lambda row: row.gateway_id)
    for row in ended:
        if row.state in LIVE_PEER:
            _end(broker, session, row, PeerState.REMOVED)
    return ended


def list_peers(
    broker: Broker, actor: Actor, *, gateway_ref: str | None = None, vm_id: str | None = None
) -> Sequence[PeerRow]:
    """Peers, newest first; others than admins see those of their project's VMs."""
    access.require(actor, "peer.list")
    lean = defaultload(PeerRow.gateway).options(gateway.LEAN)
    query = select(PeerRow).options(lean).join(VMRow, VMRow.id == PeerRow.vm_id)
    query = query.order_by(PeerRow.created_at.desc(), PeerRow.id)
    query = access.visible(query, actor, VMRow, "peer.list")
    with broker.store.reading() as session:
        if gateway_ref:
            query = query.where(PeerRow.gateway_id == gateway.find(session, actor, gateway_ref).id)
        if vm_id:
            query = query.where(PeerRow.vm_id == vm_id)
        return list(session.scalars(query))


def vm_names(broker: Broker, rows: Sequence[PeerRow]) -> dict[str, str]:
    """VM id -> name, for peers that were listed."""
    with broker.store.reading() as session:
        found = session.execute(select(VMRow.id, VMRow.name).where(VMRow.id.in_([row.vm_id for row in rows])))
        return {vm_id: name for vm_id, name in found}  # noqa: C416 - a Row is no pair to the type checker


def _end(broker: Broker, session: Session, row: PeerRow, state: PeerState) -> None:
    row.state = state
    row.sealed_bootstrap_key = ""
    row.generation = _bump(session, row.gateway_id)
    event.record(broker, session, f"peer.{state}", row.id, f"peer at {row.address} {state}", vm=row.vm_id)


def _is_inside(endpoint: str, cidr: str) -> bool:
    host = endpoint.rsplit(":", 1)[0].strip("[]")
    try:
        return overlapping(cidr, [str(ip_address(host))]) != []
    except ValueError:
        return False  # a name


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
