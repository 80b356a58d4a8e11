"""Where two networks share a routing table, and so may not have the same addresses.

Networks are isolated from each other: the same prefix may be in two of them. What can tell one address from an equal one is
where it is looked up, and there are three such tables (``docs/adr/0004-overlap-of-networks.md`` says why):

- that of a site's own hosts, which holds the subnets at the site, and all of a network whose gateway is there. Subnets on two
  bridges that were there are the exception: the hosts only carry their frames;
- that of a gateway's machine, known by its endpoint and by its key;
- that of a VM on several networks.

Each question here is asked in the transaction that writes what it is about, with the sites locked that it is about.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from broker.errors import Overlap
from broker.states import SubnetMode
from broker.store import GatewayRow, NetworkRow, SiteRow, SubnetRow
from vpn.address import overlapping

_OTHER_PREFIX = "choose a prefix that the other network does not touch"


def check_subnet(session: Session, row: SubnetRow) -> None:
    """Refuse a new subnet that would share a table with an equal prefix of another network. Raises Overlap."""
    if row.mode == SubnetMode.TUNNEL:
        return  # in a cloud each VM has its own table, and its network's gateway holds all of the network already
    _lock(session, row.site_id)
    at = row.site.name
    # If the gateway of its own network is here, all of that was found free when the gateway was made, and kept free since.
    for gate in _gateways_at(session, row.site_id, row.network_id):
        if overlapping(row.cidr, [gate.network.cidr]):
            raise Overlap(
                f"{row.cidr} overlaps network {gate.network.name} ({gate.network.cidr}), all of which gateway {gate.name} "
                f"routes at site {at}",
                hint=f"{_OTHER_PREFIX}, or another site",
            )
    for other in _subnets_at(session, row.site_id, row.network_id):
        if not overlapping(row.cidr, [other.cidr]):
            continue
        that = f"{row.cidr} overlaps {other.cidr} of network {other.network.name}"
        if row.mode != SubnetMode.BRIDGE or other.mode != SubnetMode.BRIDGE:
            raise Overlap(
                f"{that}: the hosts of site {at} have one routing table for both",
                hint=f"{_OTHER_PREFIX}, or have each on a bridge of its own: --mode bridge",
            )
        if row.bridge == other.bridge:
            raise Overlap(
                f"{that}: at site {at} both are on the bridge {row.bridge}, one segment",
                hint=f"{_OTHER_PREFIX}, or another bridge",
            )


def check_gateway(session: Session, net: NetworkRow, at: SiteRow, endpoint: str) -> None:
    """Refuse a network's new gateway where other networks have addresses of the network. Raises Overlap.

    It forwards to all of the network, so its site must have no other such address, on whatever bridge.
    """
    # All sites: two gateways of one endpoint may be made at two of them at once.
    _lock(session)
    others = [
        (other.network, other.cidr, f"a subnet at site {at.name}, where the gateway would be")
        for other in _subnets_at(session, at.id, net.id)
    ]
    others += [
        (
            gate.network,
            gate.network.cidr,
            f"the network of gateway {gate.name}, which is at site {at.name}, too",
        )
        for gate in _gateways_at(session, at.id, net.id)
    ]
    others += [
        (
            gate.network,
            gate.network.cidr,
            f"the network of gateway {gate.name}, which is the same machine: {gate.endpoint}",
        )
        for gate in _gateways_at(session, None, net.id)
        if _machine(gate.endpoint) == _machine(endpoint)
    ]
    for other, cidr, what in others:
        if overlapping(net.cidr, [cidr]):
            raise Overlap(
                f"network {net.name} ({net.cidr}) overlaps {cidr} of network {other.name}, {what}: "
                "they would share a routing table",
                hint="have the gateway at another site, or use a network with a prefix of its own",
            )


def check_key(session: Session, row: GatewayRow, public_key: str) -> None:
    """Refuse an agent that is that of another gateway, too, whose network has the same addresses. Raises Overlap."""
    for other in session.scalars(
        select(GatewayRow).where(GatewayRow.public_key == public_key, GatewayRow.id != row.id)
    ):
        if overlapping(row.network.cidr, [other.network.cidr]):
            raise Overlap(
                f"gateway {row.name} has the key of gateway {other.name}, so they are one machine, and their networks "
                f"{row.network.name} and {other.network.name} overlap",
                hint="run the agent on a machine of its own, with a --state of its own",
            )


def check_vm(nets: Sequence[NetworkRow]) -> None:
    """Refuse a VM on two networks with the same addresses: its routing table has each once. Raises Overlap."""
    for one, other in itertools.combinations(nets, 2):
        if overlapping(one.cidr, [other.cidr]):
            raise Overlap(
                f"networks {one.name} ({one.cidr}) and {other.name} ({other.cidr}) overlap, and a VM on both has one "
                "routing table",
                hint="leave one of the networks out",
            )


def _subnets_at(session: Session, site_id: str, but: str) -> Sequence[SubnetRow]:
    """The subnets of other networks at a site, by prefix."""
    at = select(SubnetRow).where(SubnetRow.site_id == site_id, SubnetRow.network_id != but)
    return session.scalars(at.order_by(SubnetRow.cidr, SubnetRow.id)).all()


def _gateways_at(session: Session, site_id: str | None, but: str) -> Sequence[GatewayRow]:
    """The gateways of other networks at a site, or anywhere, by name."""
    at = select(GatewayRow).where(GatewayRow.network_id != but).order_by(GatewayRow.name)
    return session.scalars(at if site_id is None else at.where(GatewayRow.site_id == site_id)).all()


def _lock(session: Session, site_id: str | None = None) -> None:
    """Hold a site, or all of them in one order, until the transaction ends, so that of two callers the second sees what the first
    wrote. Rows that refer to a site can still be written."""
    sites = select(SiteRow.id).order_by(SiteRow.id).with_for_update(key_share=True)
    session.execute(sites if site_id is None else sites.where(SiteRow.id == site_id)).all()


def _machine(endpoint: str) -> str:
    return endpoint.rpartition(":")[0].lower()
