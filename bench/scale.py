"""What brokers cost with 3,200 hosts and 100,000 VMs: placement, lists, the reconciler, the policy, and being idle.

Once with one broker on SQLite, and once with two on a PostgreSQL of their own; ``--on`` names one of them. The sites are
simulated, so that what is measured is the broker. Goals are for two cores. The rounds, the reconciler and the policy are
measured in this process; HTTP and idle time with brokers that serve, each in a process of its own, and what waits with others.
``--vms N``: fewer VMs; ``--profile`` prints where the time goes.
"""

from __future__ import annotations

import argparse
import cProfile
import itertools
import logging
import multiprocessing
import os
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import structlog
from sqlalchemy import event, func, insert, select, update

import isthmus
from bench import _filled as filled
from bench._counted import Counted
from bench._filled import HOSTS, POLICY
from bench._served import COMMAND, free_port
from bench._world import IN_PROCESS, process_of_sites, shared
from broker import (
    burst,
    claim,
    flavor,
    host,
    launch,
    network,
    policy,
    pool,
    project,
    queue,
    reconcile,
    serving,
    site,
    token,
    vm,
)
from broker.actor import SYSTEM, Actor
from broker.broker import Broker
from broker.bus import Bus
from broker.sealing import Sealer
from broker.settings import Settings
from broker.states import VMState
from broker.store import HostRow, OperationRow, Store, VMRow
from lab.postgresql import SOUND, PostgreSQL

BROKERS = {"sqlite": 1, "postgresql": 2}
"""How many brokers there are on each store."""
VMS = 100_000
BURSTING = 2000
WAITING = 100_000
ROUNDS = (1, 100, 1000)
CREATORS = 4
PER_SECOND = 1000 / 60
CREATING_S = 30.0
WARM_S = 3.0
"""Before that a broker does for the first time what it then does all day."""
DUE = 5000
SETTLING_S = 60.0
IDLE_S = 20.0


@dataclass
class Row:
    """A line of the table. ``goal`` is the most that ``value`` may be."""

    what: str
    value: float
    unit: str
    goal: float | None = None
    note: str = ""


def main() -> int:
    """Print the tables; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--on", choices=BROKERS, help="the only store to measure on")
    parser.add_argument("--profile", action="store_true", help="print a profile of what runs in this process")
    parser.add_argument("--vms", type=int, default=VMS, help="how many VMs are at rest")
    asked = parser.parse_args()
    logging.disable(logging.INFO)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    missed: list[str] = []
    for on in [asked.on] if asked.on else BROKERS:
        print(f"{HOSTS} hosts, {asked.vms} VMs at rest, brokers on {on}: {BROKERS[on]}")
        print(f"{'what':44}{'':>10}  {'':12}{'goal':>8}")
        with _store_of(on) as new_database:
            for row in _measure(new_database, BROKERS[on], asked.profile, asked.vms):
                goal = "" if row.goal is None else f"{row.goal:g}"
                print(
                    f"{row.what:44}{row.value:10.3f}  {row.unit:12}{goal:>8}  {row.note}".rstrip(), flush=True
                )
                if row.goal is not None and row.value > row.goal:
                    missed.append(f"{row.what} ({on})")
    print(f"goals missed: {', '.join(missed)}" if missed else "goals met")
    return int(bool(missed))


@contextmanager
def _store_of(on: str) -> Iterator[Callable[[], str]]:
    """What makes databases: each call gives the URL of a new one; empty for SQLite in the broker's own directory."""
    if on == "sqlite":
        yield lambda: ""
        return
    server = PostgreSQL(Path(tempfile.mkdtemp(prefix="ib-pg-")), SOUND)
    try:
        server.start()
        yield server.database
    finally:
        server.stop()


def _measure(new_database: Callable[[], str], brokers: int, profile: bool, vms: int) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="ib-") as folder:
        settings = _settings(Path(folder), new_database())
        with _broker(settings) as broker:
            admin, secret = _people(broker)
            yield from in_process(broker, admin, profiled if profile else timed, vms)
        if profile:
            return
        at_rest = yield from served(settings, brokers, secret)
    with tempfile.TemporaryDirectory(prefix="ib-") as folder:
        yield from waiting(_settings(Path(folder), new_database()), brokers, at_rest)


