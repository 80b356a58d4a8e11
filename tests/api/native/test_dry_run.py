"""``?dry_run=true`` answers with what would be, as a refusal where that would be one, and nothing of it stays."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text

from api.native import create_app
from broker.forecast import Place, forecast
from broker.store import Row

PATHS = create_app(None).openapi()["paths"]  # type: ignore[arg-type]  # the document needs no broker
VM = {"name": "new", "image": "tiny", "flavor": "small", "rank": 'name == "sim-02" ? 2.5 : 1'}
DRAIN = {"goal": "drain", "host": "sim-01", "apply": True}


def routes() -> list[tuple[str, str, dict[str, Any]]]:
    return [(method, path, route) for path, methods in PATHS.items() for method, route in methods.items()]


def has_dry_run(route: dict[str, Any]) -> bool:
    return "dry_run" in {parameter["name"] for parameter in route.get("parameters", ())}


def contents(world: Any) -> dict[str, list[str]]:
    """Every row of every table but of the one that says which broker is on duty."""
    with world.broker.store.engine.connect() as connection:
        return {
            table.name: sorted(map(repr, connection.execute(text(f'SELECT * FROM "{table.name}"'))))  # noqa: S608
            for table in Row.metadata.sorted_tables
            if table.name != "duty"
        }


def refusal(answer: Any) -> tuple[int, Any]:
    return answer.status_code, answer.json()["error"]


@pytest.fixture
def web(furnished: Any) -> Any:
    """A world with a VM that runs."""
    furnished.client().vms.create("web", "tiny", "small").wait_until("running", 30, poll=0.1)
    return furnished


def test_every_route_that_begins_an_operation_has_a_dry_run() -> None:
    begins = {(method, path) for method, path, route in routes() if "202" in route["responses"]}
    assert len(begins) >= 8
    for method, path, route in routes():
        if (method, path) in begins:
            assert has_dry_run(route), (method, path)
            answered = route["responses"]["200"]["content"]["application/json"]["schema"]
            assert answered == {"$ref": "#/components/schemas/DryRun"}
        else:
            assert has_dry_run(route) == (path == "/v1/migrations"), (method, path)


def test_dry_run_of_what_has_none_is_refused_and_not_carried_out(quiet: Any) -> None:
    others = [
        (method, path) for method, path, route in routes() if method != "get" and not has_dry_run(route)
    ]
    assert len(others) > 20
    before = contents(quiet)
    for method, path in others:
        answer = quiet.ask(method.upper(), f"{path}?dry_run=true", {})
        assert refusal(answer)[0] == 400, path
        assert refusal(answer)[1]["message"] == "this request has no dry run"
    flavor = {"name": "new", "vcpus": 1, "mem_mb": 64, "disk_gb": 1}
    answer = quiet.ask("POST", "/v1/flavors?dry_run=true", flavor, headers={"Idempotency-Key": "k"})
    assert refusal(answer)[1]["message"] == "this request has no dry run"
    assert contents(quiet) == before
    assert quiet.ask("GET", "/v1/flavors?dry_run=true").status_code == 200


def test_vm_is_told_where_it_would_be_and_then_is_there(furnished: Any) -> None:
    before = contents(furnished)
    answer = furnished.ask("POST", "/v1/vms?dry_run=true", VM, role="member")
    assert contents(furnished) == before
    assert answer.status_code == 200
    told = answer.json()
    assert (told["action"], told["operation"]) == ("vm.create", None)
    assert told["message"] == "new would be placed on sim-02 at campus (rank 2.5)"
    assert told["placement"] == {
        "site": "campus",
        "host": "sim-02",
        "elastic": False,
        "rank": 2.5,
        "price_hour": None,
    }
    vm = told["vm"]
    assert (vm["id"], vm["operation"], vm["state"], vm["project"]) == ("", None, "pending", "default")
    assert [(nic["id"], nic["mac"], nic["network"]) for nic in vm["nics"]] == [("", "", "lan")]
    client = furnished.client("member")
    real = client.vms.create(**VM).wait_until("running", 30, poll=0.1)
    assert (real.site, real.host) == ("campus", "sim-02")


def test_vm_that_would_wait_is_told_why(furnished: Any) -> None:
    told = furnished.ask("POST", "/v1/vms?dry_run=true", {**VM, "requirements": "cpu_free > 4000"}).json()
    assert told["placement"] is None
    assert "4000" in told["reason"]
    assert told["message"] == f"new would wait: {told['reason']}"


def test_vm_of_a_cloud_is_told_what_an_hour_costs(furnished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    there = Place("cloud", "z1/t.small", elastic=True, price_hour=0.05)
    monkeypatch.setattr("api.native.vm.forecast", lambda *asked: replace(forecast(*asked), place=there))
    told = furnished.ask("POST", "/v1/vms?dry_run=true", VM).json()
    assert told["message"] == "new would be placed on z1/t.small at cloud (0.05 per hour)"
    assert (told["placement"]["elastic"], told["placement"]["price_hour"]) == (True, 0.05)


@pytest.mark.parametrize(
    ("method", "path", "state"),
    [
        ("POST", "/v1/vms/web/stop", "stopping"),
        ("POST", "/v1/vms/web/reboot", "running"),
        ("POST", "/v1/vms/web/suspend", "suspending"),
        ("POST", "/v1/vms/web/start", "running"),
        ("POST", "/v1/vms/web/resume", "running"),
        ("POST", "/v1/vms/web/migrate", "migrating"),
        ("DELETE", "/v1/vms/web", "shutting-down"),
    ],
)
def test_operation_is_told_and_not_begun(web: Any, method: str, path: str, state: str) -> None:
    before = contents(web)
    for headers in ({}, {"Idempotency-Key": "k-1"}):
        answer = web.ask(method, f"{path}?dry_run=true", headers=headers)
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert (told["vm"]["state"], told["operation"], told["vm"]["operation"]) == (state, None, None)
        assert told["vm"]["id"]
    assert contents(web) == before
    real = web.ask(method, path, headers={"Idempotency-Key": "k-1"})
    assert real.status_code == 202, "a dry run does not use up a key"
    assert real.json()["operation"]["kind"] == told["action"]
    assert real.json()["vm"]["state"] == state


def test_drain_is_told_with_its_moves(furnished: Any) -> None:
    client = furnished.client()
    for name in ("a", "b"):
        client.vms.create(name, "tiny", "small", rank='name == "sim-01"').wait_until("running", 30, poll=0.1)
    before = contents(furnished)
    told = furnished.ask("POST", "/v1/migrations?dry_run=true", DRAIN).json()
    assert contents(furnished) == before
    assert {(move["vm"], move["target"], move["operation"]) for move in told["moves"]} == {
        ("a", "campus/sim-02", None),
        ("b", "campus/sim-02", None),
    }
    assert not client.hosts.get("sim-01").in_maintenance
    real = furnished.ask("POST", "/v1/migrations", DRAIN).json()
    assert all(move.pop("operation") for move in real["moves"])
    assert real["moves"] == [{k: v for k, v in move.items() if k != "operation"} for move in told["moves"]]


REFUSALS: list[tuple[str, str, str, Any, str]] = [
    # what, method, path, body, role
    ("a reader", "POST", "/v1/vms", VM, "reader"),
    ("a name that is taken", "POST", "/v1/vms", {**VM, "name": "web"}, "member"),
    ("an unknown flavor", "POST", "/v1/vms", {**VM, "flavor": "huge"}, "member"),
    ("an unknown network", "POST", "/v1/vms", {**VM, "networks": ["none"]}, "member"),
    ("a rank that is none", "POST", "/v1/vms", {**VM, "rank": "cpu_free >> 4"}, "member"),
    ("a name with capitals", "POST", "/v1/vms", {**VM, "name": "New"}, "member"),
    ("an unknown field", "POST", "/v1/vms", {**VM, "colour": "red"}, "member"),
    ("no token", "POST", "/v1/vms/web/stop", None, "nobody"),
    ("an unknown VM", "POST", "/v1/vms/none/start", None, "member"),
    ("somebody else's VM", "DELETE", "/v1/vms/web", None, "stranger"),
    ("a member who migrates", "POST", "/v1/vms/web/migrate", None, "member"),
    ("an unknown host", "POST", "/v1/vms/web/migrate", {"host": "none"}, "admin"),
    ("a drain of nothing", "POST", "/v1/migrations", {"goal": "drain", "apply": True}, "admin"),
    ("a drain that is no drain", "POST", "/v1/migrations", {**DRAIN, "apply": False}, "admin"),
    ("a member who drains", "POST", "/v1/migrations", DRAIN, "member"),
    ("an unknown host to drain", "POST", "/v1/migrations", {**DRAIN, "host": "none"}, "admin"),
]


def test_dry_run_is_refused_as_the_real_one_is(web: Any) -> None:
    web.tokens["nobody"] = "ist_none"
    for what, method, path, body, role in REFUSALS:
        before = contents(web)
        said = web.ask(method, f"{path}?dry_run=true", body, role=role)
        real = web.ask(method, path, body, role=role)
        assert said.status_code >= 400, what
        assert refusal(said) == refusal(real), what
        assert contents(web) == before, what


def test_dry_run_under_a_key_of_another_request_is_refused_as_the_real_one_is(web: Any) -> None:
    key = {"Idempotency-Key": "k-1"}
    for path, body, other in (
        ("/v1/vms", VM, {**VM, "name": "other"}),
        ("/v1/vms/web/stop", {"force": True}, {"force": False}),
    ):
        key = {"Idempotency-Key": path.replace("/", "-")}
        assert web.ask("POST", path, body, headers=key).status_code == 202
        said = web.ask("POST", f"{path}?dry_run=true", other, headers=key)
        assert refusal(said) == refusal(web.ask("POST", path, other, headers=key))
        assert refusal(said)[1]["code"] == "idempotency_mismatch"


def test_dry_run_of_what_was_carried_out_under_its_key_says_that_nothing_would_begin(web: Any) -> None:
    for path, body, kind in (
        ("/v1/vms", VM, "vm.create"),
        ("/v1/vms/web/stop", {"force": True}, "vm.stop"),
    ):
        key = {"Idempotency-Key": path.replace("/", "-")}
        real = web.ask("POST", path, body, headers=key).json()
        told = web.ask("POST", f"{path}?dry_run=true", body, headers=key).json()
        assert (told["action"], told["operation"]) == (kind, real["operation"]["id"])
        assert told["vm"]["id"] == real["vm"]["id"]
        assert told["message"].startswith("nothing would begin: ")
    key = {"Idempotency-Key": "drain"}
    real = web.ask("POST", "/v1/migrations", DRAIN, headers=key).json()
    assert web.ask("POST", "/v1/migrations?dry_run=1", DRAIN, headers=key).json() == real


def test_dry_run_is_asked_for_by_a_truth_and_nothing_else(furnished: Any) -> None:
    assert refusal(furnished.ask("POST", "/v1/vms?dry_run=maybe", VM))[1]["code"] == "invalid_request"
    assert furnished.ask("GET", "/v1/vms").json()["items"] == []
    assert furnished.ask("POST", "/v1/vms?dry_run=false", VM).status_code == 202


def test_real_requests_beside_dry_ones_are_carried_out(furnished: Any) -> None:
    """They share threads, connections and the event loop, and nothing else."""

    def ask(number: int) -> int:
        query = "?dry_run=true" if number % 2 else ""
        body = {**VM, "name": f"vm-{number}"}
        return int(furnished.ask("POST", f"/v1/vms{query}", body).status_code)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(16)))
    assert answers == [202, 200] * 8
    assert {vm.name for vm in furnished.client().vms.list()} == {f"vm-{number}" for number in range(0, 16, 2)}
