"""What an agent takes for a document, and what it refuses to apply."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from vpn import keys
from vpn.document import READS, VERSION, GatewayDocument, PeerEntry, endpoint_of
from vpn.plan import GatewaySpec, PeerSpec, plan


def document(**enrolment: Any) -> str:
    """A document with changes in its enrolment, as text."""
    raw = json.loads(plan(GatewaySpec("gw", 3, ("10.10.2.0/24",)), []).to_json())
    return json.dumps({**raw, "enrolment": {**raw["enrolment"], **enrolment}})


@pytest.mark.parametrize(
    "enrolment",
    [
        {"pool": "fe80::/64", "address": "fe80::1%lo accept; drop"},
        {"pool": "fe80::%x accept; drop/64", "address": "fe80::1"},
        {"address": "169.254.64.1\n"},
        {"address": "10.0.0.1"},
        {"port": 0},
    ],
    ids=str,
)
def test_an_enrolment_that_may_not_stand_in_the_filters_rules_is_a_problem(enrolment: dict[str, Any]) -> None:
    assert GatewayDocument.from_json(document()).problems() == []
    assert GatewayDocument.from_json(document(**enrolment)).problems()


@pytest.mark.parametrize(
    "text",
    ["[]", "{}", "{", document(port="x"), document(port=None), document(pool=7)],
)
def test_what_is_no_document_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        GatewayDocument.from_json(text)


def test_a_peer_that_expires_at_no_time_is_no_peer() -> None:
    raw = json.loads(document())
    peer = {"id": "p", "kind": "bootstrap", "public_key": "A" * 43 + "=", "allowed_ips": ["169.254.64.9/32"]}
    raw["peers"] = [{**peer, "expires_at": "soon"}]
    with pytest.raises(ValueError, match="soon"):
        GatewayDocument.from_json(json.dumps(raw))


# What 0.1.0 wrote, to the letter.
OF_0_1_0 = (
    '{"addresses":["169.254.64.1/32"],"enrolment":{"address":"169.254.64.1","pool":"169.254.64.0/18","port":8775},'
    '"gateway_id":"gw-1","generation":7,"interface":"wg-isthmus","listen_port":51820,"mtu":1420,"peers":['
    '{"allowed_ips":["169.254.64.9/32"],"expires_at":1900000000.0,"id":"peer-1","keepalive":0,"kind":"bootstrap",'
    '"public_key":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="},'
    '{"allowed_ips":["10.10.2.5/32"],"expires_at":0.0,"id":"peer-2","keepalive":0,"kind":"node",'
    '"public_key":"AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA="}],'
    '"routes":["10.10.2.0/24","169.254.64.0/18"]}'
)
_, REMOTE = keys.generate(lambda count: b"\x11" * count)
GATEWAY = PeerEntry("gw-2", "gateway", REMOTE, ("10.30.0.0/16",), 25, endpoint="198.51.100.2:51820")


def with_gateway(**changes: Any) -> GatewayDocument:
    """A document whose gateway knows that of another site."""
    alone = plan(GatewaySpec("gw", 3, ("10.10.2.0/24",)), [])
    return replace(alone, routes=(*alone.routes, "10.30.0.0/16"), peers=(replace(GATEWAY, **changes),))


def test_a_document_of_0_1_0_is_read_and_written_as_it_was() -> None:
    read = GatewayDocument.from_json(OF_0_1_0)
    assert (read.version, [peer.kind for peer in read.peers], read.left_out) == (1, ["bootstrap", "vm"], ())
    assert read.problems() == []
    assert read.to_json() == OF_0_1_0


def test_every_version_that_is_read_can_be_written() -> None:
    peers = [PeerSpec("p", "vm", REMOTE, "10.10.2.5")]
    assert max(READS) == VERSION
    for version in READS:
        made = plan(GatewaySpec("gw", 3, ("10.10.2.0/24",), version=version), peers)
        assert GatewayDocument.from_json(made.to_json()) == made


def test_a_gateway_among_the_peers_keeps_its_endpoint_prefixes_and_keepalive() -> None:
    made = with_gateway()
    assert made.problems() == []
    read = GatewayDocument.from_json(made.to_json())
    assert read == made
    assert read.peers == (GATEWAY,)


def test_version_1_has_no_words_for_a_gateway_among_the_peers() -> None:
    with pytest.raises(ValueError, match="gw-2: version 1 of the document has no gateways"):
        replace(with_gateway(), version=1).to_json()


def test_of_a_newer_document_what_is_known_is_taken_and_the_rest_is_told() -> None:
    raw = json.loads(with_gateway().to_json())
    (gateway,) = raw["peers"]
    raw.update(version=9, dns=["10.10.1.1"])
    raw["enrolment"]["tls"] = True
    raw["peers"] = [
        {**gateway, "psk": "x"},
        {"id": "r1", "kind": "relay", "whatever": 1},
        {"id": "r2", "kind": "relay"},
        {"id": "n", "kind": "node"},
    ]
    read = GatewayDocument.from_json(json.dumps(raw))
    assert read.problems() == []
    assert read.peers == (GATEWAY,)
    assert read.left_out == (
        "the document is of version 9, and 2 is the newest known here",
        "its field 'dns'",
        "its enrolment's field 'tls'",
        "1 of the kind 'node' among its peers",
        "2 of the kind 'relay' among its peers",
        "the field 'psk' of 1 of its peers",
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"endpoint": "gw.example.org:51820"}, "is not ADDRESS:PORT"),
        ({"endpoint": "198.51.100.2:0"}, "is not ADDRESS:PORT"),
        ({"endpoint": "198.51.100.2:51820 x"}, "is not ADDRESS:PORT"),
        ({"keepalive": 65536}, "keepalive 65536"),
        ({"allowed_ips": ("10.99.0.0/16",)}, "is not behind this gateway"),
        ({"allowed_ips": ("169.254.64.0/19",)}, "touches the enrolment pool"),
        ({"allowed_ips": ("0.0.0.0/0",)}, "is not behind this gateway"),
        ({"kind": "vm"}, "only a gateway is dialled"),
    ],
    ids=str,
)
def test_a_gateway_that_may_not_be_a_peer_is_a_problem(changes: dict[str, Any], words: str) -> None:
    assert any(words in problem for problem in with_gateway(**changes).problems())


def test_a_gateway_that_dials_itself_needs_no_endpoint() -> None:
    assert with_gateway(endpoint="").problems() == []


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("198.51.100.2:1", "198.51.100.2:1"),
        ("[2001:db8::1]:51820", "[2001:DB8:0::1]:51820"),
        ("2001:db8::1:51820", None),
        ("[198.51.100.2]:1", None),
        ("198.51.100.999:1", None),
        ("", None),
    ],
)
def test_endpoints_are_compared_as_addresses(text: str, same: str | None) -> None:
    assert endpoint_of(text) == (endpoint_of(same) if same else None)
    assert (endpoint_of(text) is None) == (same is None)
