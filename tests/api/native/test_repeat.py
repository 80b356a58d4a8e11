"""A POST that comes twice under one key is one: the same answer, one effect; with another body it is refused."""

from __future__ import annotations

import contextlib
import threading
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from api.native import create_app
from broker import image, request, token
from broker.store import RequestRow

PATHS = create_app(None).openapi()["paths"]  # type: ignore[arg-type]  # the document needs no broker
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDMmqOD3D8j3yqXBEVAhcYSg4+sZaMS8uQd+pZ0Q0F0g me@example"
GATEWAY = {"name": "gw", "site": "campus", "network": "lan", "endpoint": "203.0.113.2:51820"}

MAKES: dict[str, tuple[str, dict[str, Any], str]] = {
    # route -> path, body, where what is made is listed
    "/v1/sites": ("/v1/sites", {"name": "new", "kind": "simulated", "options": {"hosts": 1}}, "/v1/sites"),
    "/v1/reservations": (
        "/v1/reservations",
        {"name": "new", "flavor": "small", "end_at": "SOON"},
        "/v1/reservations",
    ),
    "/v1/flavors": ("/v1/flavors", {"name": "new", "vcpus": 1, "mem_mb": 64, "disk_gb": 1}, "/v1/flavors"),
    "/v1/images": ("/v1/images", {"name": "new", "format": "raw", "path": "PATH"}, "/v1/images"),
    "/v1/keypairs": ("/v1/keypairs", {"name": "new", "public_key": KEY}, "/v1/keypairs"),
    "/v1/networks": ("/v1/networks", {"name": "new", "cidr": "10.9.0.0/16"}, "/v1/networks"),
    "/v1/gateways": ("/v1/gateways", GATEWAY, "/v1/gateways"),
    "/v1/projects": ("/v1/projects", {"name": "new"}, "/v1/projects"),
    "/v1/tokens": ("/v1/tokens", {"name": "new"}, "/v1/tokens"),
    "/v1/accesskeys": ("/v1/accesskeys", {}, "/v1/accesskeys"),
}
VERBS = ("suspend", "resume", "migrate", "reboot", "stop", "start")
ELSEWHERE = {
    "/v1/vms",  # test_contract
    "/v1/networks/{ref}/subnets",
    "/v1/gateways/{ref}/token",
    *(f"/v1/vms/{{ref}}/{verb}" for verb in VERBS),
}
CHANGES_NOTHING = {
    "/v1/sites/{ref}/refresh",  # looks again each time
    "/v1/migrations",  # moves by live migration what is left to move
    "/v1/policy/check",
    "/v1/policy/rehearse",
    "/v1/expressions",
    "/v1/agent/register",
    "/v1/agent/enrol",  # by the peer's own key
    "/v1/agent/status",
}
"""What is the same when it is done twice."""


def post(world: Any, path: str, body: Any, key: str = "k-1", role: str = "admin") -> Any:
    return world.ask("POST", path, body, headers={"Idempotency-Key": key}, role=role)


def code(answer: Any) -> str:
    return str(answer.json()["error"]["code"])


def requests(world: Any) -> list[RequestRow]:
    with world.broker.store.reading() as session:
        return list(session.scalars(select(RequestRow)))


def test_every_post_is_tried_here_or_known_to_be_harmless() -> None:
    posts = {path for path, methods in PATHS.items() if "post" in methods}
    assert posts == set(MAKES) | ELSEWHERE | CHANGES_NOTHING


@pytest.mark.parametrize("route", MAKES)
def test_what_is_made_twice_under_a_key_is_made_once(furnished: Any, route: str) -> None:
    path, body, listed = MAKES[route]
    if body.get("path"):
        body = {**body, "path": str(furnished.broker.settings.data_dir / "tiny.raw")}
    if "end_at" in body:
        body = {**body, "end_at": (furnished.broker.clock.now() + timedelta(hours=1)).isoformat()}
    before = len(furnished.ask("GET", listed).json()["items"])
    first, second = post(furnished, path, body), post(furnished, path, body)
    assert first.status_code == second.status_code == 201, first.text
    assert first.json() == second.json()
    assert len(furnished.ask("GET", listed).json()["items"]) == before + 1
    other = {**body, "role": "reader"} if not body.get("name") else {**body, "name": "other"}
    refused = post(furnished, path, other)
    assert (refused.status_code, code(refused)) == (409, "idempotency_mismatch")
    assert len(furnished.ask("GET", listed).json()["items"]) == before + 1
    # No secret that was answered lies there in clear.
    for secret in (first.json().get("secret"), first.json().get("token")):
        if isinstance(secret, str):
            assert all(secret not in str(vars(row)) for row in requests(furnished))


