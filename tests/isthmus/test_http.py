"""Requests, retries, idempotency keys and errors."""

from __future__ import annotations

import ssl
from typing import Any

import httpx2
import pytest

import isthmus
from isthmus import schema

REFUSED = httpx2.ConnectError("[Errno 111] Connection refused")
DROPPED = httpx2.ReadError("connection reset")
BUSY = httpx2.Response(503, json={"error": {"code": "unavailable", "message": "not now"}})


def created(make: Any) -> schema.VMOperation:
    return schema.VMOperation(vm=make["vm"](), operation=make["operation"]())


def test_every_request_carries_the_token_and_says_who_asks(client: Any, broker: Any) -> None:
    broker.on("GET", "/v1/flavors", [])
    assert list(client.flavors.list()) == []
    headers = broker.asked[0].headers
    assert headers["authorization"] == "Bearer ist_secret"
    assert headers["user-agent"] == f"isthmus/{isthmus.__version__}"


@pytest.mark.parametrize("trouble", [REFUSED, DROPPED, BUSY])
def test_a_creation_is_repeated_under_the_same_key(client: Any, broker: Any, make: Any, trouble: Any) -> None:
    broker.on("POST", "/v1/vms", trouble, trouble, created(make))
    assert client.vms.create("web", "tiny", "small").name == "web"
    assert [asked.headers["idempotency-key"] for asked in broker.asked] == ["key-0"] * 3


def test_two_creations_have_two_keys(client: Any, broker: Any, make: Any) -> None:
    broker.on("POST", "/v1/vms", created(make))
    client.vms.create("web", "tiny", "small")
    client.vms.create("web", "tiny", "small")
    client.vms.create("web", "tiny", "small", idempotency_key="mine")
    assert [asked.headers["idempotency-key"] for asked in broker.asked] == ["key-0", "key-1", "mine"]


def test_pauses_between_attempts_double(client: Any, broker: Any, time: Any) -> None:
    broker.on("GET", "/v1/status", REFUSED)
    with pytest.raises(isthmus.ConnectionFailed) as caught:
        client.status()
    assert time.slept == [0.1, 0.2, 0.4]
    assert len(broker.asked) == 4
    assert "http://broker:8770" in caught.value.message
    assert "isthmus serve" in caught.value.hint


def test_the_broker_may_say_how_long_to_pause(client: Any, broker: Any, time: Any) -> None:
    later = httpx2.Response(503, headers={"Retry-After": "3"}, json={"error": {"code": "x", "message": "y"}})
    broker.on("GET", "/v1/flavors", later, [])
    list(client.flavors.list())
    assert time.slept == [3.0]


def test_a_reboot_whose_answer_was_lost_is_repeated_under_its_key(
    client: Any, broker: Any, make: Any
) -> None:
    """The broker remembers what it did under that key, and does it once."""
    broker.on("POST", "/v1/vms/web/reboot", DROPPED, created(make))
    assert client.vms.reboot("web").id == "op-1"
    assert [asked.headers["idempotency-key"] for asked in broker.asked] == ["key-0"] * 2


def test_an_import_that_the_broker_may_be_at_work_on_is_not_repeated(client: Any, broker: Any) -> None:
    broker.on("POST", "/v1/images", DROPPED)
    with pytest.raises(isthmus.ConnectionFailed):
        client.images.create("tiny", "/srv/tiny.raw")
    assert len(broker.asked) == 1


def test_a_reboot_that_was_never_sent_is_repeated(client: Any, broker: Any, make: Any) -> None:
    broker.on("POST", "/v1/vms/web/reboot", REFUSED, created(make))
    assert client.vms.reboot("web").id == "op-1"


def test_a_deletion_whose_answer_was_lost_is_done_when_the_thing_is_gone(
    client: Any, broker: Any, make: Any
) -> None:
    broker.on("DELETE", "/v1/flavors/small", DROPPED, make["refusal"](404, "flavor_not_found", "gone"))
    client.flavors.delete("small")
    assert len(broker.asked) == 2


def test_a_deletion_of_what_never_was_is_refused(client: Any, broker: Any, make: Any) -> None:
    broker.on("DELETE", "/v1/flavors/small", make["refusal"](404, "flavor_not_found", "no such flavor"))
    with pytest.raises(isthmus.NotFound):
        client.flavors.delete("small")


