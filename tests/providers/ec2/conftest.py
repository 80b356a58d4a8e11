"""A moto server, and a wire between it and the provider that can lose answers or make errors of its own."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import boto3
import pytest
from botocore.loaders import JSONFileLoader
from moto.server import ThreadedMotoServer

from providers.ec2 import Ec2Provider
from providers.port import ImageSpec, SiteContext, VMSpec

REGION = "eu-central-1"


class Wire:
    """Forwards to moto. ``plan[action]`` is a list of what to do with that action's next calls:

    ``"lose"``: do it, but lose the answer; ``"refuse"``: hang up before; ``(status, code)``: an error answer.
    """

    def __init__(self, host: str, port: int) -> None:
        self.plan: dict[str, list[object]] = {}
        self.launched: dict[str, tuple[int, bytes]] | None = None
        """By ClientToken, where launches are to be told apart by it, as EC2 does and moto does not."""
        self._launching = threading.Lock()
        self.seen: list[str] = []
        self.forms: list[dict[str, list[str]]] = []
        wire = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def forward(self, body: bytes) -> tuple[int, bytes]:
                onward = http.client.HTTPConnection(host, port, timeout=20)
                onward.request("POST", self.path, body, dict(self.headers))
                response = onward.getresponse()
                status, answer = response.status, response.read()
                onward.close()
                return status, answer

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                form = parse_qs(body.decode())
                action = form["Action"][0]
                wire.seen.append(action)
                wire.forms.append(form)
                order = wire.plan[action].pop(0) if wire.plan.get(action) else None
                if order == "refuse":
                    self.close_connection = True
                    return
                if isinstance(order, tuple):
                    status, code = order
                    answer = (
                        f"<Response><Errors><Error><Code>{code}</Code><Message>made up.</Message></Error></Errors>"
                        "<RequestID>r</RequestID></Response>"
                    ).encode()
                elif action == "RunInstances" and wire.launched is not None:
                    with wire._launching:
                        token = form["ClientToken"][0]
                        if token not in wire.launched:
                            wire.launched[token] = self.forward(body)
                        status, answer = wire.launched[token]
                else:
                    status, answer = self.forward(body)
                if order == "lose":
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(scope="session", autouse=True)
def models_are_read_once() -> Iterator[None]:
    """Each boto3 session reads megabytes of JSON for itself; with dozens of clients that is most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JSONFileLoader, "load_file", staticmethod(cache(JSONFileLoader().load_file)))
        yield


@pytest.fixture(scope="session")
def moto() -> Iterator[tuple[str, int]]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()
    server.stop()


@pytest.fixture
def wire(moto: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_CA_BUNDLE", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    reset = http.client.HTTPConnection(*moto, timeout=20)
    reset.request("POST", "/moto-api/reset")
    assert reset.getresponse().status == 200
    reset.close()
    wire = Wire(*moto)
    yield wire
    wire.close()


class ManualClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def make(wire: Wire, clock: ManualClock, tmp_path: Path) -> Iterator[Callable[..., Ec2Provider]]:
    """Makes providers on the wire; keyword arguments are options that are added or, if None, left out."""
    made: list[Ec2Provider] = []

    def make(
        *, broker_id: str = "b-1", credentials: dict[str, str] | None = None, **changed: object
    ) -> Ec2Provider:
        options: dict[str, object] = {
            "endpoint": wire.endpoint,
            "region": REGION,
            "instance_types": ["t3.small", "t3.medium"],
            **changed,
        }
        provider = Ec2Provider(
            SiteContext(
                broker_id=broker_id,
                site_id="site-1",
                site_name="aws",
                options={name: value for name, value in options.items() if value is not None},
                credentials={"access_key_id": "AKIA1", "secret_access_key": "hush"}
                if credentials is None
                else credentials,
                cache_dir=str(tmp_path),
                call_timeout_s=12,
            ),
            clock=clock,
        )
        made.append(provider)
        return provider

    yield make
    for provider in made:
        provider.close()


@pytest.fixture(scope="session")
def ec2(moto: tuple[str, int]) -> Any:
    """A plain boto3 client of the same cloud."""
    return boto3.client(
        "ec2",
        endpoint_url=f"http://{moto[0]}:{moto[1]}",
        region_name=REGION,
        aws_access_key_id="AKIA1",
        aws_secret_access_key="hush",
    )


@pytest.fixture(scope="session")
def ami(ec2: Any) -> str:
    return str(ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"])


@pytest.fixture
def spec(ami: str) -> Callable[..., VMSpec]:
    """Makes specs on an AMI that moto has."""

    def spec(vm_id: str = "vm-00000000000000001", **changed: Any) -> VMSpec:
        values: dict[str, Any] = {
            "id": vm_id,
            "uuid": "6f6f0a3e-5f0c-5a57-9a3c-0123456789ab",
            "token": f"op-{vm_id}",
            "name": "web-1",
            "host": f"{REGION}a/t3.small",
            "vcpus": 1,
            "mem_mb": 1024,
            "disk_gb": 10,
            "image": ImageSpec(id="img-1", name="debian", remote_id=ami),
            "instance_type": "t3.small",
        }
        return VMSpec(**{**values, **changed})

    return spec
