"""The desired document of a gateway."""

from __future__ import annotations

import base64
import random
from ipaddress import ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpn.document import GatewayDocument
from vpn.plan import ENROLMENT_POOL, LINK_ADDRESS, GatewaySpec, PeerSpec, PlanError, plan

GATEWAY = GatewaySpec(id="gw-1", generation=7, tunnels=("10.10.2.0/24", "10.10.4.0/24"))


def _key(number: int) -> str:
    return base64.b64encode(number.to_bytes(32, "big")).decode()


def _node(number: int, address: str | None = None) -> PeerSpec:
    return PeerSpec(
        id=f"n{number}", kind="vm", public_key=_key(number), address=address or f"10.10.2.{number}"
    )


def _bootstrap(number: int, address: str | None = None, expires_at: float = 900.0) -> PeerSpec:
    return PeerSpec(
        id=f"b{number}",
        kind="bootstrap",
        public_key=_key(1000 + number),
        address=address or f"169.254.64.{number}",
        expires_at=expires_at,
    )


_peers = st.lists(
    st.one_of(st.integers(2, 254).map(_node), st.integers(2, 254).map(_bootstrap)),
    unique_by=lambda peer: peer.id,
    max_size=20,
)


@settings(deadline=None)
@given(_peers, st.randoms())
def test_the_order_of_rows_does_not_change_the_document(peers: list[PeerSpec], rng: random.Random) -> None:
    shuffled = list(peers)
    rng.shuffle(shuffled)
    assert plan(GATEWAY, peers).to_json() == plan(GATEWAY, shuffled).to_json()


@settings(deadline=None)
@given(_peers)
def test_each_peer_owns_one_address_of_its_own_kind(peers: list[PeerSpec]) -> None:
    document = plan(GATEWAY, peers)
    assert len(document.peers) == len(peers)
    pool = ip_network(ENROLMENT_POOL)
    for entry in document.peers:
        (cidr,) = entry.allowed_ips
        net = ip_network(cidr)
        assert net.prefixlen == 32
        assert net.subnet_of(pool) == (entry.kind == "bootstrap")  # type: ignore[arg-type]
        assert any(net.subnet_of(ip_network(route)) for route in document.routes)  # type: ignore[arg-type]


@settings(deadline=None)
@given(_peers)
def test_a_document_survives_its_json_and_has_no_problems(peers: list[PeerSpec]) -> None:
    document = plan(GATEWAY, peers)
    assert GatewayDocument.from_json(document.to_json()) == document
    assert document.problems() == []


def test_tunnel_subnets_and_the_enrolment_pool_are_routed_to_the_interface() -> None:
    document = plan(GATEWAY, [])
    assert document.routes == ("10.10.2.0/24", "10.10.4.0/24", ENROLMENT_POOL)
    assert document.addresses == (f"{LINK_ADDRESS}/32",)
    assert (document.enrolment.address, document.enrolment.port) == (LINK_ADDRESS, 8775)


def test_a_node_peer_does_not_expire() -> None:
    node = PeerSpec(id="n", kind="vm", public_key=_key(1), address="10.10.2.9", expires_at=5.0)
    assert plan(GATEWAY, [node]).peers[0].expires_at == 0.0


@pytest.mark.parametrize(
    ("peers", "words"),
    [
        ([_node(5, "10.10.3.5")], r"10\.10\.3\.5 is not in 10\.10\.2\.0/24"),
        ([_node(5, "169.254.64.5")], "is not in"),
        ([_bootstrap(5, "10.10.2.5")], "is not in 169.254.64.0/18"),
        ([_bootstrap(5, LINK_ADDRESS)], "own link address"),
        ([_bootstrap(5, expires_at=0.0)], "must expire"),
        ([_node(5, "0.0.0.0/0")], "is not in"),
        ([_node(5, "ten")], "not a CIDR"),
        ([PeerSpec("x", "vm", "key", "10.10.2.5")], "not a WireGuard public key"),
        ([_node(5), PeerSpec("x", "vm", _key(5), "10.10.2.6")], "the public key"),
        ([_node(5), PeerSpec("x", "vm", _key(6), "10.10.2.5")], r"the address 10\.10\.2\.5/32"),
        ([_node(5), _node(5, "10.10.2.8")], "the id n5"),
    ],
)
def test_rows_that_contradict_each_other_make_no_document(peers: list[PeerSpec], words: str) -> None:
    with pytest.raises(PlanError, match=words):
        plan(GATEWAY, peers)


@pytest.mark.parametrize("tunnel", ["169.254.0.0/16", "10.10.2.128/25", "0.0.0.0/0"])
def test_a_tunnel_that_touches_the_pool_or_another_tunnel_is_refused(tunnel: str) -> None:
    with pytest.raises(PlanError, match="overlaps"):
        plan(GatewaySpec(id="g", generation=1, tunnels=("10.10.2.0/24", tunnel)), [])
