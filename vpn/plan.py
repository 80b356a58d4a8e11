"""From rows to the desired document of one gateway. Pure: equal rows give equal documents.

The shape of a burst tunnel: one hub interface on the gateway with a link address of its own, and a /32
for each peer. A VM that was launched and has not enrolled yet is a *bootstrap* peer with an address of
the enrolment pool; it can reach the enrolment port on the link address and nothing else. A VM that has
enrolled is a *vm* peer with its leased private address. Gateways of other sites are not planned yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vpn.address import AddressError, contains, network_of, overlapping
from vpn.document import VERSION, Enrolment, GatewayDocument, PeerEntry
from vpn.keys import is_key

ENROLMENT_POOL = "169.254.64.0/18"
"""Link-local (RFC 3927), so it clashes with no site; clear of 169.254.169.254, the metadata address."""
LINK_ADDRESS = "169.254.64.1"
ENROLMENT_PORT = 8775
DEFAULT_INTERFACE = "wg-isthmus"
DEFAULT_PORT = 51820
DEFAULT_MTU = 1420
"""1500 less WireGuard's 80 bytes over IPv6; over IPv4 it takes 60."""


class PlanError(ValueError):
    """Rows that make no gateway, in words."""


@dataclass(frozen=True)
class GatewaySpec:
    """A gateway's row. ``tunnels`` are the CIDRs of the subnets whose VMs are reached through it.

    ``version`` is how its agent's document is written.
    """

    id: str
    generation: int
    tunnels: tuple[str, ...]
    interface: str = DEFAULT_INTERFACE
    listen_port: int = DEFAULT_PORT
    mtu: int = DEFAULT_MTU
    version: int = VERSION


@dataclass(frozen=True)
class PeerSpec:
    """A peer's row. ``address`` is of the enrolment pool for ``bootstrap``, the leased one for ``vm``.

    ``expires_at`` in seconds since the epoch; a bootstrap peer must have one.
    """

    id: str
    kind: Literal["vm", "bootstrap"]
    public_key: str
    address: str
    expires_at: float = 0.0
    keepalive: int = 0


def plan(gateway: GatewaySpec, peers: Sequence[PeerSpec]) -> GatewayDocument:
    """The gateway's document. The order of ``peers`` does not matter.

    Raises PlanError when a peer's address is not where its kind belongs, when two peers share a key or an
    address, when a bootstrap peer would never expire, or when a tunnel touches the enrolment pool.
    """
    for tunnel in gateway.tunnels:
        others = [other for other in gateway.tunnels if other != tunnel]
        clash = overlapping(tunnel, [ENROLMENT_POOL, *others])
        if clash:
            raise PlanError(f"tunnel subnet {tunnel} overlaps {', '.join(clash)}")
    entries = tuple(_entry(gateway, peer) for peer in sorted(peers, key=lambda peer: peer.id))
    _distinct("id", [entry.id for entry in entries])
    _distinct("public key", [entry.public_key for entry in entries])
    _distinct("address", [address for entry in entries for address in entry.allowed_ips])
    routes = sorted({*gateway.tunnels, ENROLMENT_POOL}, key=_order)
    return GatewayDocument(
        gateway_id=gateway.id,
        generation=gateway.generation,
        interface=gateway.interface,
        listen_port=gateway.listen_port,
        mtu=gateway.mtu,
        addresses=(f"{LINK_ADDRESS}/32",),
        routes=tuple(routes),
        enrolment=Enrolment(address=LINK_ADDRESS, port=ENROLMENT_PORT, pool=ENROLMENT_POOL),
        peers=entries,
        version=gateway.version,
    )


def _entry(gateway: GatewaySpec, peer: PeerSpec) -> PeerEntry:
    if not is_key(peer.public_key):
        raise PlanError(f"peer {peer.id}: not a WireGuard public key")
    bootstrap = peer.kind == "bootstrap"
    homes = (ENROLMENT_POOL,) if bootstrap else gateway.tunnels
    try:
        at_home = any(contains(home, peer.address) for home in homes)
    except AddressError as error:
        raise PlanError(f"peer {peer.id}: {error}") from error
    if not at_home:
        raise PlanError(f"peer {peer.id}: {peer.address} is not in {', '.join(homes) or 'any tunnel subnet'}")
    if peer.address == LINK_ADDRESS:
        raise PlanError(f"peer {peer.id}: {peer.address} is the gateway's own link address")
    if bootstrap and peer.expires_at <= 0:
        raise PlanError(f"peer {peer.id}: a bootstrap peer must expire")
    return PeerEntry(
        id=peer.id,
        kind=peer.kind,
        public_key=peer.public_key,
        allowed_ips=(str(network_of(peer.address)),),
        keepalive=peer.keepalive,
        expires_at=peer.expires_at if bootstrap else 0.0,
    )


def _distinct(what: str, values: Sequence[str]) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise PlanError(f"two peers have the {what} {value}")
        seen.add(value)


def _order(cidr: str) -> tuple[int, int, int]:
    net = network_of(cidr)
    return net.version, int(net.network_address), net.prefixlen
