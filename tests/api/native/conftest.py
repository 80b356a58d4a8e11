"""The native API over a real broker on SQLite, with simulated sites and an engine of a few lines."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

import isthmus
from api.native import create_app
from broker import project, queue, token
from broker.actor import ADMIN, SYSTEM, Actor
from broker.broker import Broker
from broker.engine.lease import LeaseEngine
from broker.sealing import Sealer
from broker.settings import Settings
from broker.store import Store


@dataclass
class World:
    """A broker, its face, and a way to ask it as somebody."""

    broker: Broker
    http: TestClient
    tokens: dict[str, str]

    def ask(
        self, method: str, path: str, json: Any = None, *, role: str | None = "admin", **more: Any
    ) -> Any:
        headers = dict(more.pop("headers", {}))
        if role is not None:
            headers.setdefault("Authorization", f"Bearer {self.tokens[role]}")
        if json is not None:
            more["json"] = json
        return self.http.request(method, path, headers=headers, **more)

    def client(self, role: str = "admin") -> isthmus.Client:
        """The SDK, on this broker without a socket."""
        return isthmus.Client(
            "http://testserver",
            self.tokens[role],
            transport=self.http._transport,
            environ={"HOME": "/nowhere"},
        )

    def furnish(self) -> None:
        """A site of two hosts, an image, a flavor and a network: all that a VM needs."""
        client = self.client()
        client.sites.create("campus", "simulated", options={"hosts": 2, "boot_s": 0})
        client.flavors.create("small", vcpus=1, mem_mb=256, disk_gb=1)
        client.networks.create("lan", "10.0.0.0/16").add_subnet("campus", "10.0.1.0/24")
        client.images.create("tiny", str(self.broker.settings.data_dir / "tiny.raw"), format="raw")


def worlds(folder: Path, template: Path) -> Iterator[World]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.raw").write_bytes(b"\0" * 4096)
    Sealer.create_file(folder / "key")
    settings = Settings(data_dir=folder)
    store = Store(settings.database_url)
    shutil.copyfile(template, str(store.engine.url.database))
    broker = Broker(settings, store=store)
    engine = LeaseEngine(broker)
    engine.schedule("place", 10.0, lambda: queue.place_pending(broker))
    engine.start()
    home = project.create(broker, SYSTEM, name="default")
    other = project.create(broker, SYSTEM, name="other")
    first = Actor(project_id=home.id, role=ADMIN, name="first")
    tokens = {
        role: token.create(broker, first, name=role, project_ref=home.id, role=role)[1]
        for role in ("admin", "member", "reader")
    }
    tokens["stranger"] = token.create(broker, first, name="stranger", project_ref=other.id, role="member")[1]
    with TestClient(create_app(broker), raise_server_exceptions=False) as http:
        yield World(broker, http, tokens)
    engine.stop()
    broker.close()


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Iterator[World]:
    """A world for tests that change nothing in it."""
    yield from worlds(tmp_path_factory.mktemp("quiet") / "data", sqlite_template)


@pytest.fixture
def world(tmp_path: Path, sqlite_template: Path) -> Iterator[World]:
    yield from worlds(tmp_path / "data", sqlite_template)


@pytest.fixture
def furnished(world: World) -> World:
    world.furnish()
    return world


@pytest.fixture(scope="session")
def make_world(sqlite_template: Path) -> Callable[[Path], Iterator[World]]:
    """For fixtures of single modules."""
    return partial(worlds, template=sqlite_template)


@pytest.fixture
def only_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long polls look again when they are woken, and not by the clock."""
    monkeypatch.setattr("api.native.waiting.LOOK_AGAIN_S", 60.0)


@pytest.fixture
def later(world: World) -> Iterator[Callable[..., None]]:
    """Do something in a moment, while the test waits for it; over before the world ends."""
    timers: list[threading.Timer] = []

    def schedule(act: Callable[..., Any], *args: Any) -> None:
        timers.append(threading.Timer(0.3, act, args))
        timers[-1].start()

    yield schedule
    for timer in timers:
        timer.join(20)
