"""The HTTP contract of the native API: statuses, shapes, roles and refusals."""

from __future__ import annotations

from typing import Any

import pytest
import structlog.testing

SMALL = {"name": "small", "vcpus": 1, "mem_mb": 256, "disk_gb": 1}
SITE = {"name": "campus", "kind": "simulated", "options": {"hosts": 2, "boot_s": 0}}
VM = {"name": "web", "image": "tiny", "flavor": "small"}
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me@example"


def code(answer: Any) -> str:
    """The code of a refusal, whose shape is checked on the way."""
    body = answer.json()
    assert set(body) == {"error"}, body
    assert set(body["error"]) == {"code", "message", "hint", "details"}
    assert body["error"]["message"]
    found: str = body["error"]["code"]
    return found


REFUSALS: list[tuple[str, str, str, Any, int, str]] = [
    # what, method, path, body, status, code
    ("an unknown VM", "GET", "/v1/vms/nobody", None, 404, "vm_not_found"),
    ("an unknown site", "GET", "/v1/sites/nowhere", None, 404, "site_not_found"),
    ("an unknown host", "GET", "/v1/hosts/nobody", None, 404, "host_not_found"),
    ("a host with a slash", "GET", "/v1/hosts/aws/t3.small", None, 404, "host_not_found"),
    ("an unknown flavor", "GET", "/v1/flavors/huge", None, 404, "flavor_not_found"),
    ("an unknown image", "DELETE", "/v1/images/none", None, 404, "image_not_found"),
    ("an unknown key pair", "GET", "/v1/keypairs/none", None, 404, "keypair_not_found"),
    ("an unknown network", "GET", "/v1/networks/none", None, 404, "network_not_found"),
    ("peers of an unknown VM", "GET", "/v1/peers?vm=nobody", None, 404, "vm_not_found"),
    ("peers of an unknown gateway", "GET", "/v1/peers?gateway=none", None, 404, "gateway_not_found"),
    ("an unknown gateway", "GET", "/v1/gateways/none", None, 404, "gateway_not_found"),
    ("no policy yet", "GET", "/v1/policy", None, 404, "policy_not_found"),
    ("an unknown operation", "GET", "/v1/operations/op-0", None, 404, "operation_not_found"),
    ("an unknown project", "GET", "/v1/projects/none", None, 404, "project_not_found"),
    ("an unknown token", "DELETE", "/v1/tokens/tok-0", None, 404, "token_not_found"),
    ("an unknown access key", "DELETE", "/v1/accesskeys/AKIA0", None, 404, "accesskey_not_found"),
    ("an unknown route", "GET", "/v1/nothing", None, 404, "route_not_found"),
    ("the root", "GET", "/", None, 404, "route_not_found"),
    ("a slash too many", "GET", "/v1/vms/", None, 404, "route_not_found"),
    ("a wrong method", "PUT", "/v1/vms", {}, 405, "method_not_allowed"),
    ("a name with capitals", "POST", "/v1/flavors", {**SMALL, "name": "Small"}, 400, "invalid_request"),
    ("an unknown field", "POST", "/v1/flavors", {**SMALL, "tpus": 1}, 400, "invalid_request"),
    ("a missing field", "POST", "/v1/flavors", {"name": "small"}, 400, "invalid_request"),
    ("a text for a number", "POST", "/v1/flavors", {**SMALL, "vcpus": "many"}, 400, "invalid_request"),
    ("a limit of nothing", "GET", "/v1/vms?limit=0", None, 400, "invalid_request"),
    ("a limit too high", "GET", "/v1/vms?limit=1001", None, 400, "invalid_request"),
    ("a state that is none", "GET", "/v1/vms?state=asleep", None, 400, "invalid_request"),
    ("a label without value", "GET", "/v1/vms?label=blue", None, 400, "invalid_request"),
    ("a page of nowhere", "GET", "/v1/vms?page=xyz", None, 400, "invalid_request"),
    ("a page of another list", "GET", "/v1/events?page=WyJhIl0", None, 400, "invalid_request"),
    ("a wait too long", "GET", "/v1/operations/op-0?wait=31", None, 400, "invalid_request"),
    ("a wait of nan", "GET", "/v1/operations/op-0?wait=nan", None, 400, "invalid_request"),
    (
        "a number beyond the database",
        "GET",
        "/v1/events?after=99999999999999999999",
        None,
        400,
        "invalid_request",
    ),
    ("a zero byte in a name", "GET", "/v1/vms/a%00b", None, 400, "invalid_request"),
    ("an unknown kind of site", "POST", "/v1/sites", {**SITE, "kind": "vax"}, 400, "invalid_request"),
    ("a site's bad option", "POST", "/v1/sites", {**SITE, "options": {"hots": 1}}, 400, "invalid_request"),
    (
        "an image that is no file",
        "POST",
        "/v1/images",
        {"name": "x", "path": "/no/such"},
        400,
        "invalid_request",
    ),
    (
        "a key that is none",
        "POST",
        "/v1/keypairs",
        {"name": "me", "public_key": "hello"},
        400,
        "invalid_request",
    ),
    (
        "a range that is none",
        "POST",
        "/v1/networks",
        {"name": "lan", "cidr": "10.0.0.0/33"},
        400,
        "invalid_request",
    ),
    ("a policy with a mistake", "PUT", "/v1/policy", {"text": "version: 9"}, 400, "invalid_policy"),
    ("an agent's route for others", "GET", "/v1/agent/document", None, 403, "forbidden"),
]


