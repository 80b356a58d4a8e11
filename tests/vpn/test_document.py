"""What an agent takes for a document, and what it refuses to apply."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vpn.document import GatewayDocument
from vpn.plan import GatewaySpec, plan


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
    ["[]", "{}", "{", document(port="x"), document(port=None), document(more=1), document(pool=7)],
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