def timed(_what: str, run: Callable[[], object]) -> float:
    """Seconds that ``run`` takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def profiled(what: str, run: Callable[[], object]) -> float:
    """As ``timed``, with a profile on standard output."""
    profile = cProfile.Profile()
    seconds = timed(what, lambda: profile.runcall(run))
    print(f"-- {what}: {seconds:.2f} s")
    pstats.Stats(profile).sort_stats("cumulative").print_stats(45)
    return seconds


# -- in this process --------------------------------------------------------------------------------


def in_process(
    broker: Broker, admin: Actor, measured: Callable[[str, Callable[[], object]], float], vms: int
) -> Iterator[Row]:
    """Fill the database, and measure what needs no face."""
    yield Row(f"add a site of {HOSTS} hosts", timed("add", lambda: filled.sites(broker, admin)), "s", 8)
    filled.catalogue(broker, admin)
    filled.fill(broker, admin, vms)
    filled.populate_world(broker)
    serving.freeze()
    yield from _looks(broker, admin, measured)
    for count in ROUNDS:
        made = launch.create_many(
            broker, admin, count=count, name=f"wait{count}", image_ref="tiny", flavor_ref="small"
        )
        what = f"placement round, {count} pending"
        _look(broker)  # as a broker that has been at work: what it keeps of the pool is up to date
        with Counted(broker.store) as counted:
            taken = measured(what, lambda: queue.place_pending(broker))
        if any(vm.get(broker, admin, row.id).host_id is None for row, _ in made):
            raise RuntimeError(f"{what}: not all were placed")
        yield Row(what, taken, "s", 0.5 + count * 0.002, str(counted))
        filled.forget(broker, [row.id for row, _ in made])
    yield from _duties(broker, measured)
    yield from _leave(broker, admin)


def _looks(
    broker: Broker, admin: Actor, measured: Callable[[str, Callable[[], object]], float]
) -> Iterator[Row]:
    """What is asked for again and again."""

    yield Row("snapshot, everything read", measured("first", lambda: _look(broker)), "s")
    yield Row("snapshot at rest", measured("rest", lambda: _look(broker)), "s", 0.02)
    with broker.store.reading() as session:
        some = session.scalars(select(VMRow.id).where(VMRow.host_id.is_not(None)).limit(100)).all()
    with broker.store.transaction() as session:
        for vm_id in some:
            session.get_one(VMRow, vm_id).priority = 1
            session.get_one(VMRow, vm_id).vcpus = 1
    yield Row("snapshot, 100 VMs changed", measured("changed", lambda: _look(broker)), "s", 0.1)
    claim.mend(broker)

    def quota() -> None:
        with broker.store.reading() as session:
            owner = project.find(session, admin, admin.project_id)
            project.check_quota(owner, flavor.find(session, "small").size * 1)

    for what, run, goal in (
        ("host.get", lambda: host.get(broker, admin, "host-0007"), 0.005),
        ("quota check", quota, 0.005),
        ("a subnet, for RunInstances", lambda: network.get(broker, admin, "net"), 0.005),
        ("100 VMs of 100,000, by name", lambda: vm.list_vms(broker, admin, name="rest-0042"), 0.05),
        ("VMs of one label, of 100,000", lambda: vm.list_vms(broker, admin, labels={"shard": "s7"}), 0.05),
    ):
        run()
        yield Row(what, measured(what, run), "s", goal)


def _look(broker: Broker) -> None:
    with broker.store.reading() as session:
        pool.snapshot(broker, session, residents=True)


def _leave(broker: Broker, admin: Actor) -> Iterator[Row]:
    """Two thousand burst VMs whose time has come."""
    with broker.store.transaction() as session:
        elastic = session.scalars(select(HostRow).where(HostRow.elastic).limit(1)).one()
        ids = session.scalars(select(VMRow.id).where(VMRow.state == VMState.RUNNING).limit(BURSTING)).all()
        long_ago = datetime.now(UTC) - timedelta(days=1)
        session.execute(
            update(VMRow)
            .where(VMRow.id.in_(ids))
            .values(elastic=True, host_id=elastic.id, site_id=elastic.site_id, launched_at=long_ago)
        )
    claim.mend(broker)
    policy.apply(broker, admin, POLICY.replace("for: 15m", "for: 0s") + "  dwell: 1s\n")
    _look(broker)  # as before the rounds
    longest = 0.0
    began: dict[int, float] = {}

    def begin(connection: Any) -> None:
        began[id(connection)] = time.perf_counter()

    def end(connection: Any) -> None:
        nonlocal longest
        if id(connection) in began and not connection.get_execution_options().get("read_only", False):
            longest = max(longest, time.perf_counter() - began.pop(id(connection)))

    for name, listener in (("begin", begin), ("commit", end)):
        event.listen(broker.store.engine, name, listener)
    taken = timed("close", lambda: burst.tick(broker)) + timed("leave", lambda: burst.tick(broker))
    for name, listener in (("begin", begin), ("commit", end)):
        event.remove(broker.store.engine, name, listener)
    with broker.store.reading() as session:
        begun = session.scalar(
            select(func.count())
            .select_from(OperationRow)
            .where(OperationRow.kind.in_(("vm.return", "vm.delete")))
        )
    yield Row(f"policy tick, {begun} burst VMs leave", taken, "s")
    yield Row("  of that: longest write transaction", longest, "s", 0.1)
    filled.forget(broker, list(ids))  # what their moves cost would be counted as idle time


def _duties(broker: Broker, measured: Callable[[str, Callable[[], object]], float]) -> Iterator[Row]:
    duties: tuple[tuple[str, Callable[[], None], float], ...] = (
        ("reconcile, nothing changed", partial(reconcile.reconcile, broker), 5.0),
        ("policy tick", partial(burst.tick, broker), 0.05),
    )
    for what, run, goal in duties:
        run()
        with Counted(broker.store) as counted:
            taken = measured(what, run)
        yield Row(what, taken, "s", goal, str(counted))


def _settings(folder: Path, database: str) -> Settings:
    Sealer.create_file(folder / "key")
    return Settings.model_validate(
        {"data_dir": folder, "database": {"url": database}, "log": {"level": "warning"}}
    )


@contextmanager
def _broker(settings: Settings) -> Iterator[Broker]:
    """A broker that does nothing by itself; on PostgreSQL it hears what others change, as one that serves."""
    store = Store(settings.database_url)
    store.own(settings.data_dir / "lock")
    store.upgrade()
    broker = Broker(settings, store=store, kinds=IN_PROCESS)
    if not store.is_sqlite:
        broker.bus = Bus(store, broker.signals)
        broker.bus.start()
    try:
        yield broker
    finally:
        if broker.bus is not None:
            broker.bus.stop()
        broker.close()


def _people(broker: Broker) -> tuple[Actor, str]:
    owner = project.create(broker, SYSTEM, name="lab")
    admin = Actor(owner.id, "admin", "ada")
    _, secret = token.create(broker, admin, name="bench", role="admin")
    return admin, secret


# -- in processes of their own ----------------------------------------------------------------------


@dataclass(frozen=True)
class Served:
    """A broker that serves: where, and in which process."""

    url: str
    pid: int

    @property
    def cpu_s(self) -> float:
        """User and system CPU seconds (proc(5), /proc/pid/stat)."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def memory_mb(self) -> float:
        """Resident memory in MiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) / 1024

    @property
    def threads(self) -> int:
        """How many threads there are."""
        return len(list(Path(f"/proc/{self.pid}/task").iterdir()))


def _serve(settings: Settings, sites: tuple[str, bytes] | None, ready: Connection) -> None:
    from api import server

    if sites is None:
        broker = Broker(settings, store=Store(settings.database_url), kinds=IN_PROCESS)
        filled.populate_world(broker)
        broker.close()
    kinds = IN_PROCESS if sites is None else shared(*sites)
    server.serve(settings, ready=lambda urls: ready.send(urls["native"]), kinds=kinds)


@contextmanager
def _serving(settings: Settings, brokers: int) -> Iterator[list[Served]]:
    """``isthmus serve``, once or beside each other, over sites that run what the rows say."""
    context = multiprocessing.get_context("spawn")
    found: list[Served] = []
    with ExitStack() as ends:
        sites = ends.enter_context(process_of_sites(settings.data_dir, settings)) if brokers > 1 else None
        for _ in range(brokers):
            listen = settings.listen.model_copy(update={"native_port": free_port(), "ec2_port": free_port()})
            here, there = context.Pipe()
            process = context.Process(
                target=_serve, args=(settings.model_copy(update={"listen": listen}), sites, there)
            )
            process.start()
            there.close()
            ends.callback(_end, process)
            if not here.poll(60) or process.pid is None:
                raise RuntimeError("the broker did not come up")
            found.append(Served(here.recv(), process.pid))
        yield found


def _end(process: BaseProcess) -> None:
    process.terminate()
    process.join(20)
    if process.is_alive():
        process.kill()
        process.join()


def served(settings: Settings, brokers: int, secret: str) -> Generator[Row, None, float]:
    """What users and machines notice of brokers that serve; of several the one that has the most to do. Returns what
    one takes at rest, in per cent of a core."""
    with _serving(settings, brokers) as found:
        environment = {**os.environ, "ISTHMUS_URL": found[0].url, "ISTHMUS_TOKEN": secret}
        client = isthmus.Client(environ=environment)
        time.sleep(20)  # their first passes over the sites
        at_rest = _busiest(found)
        yield Row("idle", at_rest, "% of a core", 5)
        yield Row("GET /v1/hosts, all", _median(lambda: _all(client.hosts.list(), HOSTS)), "s", 3)
        yield Row("isthmus vm list", timed("", lambda: _command(environment)), "s")
        p99, made = _while_created([one.url for one in found], secret)
        yield Row("GET /v1/vms?limit=100, p99", 1000 * p99, "ms", 50, f"{made} VMs a minute are created")
        yield Row("memory", max(one.memory_mb for one in found), "MiB", 1500)
    return at_rest


def _busiest(found: Sequence[Served]) -> float:
    """Per cent of a core that the busiest of them takes in a while."""
    before, began = [one.cpu_s for one in found], time.perf_counter()
    time.sleep(IDLE_S)
    taken = time.perf_counter() - began
    return max(100 * (one.cpu_s - at) / taken for one, at in zip(found, before, strict=True))


def _while_created(urls: Sequence[str], secret: str) -> tuple[float, int]:
    """(99th percentile of the seconds of a page of VMs, VMs that were created a minute meanwhile)."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    # In a process of their own: what these wait for is the broker, and not each other.
    creators = context.Process(target=_create, args=(urls, secret, there))
    creators.start()
    there.close()  # so that one that dies is not waited for
    pages: list[float] = []
    try:
        if not here.poll(60):
            raise RuntimeError("nobody creates VMs")
        here.recv()
        began = time.perf_counter()
        requests = itertools.cycle(
            Request(f"{url}/v1/vms?limit=100", headers={"Authorization": f"Bearer {secret}"})  # noqa: S310 - our own
            for url in urls
        )
        while (now := time.perf_counter()) - began < CREATING_S:
            page = next(requests)
            seconds = timed("", lambda: urlopen(page, timeout=30).read())  # noqa: S310, B023
            if now - began > WARM_S:
                pages.append(seconds)
            time.sleep(0.05)
        made: int = here.recv()
        taken = time.perf_counter() - began
    finally:
        _end(creators)
    return statistics.quantiles(pages, n=100)[98], int(60 * made / taken)