@pytest.mark.parametrize(
    ("what", "method", "path", "body", "status", "expected"), REFUSALS, ids=[r[0] for r in REFUSALS]
)
def test_a_refusal_has_its_status_and_code(
    quiet: Any, what: str, method: str, path: str, body: Any, status: int, expected: str
) -> None:
    answer = quiet.ask(method, path, body)
    assert (answer.status_code, code(answer)) == (status, expected)


def test_a_mistake_in_a_request_names_each_place(quiet: Any) -> None:
    answer = quiet.ask("POST", "/v1/projects", {"name": "-", "quota": {"vms": -1, "disks": 3}})
    assert [problem["loc"] for problem in answer.json()["error"]["details"]["errors"]] == [
        "name",
        "quota.vms",
        "quota.disks",
    ]


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"[]", b"null", b'"text"', b""])
def test_a_body_that_is_no_request_is_refused(quiet: Any, body: bytes) -> None:
    answer = quiet.ask("POST", "/v1/flavors", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, code(answer)) == (400, "invalid_request")


@pytest.mark.parametrize("field", ['"name": "a\\u0000b"', '"name": "\\ud800"'])
def test_a_text_no_database_can_hold_is_refused(quiet: Any, field: str) -> None:
    body = '{"image": "a\\u0000b", "flavor": "f", ' + field + "}"
    answer = quiet.ask("POST", "/v1/vms", content=body.encode(), headers={"Content-Type": "application/json"})
    assert (answer.status_code, code(answer)) == (400, "invalid_request")


@pytest.mark.parametrize("value", ['"a\\u0000b"', "NaN", "Infinity"])
def test_a_value_no_database_can_hold_is_refused_deep_inside(quiet: Any, value: str) -> None:
    body = '{"name": "x", "kind": "simulated", "options": {"hosts": [{"name": ' + value + "}]}}"
    answer = quiet.ask(
        "POST", "/v1/sites", content=body.encode(), headers={"Content-Type": "application/json"}
    )
    assert (answer.status_code, code(answer)) == (400, "invalid_request")