def test_a_refused_certificate_is_not_tried_again(client: Any, broker: Any) -> None:
    error = httpx2.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate")
    error.__cause__ = ssl.SSLCertVerificationError("self-signed")
    broker.on("GET", "/v1/status", error)
    with pytest.raises(isthmus.ConnectionFailed) as caught:
        client.status()
    assert len(broker.asked) == 1
    assert "--ca" in caught.value.hint


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, isthmus.InvalidRequest),
        (401, isthmus.Unauthenticated),
        (403, isthmus.Forbidden),
        (404, isthmus.NotFound),
        (409, isthmus.Conflict),
        (418, isthmus.APIError),
        (500, isthmus.InternalError),
        (502, isthmus.InternalError),
        (503, isthmus.Unavailable),
    ],
)
def test_each_status_is_one_exception(client: Any, broker: Any, make: Any, status: int, kind: type) -> None:
    broker.on("GET", "/v1/vms/web", make["refusal"](status, "a_code", "in words", "do this", seen=[1]))
    with pytest.raises(isthmus.APIError) as caught:
        client.vms.get("web")
    error = caught.value
    assert type(error) is kind
    assert (error.status, error.code, error.message, error.hint) == (status, "a_code", "in words", "do this")
    assert error.details == {"seen": [1]}
    assert str(error) == "in words"


@pytest.mark.parametrize(
    "answer",
    [
        httpx2.Response(200, text="<html>Welcome to nginx</html>"),
        httpx2.Response(502, text="Bad Gateway"),
        httpx2.Response(200, json={"id": "vm-1"}),
        httpx2.Response(301, headers={"Location": "/login"}),
    ],
)
def test_an_answer_of_something_else_is_told_apart(client: Any, broker: Any, answer: httpx2.Response) -> None:
    broker.on("GET", "/v1/vms/web", answer)
    with pytest.raises(isthmus.UnexpectedAnswer, match="did not answer as a broker does"):
        client.vms.get("web")


def test_what_a_newer_broker_adds_is_ignored(client: Any, broker: Any) -> None:
    answer = {"name": "small", "vcpus": 1, "mem_mb": 1, "disk_gb": 1, "gpus": 8}
    broker.on("GET", "/v1/flavors/small", httpx2.Response(200, json=answer))
    assert client.flavors.get("small").vcpus == 1


def test_a_list_goes_through_all_pages(client: Any, broker: Any) -> None:
    def page(name: str, token: str | None) -> httpx2.Response:
        item = {"name": name, "vcpus": 1, "mem_mb": 1, "disk_gb": 1}
        return httpx2.Response(200, json={"items": [item], "next": token})

    broker.on("GET", "/v1/flavors", page("a", "t1"), page("b", "t2"), page("c", None))
    assert [flavor.name for flavor in client.flavors.list()] == ["a", "b", "c"]
    assert [dict(asked.query).get("page") for asked in broker.asked] == [None, "t1", "t2"]


def test_a_list_asks_for_the_next_page_only_when_it_is_needed(client: Any, broker: Any) -> None:
    item = {"name": "a", "vcpus": 1, "mem_mb": 1, "disk_gb": 1}
    broker.on("GET", "/v1/flavors", httpx2.Response(200, json={"items": [item, item], "next": "t"}))
    next(iter(client.flavors.list()))
    assert len(broker.asked) == 1


def test_a_name_with_strange_characters_stays_one_segment_of_the_path(client: Any, broker: Any) -> None:
    with pytest.raises(isthmus.NotFound):
        client.hosts.get("eu-1a/t3.small")
    assert broker.asked[0].path == "/v1/hosts/eu-1a%2Ft3.small"


@pytest.mark.parametrize("ref", ["", ".", ".."])
def test_a_name_that_can_name_nothing_is_not_sent(client: Any, broker: Any, ref: str) -> None:
    with pytest.raises(isthmus.InvalidRequest):
        client.vms.get(ref)
    assert broker.asked == []


def test_a_mistake_in_a_request_is_told_without_asking_the_broker(client: Any, broker: Any) -> None:
    with pytest.raises(isthmus.InvalidRequest) as caught:
        client.vms.create("Not A Name", "tiny", "small")
    assert caught.value.code == "invalid_request"
    assert caught.value.details["errors"][0]["loc"] == "name"
    assert "a name is 1 to 63 of a-z" in caught.value.message
    assert broker.asked == []


def test_only_what_was_given_is_sent(client: Any, broker: Any, make: Any) -> None:
    broker.on("POST", "/v1/vms", created(make))
    client.vms.create("web", "tiny", "small", labels={"a": "b"})
    assert broker.asked[0].body == {"name": "web", "image": "tiny", "flavor": "small", "labels": {"a": "b"}}


def test_no_token_sends_no_header(broker: Any) -> None:
    broker.on("GET", "/v1/flavors", [])
    list(
        isthmus.Client(
            "http://b", transport=httpx2.MockTransport(broker), environ={"HOME": "/nowhere"}
        ).flavors.list()
    )
    assert "authorization" not in broker.asked[0].headers
