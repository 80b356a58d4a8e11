"""A broker on either database, with simulated sites, a clock that moves when told, and no engine.

Everything is reached through the ``stage`` fixture, so that tests import nothing from here but types, for their checker.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest
import structlog
from sqlalchemy import delete, select

from broker import (
    flavor,
    gateway,
    image,
    launch,
    network,
    operation,
    peer,
    policy,
    project,
    queue,
    site,
    token,
    vm,
)
from broker.actor import SYSTEM, Actor
from broker.broker import Broker
from broker.clock import ManualClock
from broker.engine.advance import Pause
from broker.engine.lease import LeaseEngine
from broker.sealing import Sealer
from broker.settings import Database, Settings, Timing
from broker.size import Size
from broker.states import OperationState
from broker.store import AddressRow, HostRow, NICRow, OperationRow, PeerRow, Row, Store, VMRow
from lab.postgresql import PostgreSQL
from providers.simulated import SimulatedProvider, SimulatedVM, World
from vpn import keys

Found = TypeVar("Found")

START = datetime(2030, 1, 1, tzinfo=UTC)

OPEN = """\
version: 1
burst:
  to: [cloud]
  open: {any: ['queue.length >= 0']}
  close: {all: ['queue.length < 0']}
"""
"""A policy that is open at once, and never closes."""


# -- databases --------------------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def plain_logs() -> Iterator[None]:
    """Logs as plain lines: coloured tracebacks cost more than the tests."""
    before = structlog.get_config()
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()],
        cache_logger_on_first_use=False,
    )
    yield
    structlog.configure(**before)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    server = PostgreSQL(Path(tempfile.mkdtemp(prefix="isthmus-postgresql-")))
    try:
        server.start()
        server.execute("CREATE DATABASE template_isthmus")
        store = Store(server.url("template_isthmus"))
        store.upgrade()
        store.close()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def emptied(postgresql: PostgreSQL) -> Callable[[], str]:
    """Gives the URL of a database with the schema and nothing in it: the one of the test before, if its schema is still that,
    since to make one takes ten times as long as to empty it."""
    statements = "; ".join(str(delete(table)) for table in Row.metadata.sorted_tables)
    kept: list[str] = []

    def connected() -> psycopg.Connection[Any]:
        return psycopg.connect(kept[0].replace("+psycopg", ""), autocommit=True)

    def revision() -> list[Any]:
        with connected() as connection:
            return connection.execute("SELECT version_num FROM alembic_version").fetchall()

    def renew() -> None:
        kept[:] = [postgresql.database(template="template_isthmus")]

    renew()
    newest = revision()

    def empty() -> str:
        if revision() != newest:
            renew()
        with connected() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            connection.execute("DROP SCHEMA IF EXISTS dbos CASCADE")
            # Without a look at foreign keys: rows refer to each other in circles.
            connection.execute("SET session_replication_role = replica")
            connection.execute(statements.encode())
            connection.execute("SELECT setval(oid::regclass, 1, false) FROM pg_class WHERE relkind = 'S'")
        return kept[0]

    return empty


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database(request: pytest.FixtureRequest) -> str:
    """Each test that touches the store runs on both."""
    return str(request.param)


@pytest.fixture
def empty_url(database: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database with nothing in it."""
    if database == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.sqlite3'}"
        return
    server: PostgreSQL = request.getfixturevalue("postgresql")
    url = server.database()
    yield url
    server.drop(url)