@pytest.mark.parametrize("say_length", [True, False])
def test_a_body_too_large_is_refused_before_it_is_read(quiet: Any, say_length: bool) -> None:
    def parts() -> Any:
        for _ in range(300):
            yield b"x" * 10_000

    content = b"x" * 3_000_000 if say_length else parts()
    answer = quiet.ask("POST", "/v1/flavors", content=content)
    assert (answer.status_code, code(answer)) == (413, "too_large")


@pytest.mark.parametrize(
    "header",
    [None, "Bearer", "Bearer ", "Bearer ist_wrong", "Basic YWRtaW46YWRtaW4=", "Bearer é", "ist_wrong"],
)
def test_without_a_valid_token_nothing_is_told(quiet: Any, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header.encode("utf-8")}
    answer = quiet.ask("GET", "/v1/status", role=None, headers=headers)
    assert (answer.status_code, code(answer)) == (401, "unauthenticated")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_every_route_but_health_and_the_document_needs_a_token(quiet: Any) -> None:
    paths = quiet.http.get("/v1/openapi.json").json()["paths"]
    assert len(paths) > 30
    for path, methods in paths.items():
        for method in methods:
            answer = quiet.ask(method.upper(), path.replace("{", "").replace("}", ""), role=None)
            assert answer.status_code == (200 if path == "/healthz" else 401), (method, path)


ADMINS_ONLY: list[tuple[str, str, Any]] = [
    ("POST", "/v1/sites", SITE),
    ("DELETE", "/v1/sites/campus", None),
    ("PATCH", "/v1/hosts/sim-0", {"maintenance": True}),
    ("POST", "/v1/flavors", {**SMALL, "name": "tall"}),
    ("DELETE", "/v1/flavors/small", None),
    ("POST", "/v1/images", {"name": "more", "path": "/etc/passwd", "format": "raw"}),
    ("PATCH", "/v1/images/tiny", {"sites": {}}),
    ("DELETE", "/v1/images/tiny", None),
    ("POST", "/v1/networks", {"name": "wan", "cidr": "10.9.0.0/16"}),
    ("DELETE", "/v1/networks/lan", None),
    ("POST", "/v1/networks/lan/subnets", {"site": "campus", "cidr": "10.0.9.0/24"}),
    ("DELETE", "/v1/networks/lan/subnets/campus", None),
    (
        "POST",
        "/v1/gateways",
        {"name": "gw", "site": "campus", "network": "lan", "endpoint": "203.0.113.2:51820"},
    ),
    ("POST", "/v1/gateways/gw/token", None),
    ("PUT", "/v1/policy", {"text": "version: 1\n"}),
    ("POST", "/v1/projects", {"name": "mine"}),
    ("DELETE", "/v1/projects/other", None),
    ("POST", "/v1/tokens", {"name": "root", "role": "admin"}),
    ("POST", "/v1/accesskeys", {"role": "admin"}),
]


@pytest.mark.parametrize("role", ["member", "reader"])
def test_what_only_admins_may_do_is_forbidden_to_others(furnished: Any, role: str) -> None:
    for method, path, body in ADMINS_ONLY:
        answer = furnished.ask(method, path, body, role=role)
        assert (answer.status_code, code(answer)) == (403, "forbidden"), (method, path)


def test_a_reader_may_look_and_nothing_else(furnished: Any) -> None:
    for path in ("status", "vms", "sites", "hosts", "flavors", "images", "networks", "operations", "events"):
        assert furnished.ask("GET", f"/v1/{path}", role="reader").status_code == 200, path
    for method, path, body in [
        ("POST", "/v1/vms", VM),
        ("POST", "/v1/keypairs", {"name": "me", "public_key": KEY}),
        ("POST", "/v1/tokens", {"name": "more"}),
    ]:
        assert furnished.ask(method, path, body, role="reader").status_code == 403, path