def _create(urls: Sequence[str], secret: str, answer: Connection) -> None:
    """Create VMs at the rate of ``PER_SECOND`` for ``CREATING_S``; says when it begins, and in the end how many."""
    clients = [
        isthmus.Client(environ={**os.environ, "ISTHMUS_URL": url, "ISTHMUS_TOKEN": secret})
        for url, _ in zip(itertools.cycle(urls), range(CREATORS))
    ]
    answer.send(None)
    began = time.perf_counter()

    def create(number: int) -> int:
        made = 0
        while (due := made * CREATORS / PER_SECOND) < CREATING_S:
            time.sleep(max(0.0, began + due - time.perf_counter()))
            if time.perf_counter() - began > CREATING_S:
                break
            clients[number].vms.create(
                name=f"new-{os.getpid()}-{number}-{made}", image="tiny", flavor="small"
            )
            made += 1
        return made

    with ThreadPoolExecutor(CREATORS) as threads:
        answer.send(sum(threads.map(create, range(CREATORS))))


def waiting(settings: Settings, brokers: int, at_rest: float) -> Iterator[Row]:
    """What brokers cost while very many VMs wait for a host that there is not, of several the one that has the most to do;
    ``at_rest`` is what one takes that has nothing to do."""
    with _broker(settings) as broker:
        _many_wait(broker)
    with _serving(settings, brokers) as found:
        threads = 0
        until = time.perf_counter() + SETTLING_S
        while time.perf_counter() < until:
            threads = max(threads, *(one.threads for one in found))
            time.sleep(0.2)
        yield Row(f"threads at a start, {DUE} due", threads, "", 64)
        yield Row("  until all were told why they wait", SETTLING_S + _until_quiet(found), "s")
        spent = _busiest(found)
        yield Row(f"CPU while {WAITING} wait", spent, "% of a core")
        yield Row("  of that: more than at rest", max(0.0, spent - at_rest), "% of a core", 2)
        yield Row(f"memory while {WAITING} wait", max(one.memory_mb for one in found), "MiB", 300)