def test_parts_and_tokens_of_things_are_made_once_too(furnished: Any) -> None:
    gateway = post(furnished, "/v1/gateways", GATEWAY, "k-0").json()["gateway"]["id"]
    for key, path, body in (
        ("k-1", f"/v1/gateways/{gateway}/token", None),
        ("k-2", "/v1/networks/lan/subnets", {"site": "annex", "cidr": "10.0.7.0/24"}),
    ):
        if body:
            furnished.client().sites.create("annex", "simulated", options={"hosts": 1})
        first, second = post(furnished, path, body, key), post(furnished, path, body, key)
        assert first.status_code == second.status_code == 201, first.text
        assert first.json() == second.json()


def test_an_operation_is_begun_once(furnished: Any) -> None:
    client = furnished.client()
    vm = client.vms.create("web", "tiny", "small").wait_until("running", 30, poll=0.1)
    for verb in VERBS:
        answers = [post(furnished, f"/v1/vms/{vm.id}/{verb}", None, verb) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [202, 202], (verb, answers[0].text)
        assert answers[0].json() == answers[1].json(), verb
        client.operations.get(answers[0].json()["operation"]["id"]).wait(30, poll=0.1)
        assert post(furnished, f"/v1/vms/{vm.id}/{verb}", None, verb).json() == answers[0].json()
        done = [row for row in client.operations.list(target=vm.id) if row.kind == f"vm.{verb}"]
        assert len(done) == 1, verb


def test_a_refusal_is_not_remembered(furnished: Any) -> None:
    body = {"name": "spare", "cidr": "169.254.64.0/24"}
    assert code(post(furnished, "/v1/networks", body)) == "overlap"
    assert code(post(furnished, "/v1/networks", {"name": "spare"})) == "invalid_request"
    assert "k-1" not in {row.token for row in requests(furnished)}
    assert post(furnished, "/v1/networks", {**body, "cidr": "10.3.0.0/16"}).status_code == 201


def test_a_key_is_of_its_project_and_of_who_used_it(furnished: Any) -> None:
    body = {"name": "ci", "role": "reader"}
    assert post(furnished, "/v1/tokens", body).status_code == 201
    assert code(post(furnished, "/v1/tokens", body, role="member")) == "idempotency_mismatch"
    assert post(furnished, "/v1/tokens", body, role="stranger").status_code == 201
    assert post(furnished, "/v1/tokens", body, "a b").status_code == 400
    assert (
        furnished.ask("POST", "/v1/tokens", body, role=None, headers={"Idempotency-Key": "k"}).status_code
        == 401
    )


def test_of_two_at_once_one_is_carried_out(furnished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2)
    plain = image._copy

    def copy(*given: Any) -> str:
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(5)
        return plain(*given)

    monkeypatch.setattr(image, "_copy", copy)
    body = {"name": "new", "format": "raw", "path": str(furnished.broker.settings.data_dir / "tiny.raw")}
    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda: answers.append(post(furnished, "/v1/images", body))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert 201 in {answer.status_code for answer in answers}
    for answer in answers:
        assert answer.status_code == 201 or code(answer) == "under_way"
    assert post(furnished, "/v1/images", body).status_code == 201
    assert [found.name for found in furnished.client().images.list()] == ["new", "tiny"]


def test_a_request_whose_answer_was_lost_is_never_carried_out_twice(
    furnished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> None:
        raise SystemError("killed between the change and its answer")

    body = {"name": "ci"}
    with monkeypatch.context() as patch:
        patch.setattr(request.Remembering, "keep", die)
        assert post(furnished, "/v1/tokens", body).status_code == 500
    early = post(furnished, "/v1/tokens", body)
    assert (early.status_code, code(early)) == (503, "under_way")
    with furnished.broker.store.transaction() as session:
        for row in session.scalars(select(RequestRow)):
            row.created_at -= timedelta(hours=1)
    late = post(furnished, "/v1/tokens", body)
    assert (late.status_code, code(late)) == (409, "answer_lost")
    assert [row.name for row in furnished.client().tokens.list()].count("ci") == 1


def test_a_request_that_failed_before_its_change_was_kept_may_come_again(
    furnished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any, **__: Any) -> None:
        raise SystemError("killed in the middle of the change")

    with monkeypatch.context() as patch:
        patch.setattr(token, "add", die)
        assert post(furnished, "/v1/tokens", {"name": "ci"}).status_code == 500
    assert post(furnished, "/v1/tokens", {"name": "ci"}).status_code == 201