def test_another_project_sees_nothing_of_mine(furnished: Any) -> None:
    made = furnished.ask("POST", "/v1/vms", VM, role="member").json()
    for ref in (made["vm"]["id"], "web"):
        assert furnished.ask("GET", f"/v1/vms/{ref}", role="stranger").status_code == 404
        assert furnished.ask("DELETE", f"/v1/vms/{ref}", role="stranger").status_code == 404
    assert (
        furnished.ask("GET", f"/v1/operations/{made['operation']['id']}", role="stranger").status_code == 404
    )
    assert furnished.ask("GET", "/v1/vms", role="stranger").json()["items"] == []
    assert furnished.ask("GET", "/v1/operations", role="stranger").json()["items"] == []


def test_a_creation_answers_202_with_the_vm_and_its_operation(furnished: Any) -> None:
    answer = furnished.ask("POST", "/v1/vms", {**VM, "labels": {"tier": "front"}}, role="member")
    assert answer.status_code == 202
    body = answer.json()
    assert body["vm"]["name"] == "web"
    assert body["vm"]["project"] == "default"
    assert body["vm"]["labels"] == {"tier": "front"}
    assert body["vm"]["operation"] == body["operation"]["id"]
    assert body["operation"]["kind"] == "vm.create"
    assert body["operation"]["target"] == body["vm"]["id"]


def test_the_same_idempotency_key_makes_one_vm(furnished: Any) -> None:
    first, second = (
        furnished.ask("POST", "/v1/vms", VM, headers={"Idempotency-Key": "k-1"}).json() for _ in range(2)
    )
    assert first["vm"]["id"] == second["vm"]["id"]
    other = furnished.ask("POST", "/v1/vms", {**VM, "name": "db"}, headers={"Idempotency-Key": "k-1"})
    assert (other.status_code, code(other)) == (409, "idempotency_mismatch")
    again = furnished.ask("POST", "/v1/vms", VM, headers={"Idempotency-Key": "k-2"})
    assert (again.status_code, code(again)) == (409, "vm_exists")


def test_an_expression_with_a_mistake_is_answered_with_its_position(furnished: Any) -> None:
    answer = furnished.ask("POST", "/v1/vms", {**VM, "requirements": "cpu_free >> 4"})
    assert (answer.status_code, code(answer)) == (400, "invalid_expression")
    details = answer.json()["error"]["details"]
    assert (details["field"], details["line"], details["text"]) == ("requirements", 1, "cpu_free >> 4")
    assert details["column"] in (10, 11)


def test_a_quota_that_is_used_up_is_a_refusal_of_its_own(furnished: Any) -> None:
    made = furnished.ask("POST", "/v1/projects", {"name": "tight", "quota": {"vms": 1}})
    assert made.status_code == 201
    secret = furnished.ask("POST", "/v1/tokens", {"name": "t", "project": "tight"}).json()["secret"]
    headers = {"Authorization": f"Bearer {secret}"}
    assert furnished.ask("POST", "/v1/vms", VM, role=None, headers=headers).status_code == 202
    answer = furnished.ask("POST", "/v1/vms", {**VM, "name": "two"}, role=None, headers=headers)
    assert (answer.status_code, code(answer)) == (403, "quota_exceeded")


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("POST", "/v1/sites", SITE, "site_exists"),
        ("POST", "/v1/flavors", SMALL, "flavor_exists"),
        ("POST", "/v1/networks", {"name": "lan", "cidr": "10.8.0.0/16"}, "network_exists"),
        ("POST", "/v1/networks", {"name": "lan2", "cidr": "169.254.64.0/24"}, "overlap"),
        ("POST", "/v1/projects", {"name": "other"}, "project_exists"),
        ("DELETE", "/v1/sites/campus", None, "in_use"),
    ],
)
def test_what_is_there_already_or_needed_is_a_conflict(
    furnished: Any, method: str, path: str, body: Any, expected: str
) -> None:
    answer = furnished.ask(method, path, body)
    assert (answer.status_code, code(answer)) == (409, expected)


