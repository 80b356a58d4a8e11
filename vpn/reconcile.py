"""What must change so that an interface is as it should be. Pure; no difference means no command.

Only differences are ever applied: ``wg syncconf`` of an unchanged file drops packets, since it takes every
peer's addresses away and gives them back. A VM's endpoint is not compared: it is where it was heard last, and
roams. A gateway's counts until the gateway was heard; from then on where it was heard does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from vpn.document import GatewayDocument, PeerEntry, endpoint_of
from vpn.link import LiveLink
from vpn.wireguard import LiveInterface, LivePeer


@dataclass(frozen=True)
class Changes:
    """What to do, in this order. Falsy when there is nothing to do.

    Peers are set before others are removed: an address that moves is taken over in one step. One that is set
    without an endpoint keeps what it has.
    """

    set_interface: bool = False
    set_up: bool = False
    add_addresses: tuple[str, ...] = ()
    drop_addresses: tuple[str, ...] = ()
    set_peers: tuple[PeerEntry, ...] = ()
    remove_peers: tuple[str, ...] = ()
    add_routes: tuple[str, ...] = ()
    drop_routes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return any(getattr(self, each.name) for each in fields(self))


def difference(
    document: GatewayDocument,
    peers: Sequence[PeerEntry],
    public_key: str,
    wireguard: LiveInterface,
    link: LiveLink,
) -> Changes:
    """From what is (``wireguard``, ``link``) to the document with these peers, under the gateway's own key."""
    wanted = {peer.public_key: _dialled(peer, wireguard.peers.get(peer.public_key)) for peer in peers}
    addresses, routes = frozenset(document.addresses), frozenset(document.routes)
    return Changes(
        set_interface=(wireguard.public_key, wireguard.listen_port) != (public_key, document.listen_port),
        set_up=not link.up or link.mtu != document.mtu,
        add_addresses=tuple(sorted(addresses - link.addresses)),
        drop_addresses=tuple(sorted(link.addresses - addresses)),
        set_peers=tuple(peer for key, peer in wanted.items() if not _same(peer, wireguard.peers.get(key))),
        remove_peers=tuple(sorted(wireguard.peers.keys() - wanted.keys())),
        # An interface that is down has lost its routes, whatever was read before it was set up.
        add_routes=tuple(sorted(routes - link.routes if link.up else routes)),
        drop_routes=tuple(sorted(link.routes - routes)),
    )


def _same(peer: PeerEntry, live: LivePeer | None) -> bool:
    return (
        live is not None
        and live.allowed_ips == frozenset(peer.allowed_ips)
        and live.keepalive == peer.keepalive
        and not peer.endpoint
    )


def _dialled(peer: PeerEntry, live: LivePeer | None) -> PeerEntry:
    """The peer with its endpoint only where that must be set."""
    if not peer.endpoint or live is None:
        return peer
    # One that was heard is where it was heard: setting its endpoint anew would cut off one that has moved.
    stays = live.handshake_at > 0 or endpoint_of(live.endpoint) == endpoint_of(peer.endpoint)
    return replace(peer, endpoint="") if stays else peer
