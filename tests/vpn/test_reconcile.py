"""From what is to what should be: only differences, and none the second time."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpn.document import GatewayDocument, PeerEntry
from vpn.link import LiveLink
from vpn.plan import GatewaySpec, plan
from vpn.reconcile import Changes, difference
from vpn.wireguard import LiveInterface, LivePeer, WireGuard, parse_dump

OWN = base64.b64encode(b"o" * 32).decode()


def _peer(number: int, last: int, keepalive: int = 0) -> PeerEntry:
    key = base64.b64encode(number.to_bytes(32, "big")).decode()
    return PeerEntry(f"p{number}", "vm", key, (f"10.10.2.{last}/32",), keepalive)


_peer_lists = st.lists(
    st.builds(_peer, st.integers(1, 9), st.integers(2, 9), st.sampled_from([0, 25])),
    unique_by=(lambda peer: peer.public_key, lambda peer: peer.allowed_ips),
    max_size=6,
)
_prefixes = st.sampled_from(["10.10.2.0/24", "10.10.3.0/24", "169.254.64.0/18"])
_links = st.builds(
    LiveLink,
    mtu=st.sampled_from([1420, 1500]),
    up=st.booleans(),
    addresses=st.frozensets(st.sampled_from(["169.254.64.1/32", "10.9.9.9/32"])),
    routes=st.frozensets(_prefixes),
)


def _live(peers: list[PeerEntry], public_key: str = OWN, port: int = 51820) -> LiveInterface:
    return LiveInterface(
        public_key,
        port,
        {
            peer.public_key: LivePeer(
                peer.public_key, "192.0.2.1:9", frozenset(peer.allowed_ips), 5, 1, 1, peer.keepalive
            )
            for peer in peers
        },
    )


def _carry_out(
    changes: Changes, document: GatewayDocument, wireguard: LiveInterface, link: LiveLink
) -> tuple[LiveInterface, LiveLink]:
    """What a machine is after the changes, by the rules of WireGuard and rtnetlink."""
    peers = dict(wireguard.peers)
    for entry in changes.set_peers:
        for key, other in list(peers.items()):
            # An address has one owner on an interface; the newest takes it.
            peers[key] = replace(other, allowed_ips=other.allowed_ips - frozenset(entry.allowed_ips))
        old = peers.get(entry.public_key)
        peers[entry.public_key] = LivePeer(
            entry.public_key,
            old.endpoint if old else "",
            frozenset(entry.allowed_ips),
            0,
            0,
            0,
            entry.keepalive,
        )
    for key in changes.remove_peers:
        del peers[key]
    key, port = (
        (OWN, document.listen_port)
        if changes.set_interface
        else (wireguard.public_key, wireguard.listen_port)
    )
    return LiveInterface(key, port, peers), LiveLink(
        mtu=document.mtu if changes.set_up else link.mtu,
        up=link.up or changes.set_up,
        addresses=(link.addresses | set(changes.add_addresses)) - set(changes.drop_addresses),
        routes=(link.routes | set(changes.add_routes)) - set(changes.drop_routes),
    )


DOCUMENT = plan(GatewaySpec("gw", 1, ("10.10.2.0/24",)), [])


@settings(deadline=None)
@given(_peer_lists, _peer_lists, _links, st.sampled_from([OWN, ""]), st.sampled_from([51820, 4]))
def test_one_pass_makes_the_machine_as_wanted_and_a_second_has_nothing_to_do(
    wanted: list[PeerEntry], there: list[PeerEntry], link: LiveLink, key: str, port: int
) -> None:
    wireguard = _live(there, key, port)
    changes = difference(DOCUMENT, wanted, OWN, wireguard, link)
    wireguard, link = _carry_out(changes, DOCUMENT, wireguard, link)
    assert set(wireguard.peers) == {peer.public_key for peer in wanted}
    assert link == LiveLink(1420, True, frozenset(DOCUMENT.addresses), frozenset(DOCUMENT.routes))
    assert not difference(DOCUMENT, wanted, OWN, wireguard, link)


@settings(deadline=None)
@given(_peer_lists)
def test_peers_that_are_right_are_never_touched(peers: list[PeerEntry]) -> None:
    link = LiveLink(1420, True, frozenset(DOCUMENT.addresses), frozenset(DOCUMENT.routes))
    more = [*peers, _peer(77, 77)]
    changes = difference(DOCUMENT, more, OWN, _live(peers), link)
    assert changes == Changes(set_peers=(_peer(77, 77),))


def test_a_roaming_endpoint_is_no_difference() -> None:
    peers = [_peer(1, 2)]
    live = _live(peers)
    roamed = {key: replace(peer, endpoint="198.51.100.9:40000") for key, peer in live.peers.items()}
    link = LiveLink(1420, True, frozenset(DOCUMENT.addresses), frozenset(DOCUMENT.routes))
    assert not difference(DOCUMENT, peers, OWN, replace(live, peers=roamed), link)


def _gateway(endpoint: str = "198.51.100.2:51820") -> PeerEntry:
    return replace(_peer(9, 9), kind="gateway", endpoint=endpoint)


def _seen(peer: PeerEntry, endpoint: str, handshake_at: int) -> LiveInterface:
    live = _live([peer])
    seen = replace(live.peers[peer.public_key], endpoint=endpoint, handshake_at=handshake_at)
    return replace(live, peers={peer.public_key: seen})


@pytest.mark.parametrize(
    ("endpoint", "handshake_at", "set_again"),
    [
        ("", 0, True),
        ("203.0.113.9:51820", 0, True),
        ("198.51.100.2:51820", 0, False),
        ("203.0.113.9:40000", 1700000000, False),  # it has moved, and was heard there
    ],
)
def test_a_gateways_endpoint_counts_until_the_gateway_was_heard(
    endpoint: str, handshake_at: int, set_again: bool
) -> None:
    link = LiveLink(1420, True, frozenset(DOCUMENT.addresses), frozenset(DOCUMENT.routes))
    changes = difference(DOCUMENT, [_gateway()], OWN, _seen(_gateway(), endpoint, handshake_at), link)
    assert changes.set_peers == ((_gateway(),) if set_again else ())


def test_a_gateway_that_moved_keeps_its_place_when_its_prefixes_change() -> None:
    link = LiveLink(1420, True, frozenset(DOCUMENT.addresses), frozenset(DOCUMENT.routes))
    wanted = replace(_gateway(), allowed_ips=("10.30.0.0/16",))
    changes = difference(DOCUMENT, [wanted], OWN, _seen(_gateway(), "203.0.113.9:4", 1700000000), link)
    assert changes.set_peers == (replace(wanted, endpoint=""),)


def test_a_gateway_is_set_with_its_endpoint_and_a_vm_without() -> None:
    asked: list[list[str]] = []

    def run(argv: Sequence[str], _: str) -> str:
        asked.append(list(argv))
        return ""

    WireGuard(run).set_peers("wg0", [_peer(1, 1), _gateway()])
    (argv,) = asked
    assert argv.count("endpoint") == 1
    assert argv[argv.index(_gateway().public_key) :][1:5] == [
        "persistent-keepalive",
        "0",
        "endpoint",
        "198.51.100.2:51820",
    ]


def test_the_dump_of_wg_is_read() -> None:
    key = _peer(1, 2).public_key
    text = (
        f"private\t{OWN}\t51820\toff\n"
        f"{key}\t(none)\t203.0.113.50:4711\t10.10.2.2/32,fd00::2/128\t1700000000\t10\t20\t25\n"
        f"{OWN}\t(none)\t(none)\t(none)\t0\t0\t0\toff\n"
    )
    live = parse_dump(text)
    assert (live.public_key, live.listen_port) == (OWN, 51820)
    assert live.peers[key] == LivePeer(
        key, "203.0.113.50:4711", frozenset({"10.10.2.2/32", "fd00::2/128"}), 1700000000, 10, 20, 25
    )
    assert live.peers[OWN] == LivePeer(OWN, "", frozenset(), 0, 0, 0, 0)
    assert "private" not in repr(live)
