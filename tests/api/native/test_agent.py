"""The routes of gateways' agents."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest

KEY = base64.b64encode(bytes(range(32))).decode()
OTHER = base64.b64encode(bytes(range(1, 33))).decode()


@pytest.fixture
def gateway(furnished: Any) -> dict[str, str]:
    """The headers of a gateway's agent."""
    client = furnished.client()
    client.sites.create(
        "cloud",
        "simulated",
        options={
            "elastic": True,
            "zones": ["a"],
            "types": {"t": {"vcpus": 1, "mem_mb": 512, "price_hour": 0.1}},
        },
    )
    client.networks.add_subnet("lan", "cloud", "10.0.2.0/24", mode="tunnel")
    made = client.gateways.create("gw", site="campus", network="lan", endpoint="203.0.113.2:51820")
    assert made.gateway.state == "new"
    return {"Authorization": f"Bearer {made.token}"}


def agent(world: Any, headers: dict[str, str], method: str, path: str, body: Any = None) -> Any:
    return world.ask(method, f"/v1/agent/{path}", body, role=None, headers=headers)


def test_an_agent_registers_takes_its_document_and_reports(furnished: Any, gateway: dict[str, str]) -> None:
    assert agent(furnished, gateway, "POST", "register", {"public_key": KEY}).status_code == 204
    answer = agent(furnished, gateway, "GET", "document")
    assert answer.status_code == 200
    document = json.loads(answer.text)
    assert document["listen_port"] == 51820
    assert document["peers"] == []
    generation = document["generation"]
    assert agent(furnished, gateway, "GET", f"document?after={generation}").status_code == 204
    report = {"applied_generation": generation, "peers": [{"public_key": OTHER, "rx_bytes": 5}]}
    assert agent(furnished, gateway, "POST", "status", report).status_code == 204
    shown = furnished.client().gateways.get("gw")
    assert (shown.state, shown.public_key, shown.applied_generation) == ("up", KEY, generation)


def test_an_agent_is_given_a_version_that_it_reads_and_shown_with_what_it_can(
    furnished: Any, gateway: dict[str, str]
) -> None:
    # One of 0.1.0 says nothing of versions.
    agent(furnished, gateway, "POST", "register", {"public_key": KEY})
    assert "version" not in agent(furnished, gateway, "GET", "document").json()
    can = {"document_versions": [1, 2], "features": ["gateway-peers"], "software": "0.2.0"}
    agent(furnished, gateway, "POST", "register", {"public_key": KEY, **can})
    assert agent(furnished, gateway, "GET", "document").json()["version"] == 2
    shown = furnished.client().gateways.get("gw")
    assert {name: getattr(shown, name) for name in can} == can
    assert [each.software for each in furnished.client().gateways.list()] == ["0.2.0"]


def test_an_agent_that_reads_no_version_is_refused_in_words(furnished: Any, gateway: dict[str, str]) -> None:
    agent(furnished, gateway, "POST", "register", {"public_key": KEY, "document_versions": [99]})
    answer = agent(furnished, gateway, "GET", "document")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
    shown = furnished.client().gateways.get("gw")
    assert (shown.state, shown.status_reason) == ("incompatible", answer.json()["error"]["message"])


@pytest.mark.parametrize("versions", [[], [0], ["x"], [1] * 33])
def test_versions_that_are_none_are_refused(
    furnished: Any, gateway: dict[str, str], versions: list[object]
) -> None:
    body = {"public_key": KEY, "document_versions": versions}
    assert agent(furnished, gateway, "POST", "register", body).status_code == 400


def test_what_an_agent_could_not_apply_is_shown(furnished: Any, gateway: dict[str, str]) -> None:
    agent(furnished, gateway, "POST", "register", {"public_key": KEY})
    report = {"applied_generation": 1, "problems": ["2 of the kind 'relay' among its peers"]}
    assert agent(furnished, gateway, "POST", "status", report).status_code == 204
    assert furnished.client().gateways.get("gw").status_reason == "2 of the kind 'relay' among its peers"


def test_a_newer_document_ends_the_wait_at_once(
    furnished: Any, gateway: dict[str, str], only_signals: None, later: Any
) -> None:
    agent(furnished, gateway, "POST", "register", {"public_key": KEY})
    generation = agent(furnished, gateway, "GET", "document").json()["generation"]
    begun = time.monotonic()
    later(agent, furnished, gateway, "POST", "register", {"public_key": OTHER})
    answer = agent(furnished, gateway, "GET", f"document?after={generation}&wait=20")
    assert answer.status_code == 200
    assert answer.json()["generation"] > generation
    assert time.monotonic() - begun < 10


def test_an_enrolment_nobody_was_launched_for_is_refused(furnished: Any, gateway: dict[str, str]) -> None:
    answer = agent(furnished, gateway, "POST", "enrol", {"address": "169.254.64.9", "public_key": KEY})
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "enrolment_refused"


@pytest.mark.parametrize("key", ["", "short", KEY[:-1] + "x", KEY + "=", "A" * 44])
def test_a_key_that_is_none_is_refused(furnished: Any, gateway: dict[str, str], key: str) -> None:
    answer = agent(furnished, gateway, "POST", "register", {"public_key": key})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


def test_an_agents_token_opens_nothing_else(furnished: Any, gateway: dict[str, str]) -> None:
    for path in (
        "status",
        "vms",
        "sites",
        "hosts",
        "networks",
        "gateways",
        "peers",
        "tokens",
        "events",
        "policy",
    ):
        answer = furnished.ask("GET", f"/v1/{path}", role=None, headers=gateway)
        assert answer.status_code == 403, path
    assert furnished.ask("GET", "/metrics", role=None, headers=gateway).status_code == 403


def test_a_removed_gateways_token_is_dead(furnished: Any, gateway: dict[str, str]) -> None:
    furnished.client().gateways.delete("gw")
    assert agent(furnished, gateway, "GET", "document").status_code == 401
