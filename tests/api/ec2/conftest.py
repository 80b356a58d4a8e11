"""A broker on simulated hosts with the EC2 face on a loopback port, and clients of it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import pytest
import uvicorn
from botocore.config import Config
from botocore.loaders import JSONFileLoader

from api.ec2 import create_app
from broker import accesskey, flavor, image, keypair, network, project, queue, site
from broker.actor import SYSTEM, Actor
from broker.broker import Broker
from broker.engine.lease import LeaseEngine
from broker.sealing import Sealer
from broker.settings import Ec2, Settings
from broker.size import Size
from broker.store import Store
from providers.simulated import SimulatedProvider

REGION = "lab-1"
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDMmqOD3D8j3yqXBEVAhcYSg4+sZaMS8uQd+pZ0Q0F0g me@example"


def engine_at_work(broker: Broker) -> LeaseEngine:
    """An engine that drives what is asked for and places what waits, and has no other duties."""
    engine = LeaseEngine(broker)
    engine.schedule("place", 10.0, lambda: queue.place_pending(broker))
    engine.start()
    return engine


@dataclass
class Face:
    """The face, a project's key to it, and what stands behind it."""

    broker: Broker
    actor: Actor
    account: str
    endpoint: str
    port: int
    key: str
    secret: str
    ami: str

    def client(self, key: str = "", secret: str = "", region: str = REGION) -> Any:
        config = Config(
            retries={"total_max_attempts": 1},
            ignore_configured_endpoint_urls=True,  # type: ignore[call-arg]  # the stubs lag behind
        )
        return boto3.session.Session().client(
            "ec2",
            endpoint_url=self.endpoint,
            region_name=region,
            aws_access_key_id=key or self.key,
            aws_secret_access_key=secret or self.secret,
            config=config,
        )


@pytest.fixture(scope="session", autouse=True)
def models_are_read_once() -> Iterator[None]:
    """Each boto3 session reads megabytes of JSON for itself; with dozens of clients that is most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JSONFileLoader, "load_file", staticmethod(cache(JSONFileLoader().load_file)))
        yield


@pytest.fixture(scope="module")
def face(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Face]:
    folder = tmp_path_factory.mktemp("face")
    Sealer.create_file(folder / "key")
    settings = Settings(data_dir=folder, ec2=Ec2(region=REGION))
    store = Store(settings.database_url)
    store.upgrade()
    broker = Broker(settings, store=store, kinds={"simulated": lambda: SimulatedProvider})
    owner = project.create(broker, SYSTEM, name="default")
    actor = Actor(project_id=owner.id, role="admin", name="test")
    hosts = {"hosts": 4, "attributes": {"cpu_total": 64, "mem_total_mb": 262144}}
    site.create(broker, SYSTEM, name="campus", kind="simulated", options=hosts)
    site.create(
        broker, SYSTEM, name="annex", kind="simulated", options={"hosts": 1, "attributes": {"cpu_total": 1}}
    )
    for name, vcpus, mem_mb in (("t3.nano", 1, 512), ("t3.small", 2, 2048), ("huge", 128, 1024)):
        flavor.create(broker, SYSTEM, name=name, size=Size(vcpus=vcpus, mem_mb=mem_mb, disk_gb=10))
    net = network.create(broker, SYSTEM, name="lan", cidr="10.10.0.0/16")
    network.add_subnet(broker, SYSTEM, net.id, site_ref="campus", cidr="10.10.1.0/24")
    network.add_subnet(broker, SYSTEM, net.id, site_ref="annex", cidr="10.10.2.0/24")
    disk = folder / "tiny.raw"
    disk.write_bytes(b"\0" * 1024)
    row = image.create(broker, SYSTEM, name="tiny", path=str(disk), format="raw")
    keypair.create(broker, actor, name="me", public_key=PUBLIC_KEY)
    key, secret = accesskey.create(broker, actor, role="member")
    engine = engine_at_work(broker)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    server = uvicorn.Server(
        uvicorn.Config(create_app(broker), log_config=None, lifespan="off", timeout_graceful_shutdown=2)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield Face(
            broker=broker,
            actor=Actor(project_id=owner.id, role="member", name=key.id),
            account=owner.account,
            endpoint=f"http://127.0.0.1:{port}",
            port=port,
            key=key.id,
            secret=secret,
            ami=row.id.replace("img-", "ami-"),
        )
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()
        broker.engine = None
        engine.stop()
        broker.close()


@pytest.fixture(scope="module")
def ec2(face: Face) -> Any:
    return face.client()


@pytest.fixture(autouse=True)
def no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_PROFILE", "AWS_CA_BUNDLE", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))


def wait_until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """What the condition gives when it is true at last."""
    until = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < until, "it did not come true in time"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def until() -> Callable[..., Any]:
    return wait_until


@pytest.fixture(scope="session")
def engine_of() -> Callable[[Broker], LeaseEngine]:
    return engine_at_work
