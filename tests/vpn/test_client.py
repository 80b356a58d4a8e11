"""The agent's calls to the broker, over a transport that is handed in."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from vpn.client import Client, Enrolled, Refused, Unavailable, Unreadable, UrllibTransport
from vpn.plan import GatewaySpec, plan
from vpn.wireguard import LivePeer


class Wire:
    """Answers what it was told to, and keeps what it was asked."""

    def __init__(self, status: int = 204, body: object = None) -> None:
        self.status, self.body = status, body
        self.asked: list[tuple[str, str, Mapping[str, str], object, float]] = []

    def __call__(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout_s: float
    ) -> tuple[int, bytes]:
        self.asked.append((method, url, headers, json.loads(body) if body else None, timeout_s))
        return self.status, b"" if self.body is None else json.dumps(self.body).encode()


def _client(wire: Wire) -> Client:
    return Client("https://broker:8770/", "ist_secret", wire)


def test_it_registers_with_its_token() -> None:
    wire = Wire()
    _client(wire).register("KEY")
    method, url, headers, body, _ = wire.asked[0]
    assert (method, url) == ("POST", "https://broker:8770/v1/agent/register")
    assert isinstance(body, dict)
    assert body["public_key"] == "KEY"
    assert headers["Authorization"] == "Bearer ist_secret"


def test_it_says_what_it_can_in_the_words_of_the_schema() -> None:
    from isthmus.schema import gateway as schema

    wire = Wire()
    Client("https://broker:8770/", "ist_secret", wire, software="1.2.3").register("A" * 43 + "=")
    said = schema.AgentRegister.model_validate(wire.asked[0][3])
    assert (said.document_versions, said.features, said.software) == ([1, 2], ["gateway-peers"], "1.2.3")


class OldWire(Wire):
    """A broker of 0.1.0: refuses what it has not heard of."""

    def __call__(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout_s: float
    ) -> tuple[int, bytes]:
        super().__call__(method, url, headers, body, timeout_s)
        known = {"public_key", "applied_generation", "peers"}
        if set(json.loads(body or b"{}")) - known:
            return 400, b'{"error": {"code": "invalid_request", "message": "extra"}}'
        return 204, b""


def test_a_broker_of_0_1_0_is_told_what_it_knows() -> None:
    wire = OldWire()
    client = _client(wire)
    client.register("KEY")
    assert wire.asked[-1][3] == {"public_key": "KEY"}
    client.status(3, [], ["it could not"])
    assert len(wire.asked) == 3


def test_a_refusal_of_another_kind_is_not_taken_for_an_old_broker() -> None:
    wire = Wire(401, {"error": {"code": "unauthenticated", "message": "no"}})
    with pytest.raises(Refused):
        _client(wire).register("KEY")
    assert len(wire.asked) == 1


def test_what_could_not_be_applied_is_told_as_far_as_the_schema_takes_it() -> None:
    from isthmus.schema import gateway as schema

    wire = Wire()
    _client(wire).status(9, [], ["x" * 1000] * 100)
    report = schema.AgentStatus.model_validate(wire.asked[0][3])
    assert report.problems == ["x" * 300] * 20


def test_a_long_poll_waits_longer_than_the_broker_does() -> None:
    wire = Wire()
    assert _client(wire).document(7, 25) is None
    _, url, _, _, timeout_s = wire.asked[0]
    assert url.endswith("/v1/agent/document?after=7&wait=25")
    assert timeout_s > 25


def test_a_document_is_read() -> None:
    document = plan(GatewaySpec("gw", 3, ("10.10.2.0/24",)), [])
    assert _client(Wire(200, json.loads(document.to_json()))).document(0, 0) == document


@pytest.mark.parametrize("body", [{"generation": 1}, [], "text"])
def test_an_answer_that_is_no_document_is_not_taken_for_one(body: object) -> None:
    with pytest.raises(Unreadable):
        _client(Wire(200, body)).document(0, 0)


def test_an_enrolment_is_forwarded_and_read() -> None:
    body = {
        "peer_id": "p",
        "address": "10.10.2.5",
        "allowed_ips": ["10.10.0.0/16"],
        "generation": 4,
        "more": 1,
    }
    wire = Wire(200, body)
    assert _client(wire).enrol("169.254.64.5", "KEY") == Enrolled("p", "10.10.2.5", ("10.10.0.0/16",), 4)
    assert wire.asked[0][3] == {"address": "169.254.64.5", "public_key": "KEY"}


def test_the_report_has_the_fields_of_the_schema() -> None:
    from isthmus.schema import gateway as schema

    wire = Wire()
    _client(wire).status(9, [LivePeer("A" * 43 + "=", "", frozenset(), 5, 6, 7, 0)])
    report = schema.AgentStatus.model_validate(wire.asked[0][3])
    assert report.applied_generation == 9
    assert (report.peers[0].last_handshake, report.peers[0].rx_bytes, report.peers[0].tx_bytes) == (5, 6, 7)


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_a_broker_in_trouble_is_unavailable(status: int) -> None:
    with pytest.raises(Unavailable, match="busy"):
        _client(Wire(status, {"error": {"code": "x", "message": "busy"}})).register("KEY")


@pytest.mark.parametrize(
    ("status", "body"), [(403, {"error": {"code": "no", "message": "never"}}), (404, "<html>")]
)
def test_a_refusal_is_final(status: int, body: object) -> None:
    with pytest.raises(Refused) as caught:
        _client(Wire(status, body)).register("KEY")
    assert caught.value.status == status
    assert "ist_secret" not in str(caught.value)


def test_nobody_at_the_other_end_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="cannot reach"):
        Client("http://127.0.0.1:1", "t", UrllibTransport()).register("KEY")


def test_an_end_that_hangs_up_is_unavailable() -> None:
    class HangUp(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), HangUp) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(Unavailable):
            Client(f"http://127.0.0.1:{server.server_port}", "t", UrllibTransport()).register("KEY")
        thread.join()


def test_a_url_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="https://"):
        Client("file:///etc/passwd", "t", Wire())


def test_a_redirect_is_not_followed_with_the_token() -> None:
    asked: list[str] = []

    class Redirect(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(302)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Redirect) as server:
        server.timeout = 5

        def serve() -> None:
            for _ in range(2):
                server.handle_request()

        thread = threading.Thread(target=serve)
        thread.start()
        client = Client(f"http://127.0.0.1:{server.server_port}", "t", UrllibTransport())
        for _ in range(2):
            with pytest.raises(Refused) as caught:
                client.document(0, 0)
            assert caught.value.status == 302
        thread.join()
    assert asked == ["/v1/agent/document?after=0&wait=0"] * 2