@pytest.fixture
def url(database: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database with the schema."""
    if database == "sqlite":
        path = tmp_path / "isthmus.sqlite3"
        shutil.copyfile(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"
        return
    emptied: Callable[[], str] = request.getfixturevalue("emptied")
    yield emptied()


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = Store(url)
    yield opened
    opened.close()


# -- the stage --------------------------------------------------------------------------------------


class Agent:
    """The gateway's agent and the burst VMs behind it, played on the broker's own functions."""

    def __init__(self, stage: Stage, actor: Actor, key: str) -> None:
        self.stage = stage
        self.actor = actor
        self.key = key
        self.awake = True
        self.guests_enrol = True
        self.guest_keys: dict[str, str] = {}
        self._up: set[str] = set()

    def turn(self) -> None:
        """Apply the newest document, say so, and let VMs that run post their keys."""
        if not self.awake:
            return
        broker = self.stage.broker
        document = gateway.document(broker, self.actor)
        assert document.problems() == []
        gateway.report(broker, self.actor, document.generation, [])
        if not self.guests_enrol:
            return
        with broker.store.reading() as session:
            waiting = list(session.scalars(select(PeerRow).where(PeerRow.state == "bootstrap")))
        shown = {entry.id for entry in document.peers}
        running = {
            found.vm_id
            for world in self.stage.worlds.values()
            for found in world.live_vms()
            if found.state == "running"
        }
        for row in waiting:
            # A guest needs a moment after its boot: it posts its key the second time it is looked at.
            if row.id in shown and row.vm_id in self._up & running:
                _, public = keys.generate()
                self.guest_keys[row.vm_id] = public
                peer.enrol(broker, self.actor, row.bootstrap_address, public)
        self._up = running


class Stage:
    """A broker, its people and its simulated sites."""

    def __init__(self, folder: Path, url: str, **timing: float) -> None:
        self.folder = folder
        self.url = url
        Sealer.create_file(folder / "key")
        self.clock = ManualClock(START)
        self._numbers: defaultdict[str, Any] = defaultdict(lambda: itertools.count(1))
        self.settings = Settings(data_dir=folder, database=Database(url=url), timing=Timing(**timing))
        self.worlds: dict[str, World] = {}
        self.sites: dict[str, str] = {}
        self.agents: list[Agent] = []
        self.broker = self.another()
        self.driver = self.driver_of(self.broker)
        self.owner = project.create(self.broker, SYSTEM, name="lab")
        self.stranger = project.create(self.broker, SYSTEM, name="elsewhere")
        self.admin = Actor(self.owner.id, "admin", "ada")
        self.member = Actor(self.owner.id, "member", "mel")
        self.reader = Actor(self.owner.id, "reader", "rita")
        self.outsider = Actor(self.stranger.id, "member", "otto")

    # Parts

    def next_id(self, prefix: str) -> str:
        return f"{prefix}-{next(self._numbers[prefix]):017x}"

    def another(self) -> Broker:
        """Another broker on the same database, as a second process would be."""
        kind = partial(
            SimulatedProvider, clock=lambda: self.clock.now().timestamp(), sleep=lambda s: self.wait(s)
        )
        made = Broker(
            self.settings,
            store=Store(self.url),
            clock=self.clock,
            ids=self.next_id,
            kinds={"simulated": lambda: kind},
        )
        self._made = [*getattr(self, "_made", []), made]
        return made

    def driver_of(self, broker: Broker) -> LeaseEngine:
        driver = LeaseEngine(broker, holder=f"driver-{len(self._made)}")
        self._drivers = [*getattr(self, "_drivers", []), driver]
        return driver

    def close(self) -> None:
        for driver in self._drivers:
            driver.claims.stop()
        for broker in self._made:
            broker.close()
        SimulatedProvider.forget_worlds()

    def wait(self, seconds: float) -> None:
        self.clock.set(self.clock.now() + timedelta(seconds=seconds))

    # What an admin sets up

    def catalogue(self) -> None:
        """An image, flavors, and a network."""
        disk = self.folder / "disk.raw"
        disk.write_bytes(b"a disk\n" * 100)
        image.create(self.broker, self.admin, name="tiny", path=str(disk), format="raw", sites={})
        flavor.create(self.broker, self.admin, name="small", size=Size(vcpus=2, mem_mb=1024, disk_gb=10))
        flavor.create(self.broker, self.admin, name="large", size=Size(vcpus=8, mem_mb=4096, disk_gb=40))
        network.create(self.broker, self.admin, name="net", cidr="10.20.0.0/16")

    def add_site(self, name: str, **options: Any) -> World:
        row = site.create(self.broker, self.admin, name=name, kind="simulated", options=options)
        self.sites[name] = row.id
        self.worlds[name] = SimulatedProvider.world(row.id)
        return self.worlds[name]

    def add_local(
        self, hosts: int = 2, cpus: float = 16, name: str = "campus", part: int = 1, **options: Any
    ) -> World:
        world = self.add_site(name, hosts=hosts, attributes={"cpu_total": float(cpus)}, **options)
        network.add_subnet(
            self.broker, self.admin, "net", site_ref=name, cidr=f"10.20.{part}.0/24", mode="nat"
        )
        return world

    def add_cloud(self, *, policy_text: str | None = OPEN, **options: Any) -> World:
        """A cloud site, a tunnel to it, a gateway with its agent, and a policy that lets VMs burst."""
        types = options.pop(
            "types",
            {
                "t.small": {"vcpus": 2, "mem_mb": 2048, "price_hour": 0.05},
                "t.large": {"vcpus": 8, "mem_mb": 8192, "price_hour": 0.2},
            },
        )
        world = self.add_site("cloud", elastic=True, zones=["z1"], types=types, **options)
        image.map_sites(self.broker, self.admin, "tiny", {"cloud": "ami-1"})
        network.add_subnet(
            self.broker, self.admin, "net", site_ref="cloud", cidr="10.20.128.0/24", mode="tunnel"
        )
        _, secret = gateway.create(
            self.broker,
            self.admin,
            name="gate",
            site_ref="campus",
            network_ref="net",
            endpoint="203.0.113.7:51820",
        )
        agent = Agent(self, token.authenticate(self.broker, secret), keys.generate()[1])
        gateway.register(self.broker, agent.actor, agent.key)
        agent.turn()
        self.agents.append(agent)
        if policy_text is not None:
            policy.apply(self.broker, self.admin, policy_text)
        return world

    # What people ask for

    def request(
        self, name: str | None = "web", actor: Actor | None = None, **asked: Any
    ) -> tuple[VMRow, OperationRow]:
        asked.setdefault("flavor_ref", "small")
        asked.setdefault("image_ref", "tiny")
        return launch.create(self.broker, actor or self.member, name=name, **asked)

    def create(self, name: str = "web", **asked: Any) -> VMRow:
        """A VM whose creation is over, well."""
        row, task = self.request(name, **asked)
        self.finish(task)
        return self.vm(row.id)

    def burst(self, name: str = "web", **asked: Any) -> VMRow:
        """A VM in the cloud."""
        row = self.create(name, requirements="elastic", **asked)
        assert row.elastic
        return row

    # How it goes on

    def step(self, task: OperationRow | str, *, driver: LeaseEngine | None = None) -> Pause | None:
        queue.place_pending(self.broker)
        return (driver or self.driver).step(task if isinstance(task, str) else task.id)

    def drive(
        self,
        task: OperationRow | str,
        *,
        most_s: float = 3600,
        until: Callable[[], bool] | None = None,
        phases: int = 1,
    ) -> OperationRow:
        """Drive an operation until it is over (or ``until`` holds), with agents at work and time passing; so many ``phases`` at a
        time."""
        task_id = task if isinstance(task, str) else task.id
        began = self.clock.now()
        for _ in range(2000):
            if until is not None and until():
                break
            queue.place_pending(self.broker)
            pause = self.driver.step(task_id, most=phases)
            if pause is None:
                break
            for agent in self.agents:
                agent.turn()
            if pause.seconds != 0:
                self.broker.signals.set("place")
                # No longer than an agent sleeps: a gateway that was seen stays up.
                self.wait(min(pause.seconds or 30.0, 60.0))
            if (self.clock.now() - began).total_seconds() > most_s:
                break
        return self.operation(task_id)

    def finish(self, task: OperationRow | str) -> OperationRow:
        """Drive an operation to its good end."""
        row = self.drive(task)
        assert row.state == OperationState.DONE, f"{row.kind} is {row.state} in {row.phase}: {row.message}"
        return row

    def finish_all(self) -> None:
        """Drive all operations that are under way."""
        with self.broker.store.reading() as session:
            tasks = list(session.scalars(select(OperationRow.id).where(OperationRow.state == "running")))
        for task in tasks:
            self.finish(task)

    # What is

    def vm(self, ref: str) -> VMRow:
        return vm.get(self.broker, self.admin, ref)

    def operation(self, task_id: str) -> OperationRow:
        return operation.get(self.broker, self.admin, task_id)

    def task_of(self, row: VMRow) -> OperationRow:
        """The newest operation on a VM."""
        return self.operation(str(self.vm(row.id).operation_id))

    def host(self, name: str) -> HostRow:
        with self.broker.store.reading() as session:
            return session.scalars(select(HostRow).where(HostRow.name == name)).one()

    def events(self, *, kind: str | None = None, target: str | None = None) -> list[str]:
        from broker import event

        return [
            row.kind
            for row in event.list_events(self.broker, self.admin, kind=kind, target=target, limit=10_000)
        ]

    def machines(self, vm_id: str) -> list[SimulatedVM]:
        """What exists of a VM in all the sites."""
        return [found for world in self.worlds.values() for found in world.live_vms() if found.vm_id == vm_id]

    def holdings(self, vm_id: str) -> dict[str, int]:
        """What a VM holds: machines at providers, leased addresses, live peers, and room on a host."""
        with self.broker.store.reading() as session:
            row = session.get_one(VMRow, vm_id)
            return {
                "machines": len(self.machines(vm_id)),
                "leases": len(
                    session.scalars(
                        select(AddressRow.id)
                        .join(NICRow, NICRow.id == AddressRow.nic_id)
                        .where(NICRow.vm_id == vm_id)
                    ).all()
                ),
                "peers": len(
                    session.scalars(
                        select(PeerRow.id).where(
                            PeerRow.vm_id == vm_id, PeerRow.state.in_(("bootstrap", "enrolled"))
                        )
                    ).all()
                ),
                "claims": int(row.host_id is not None and row.state != "terminated"),
            }

    @staticmethod
    def there(found: Found | None) -> Found:
        """What is there, as it must be."""
        assert found is not None
        return found

    def nothing_left(self, vm_id: str) -> bool:
        return not any(self.holdings(vm_id).values())


@pytest.fixture
def bare_stage(tmp_path: Path, url: str) -> Iterator[Stage]:
    """A broker with two projects and nothing else."""
    made = Stage(tmp_path, url)
    yield made
    made.close()


@pytest.fixture
def stage(bare_stage: Stage) -> Stage:
    """A broker with an image, flavors, a network and two local hosts of 16 cores."""
    bare_stage.catalogue()
    bare_stage.add_local()
    return bare_stage


@pytest.fixture
def hybrid(stage: Stage) -> Stage:
    """The same with a cloud, a gateway and an open policy."""
    stage.add_cloud()
    return stage


@pytest.fixture
def policy_open() -> str:
    return OPEN


@pytest.fixture
def stage_class() -> type[Stage]:
    return Stage