def _many_wait(broker: Broker) -> None:
    admin, _ = _people(broker)
    site.create(broker, admin, name="campus", kind="simulated", options={"hosts": 4})
    site.create(broker, admin, name="cloud", kind="simulated", options={"hosts": 1})
    filled.catalogue(broker, admin)
    made, task = launch.create(
        broker,
        admin,
        name="model",
        image_ref="tiny",
        flavor_ref="small",
        requirements="cpu_total > 100000",
    )
    with broker.store.transaction() as session:
        model, first = session.get_one(VMRow, made.id), session.get_one(OperationRow, task.id)
        vms, tasks = [], []
        for number in range(WAITING - 1):
            vm_id, task_id = broker.new_id("vm"), broker.new_id("op")
            vms.append(
                filled.values(model) | {"id": vm_id, "name": f"wait-{number}", "operation_id": task_id}
            )
            tasks.append(filled.values(first) | {"id": task_id, "target": vm_id})
        session.execute(insert(VMRow), vms)
        session.execute(insert(OperationRow), tasks)
        # What a broker that was killed in the middle of its work leaves: due at once.
        session.execute(
            insert(OperationRow),
            [
                filled.values(first)
                | {"id": broker.new_id("op"), "target": f"vm-gone-{number}", "phase": "launch"}
                | {"next_at": datetime.now(UTC)}
                for number in range(DUE)
            ],
        )
    claim.mend(broker)


def _all(items: Any, expected: int) -> None:
    found = sum(1 for _ in items)
    if found < expected:
        raise RuntimeError(f"{found} of {expected} were listed")


def _command(environment: dict[str, str]) -> None:
    subprocess.run([COMMAND, "vm", "list"], env=environment, check=True, stdout=subprocess.DEVNULL)


def _median(run: Callable[[], None], times: int = 3) -> float:
    return statistics.median(timed("", run) for _ in range(times))


def _until_quiet(found: Sequence[Served], at_most_s: float = 300.0) -> float:
    """Seconds until each process leaves the greater part of a core alone for five seconds."""
    began = time.perf_counter()
    while time.perf_counter() - began < at_most_s:
        before = [one.cpu_s for one in found]
        time.sleep(5)
        if all(one.cpu_s - at < 1 for one, at in zip(found, before, strict=True)):
            break
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