def test_a_secret_is_answered_once_and_never_again(world: Any) -> None:
    made = world.ask("POST", "/v1/tokens", {"name": "ci", "role": "reader"})
    assert made.status_code == 201
    secret = made.json()["secret"]
    assert secret.startswith("ist_")
    assert secret not in world.ask("GET", "/v1/tokens").text
    key = world.ask("POST", "/v1/accesskeys", {}).json()
    assert key["secret"] not in world.ask("GET", "/v1/accesskeys").text


def test_a_revoked_token_is_dead_at_once(world: Any) -> None:
    made = world.ask("POST", "/v1/tokens", {"name": "ci"}).json()
    headers = {"Authorization": f"Bearer {made['secret']}"}
    assert world.ask("GET", "/v1/vms", role=None, headers=headers).status_code == 200
    assert world.ask("DELETE", f"/v1/tokens/{made['token']['id']}").status_code == 204
    assert world.ask("GET", "/v1/vms", role=None, headers=headers).status_code == 401


def test_a_sites_credentials_are_never_answered(world: Any) -> None:
    body = {**SITE, "credentials": {"password": "sesame"}}
    assert "sesame" not in world.ask("POST", "/v1/sites", body).text
    assert "sesame" not in world.ask("GET", "/v1/sites/campus").text


def test_health_needs_no_token(quiet: Any) -> None:
    answer = quiet.ask("GET", "/healthz", role=None)
    assert (answer.status_code, answer.json()) == (200, {"ok": True})


def test_a_mistake_of_the_brokers_own_tells_nothing_of_its_inside(
    quiet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("a secret path")

    monkeypatch.setattr("broker.flavor.list_flavors", broken)
    with structlog.testing.capture_logs() as logged:
        answer = quiet.ask("GET", "/v1/flavors")
    assert (answer.status_code, code(answer)) == (500, "internal")
    assert "secret" not in answer.text
    assert [entry["event"] for entry in logged] == ["request.failed"]


def test_metrics_count_requests_by_route_and_show_the_brokers_numbers(furnished: Any) -> None:
    furnished.ask("GET", "/v1/vms/nobody")
    furnished.ask("GET", "/no/such/place")
    answer = furnished.ask("GET", "/metrics", role="reader")
    assert answer.headers["content-type"].startswith("text/plain")
    assert 'isthmus_http_requests_total{method="GET",route="/v1/vms/{ref}",status="404"} 1.0' in answer.text
    assert 'isthmus_http_requests_total{method="none",route="none",status="404"} 1.0' in answer.text
    assert "isthmus_hosts 2.0" in answer.text
    assert world_is_quiet(answer.text)


def test_metrics_have_no_series_of_a_strangers_choice(quiet: Any) -> None:
    for number in range(3):
        quiet.ask(f"EVIL{number}", "/v1/vms", role=None)
    answer = quiet.ask("GET", "/metrics", role="reader")
    assert "EVIL" not in answer.text
    assert 'isthmus_http_requests_total{method="none",route="/v1/vms",status="405"}' in answer.text


def world_is_quiet(text: str) -> bool:
    return "isthmus_vms 0.0" in text and "isthmus_burst_open 0.0" in text


@pytest.mark.parametrize(
    "labels", [{"": "x"}, {"k" * 129: "x"}, {"k": "x" * 257}], ids=["no key", "key", "value"]
)
def test_a_label_is_no_longer_than_a_tag_of_a_cloud(furnished: Any, labels: dict[str, str]) -> None:
    asked = {"name": "web", "image": "tiny", "flavor": "small", "labels": labels}
    assert furnished.ask("POST", "/v1/vms", asked).status_code == 400
    whole = {**asked, "labels": {"k" * 128: "x" * 256}}
    assert furnished.ask("POST", "/v1/vms", whole).status_code == 202
    assert furnished.ask("PATCH", "/v1/vms/web", {"labels": labels}).status_code == 400
