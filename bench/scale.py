"""What a broker costs with 3,200 hosts and 100,000 VMs: placement, lists, the reconciler, the policy, and being idle.

The site is simulated, so that what is measured is the broker. Goals are for two cores and SQLite. The rounds, the
reconciler and the policy are measured in this process; HTTP and idle time with ``isthmus serve`` in another, and what waits in
one more. ``--database URL`` takes an empty database of yours (PostgreSQL); ``--vms N`` fewer VMs; ``--profile``
prints where the time goes.
"""

from __future__ import annotations

import argparse
import cProfile
import logging
import multiprocessing
import os
import pstats
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import IPv4Address
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import structlog
from sqlalchemy import delete, event, func, insert, select, update

import isthmus
from bench._counted import Counted
from bench._served import COMMAND, free_port
from broker import (
    burst,
    claim,
    flavor,
    host,
    image,
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
from broker.ids import mac_of, vm_uuid
from broker.sealing import Sealer
from broker.settings import Settings
from broker.size import Size
from broker.states import VMState
from broker.store import AddressRow, HostRow, LabelRow, NICRow, OperationRow, Store, VMRow
from providers import port
from providers.simulated import SimulatedProvider, SimulatedVM

HOSTS = 3200
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
CPUS = 128.0

POLICY = """\
version: 1
placement:
  rank: '(elastic ? -1000 * price_hour : 100) + 10 * cpu_free / cpu_total'
burst:
  to: [cloud]
  open: {any: ['queue.wait_p95 > 60', 'local.cpu_used > 0.90']}
  close: {all: ['local.cpu_used < 0.60'], for: 15m}
"""

_FIRST = IPv4Address("10.16.0.10")

# As long as the list that a server's CPU reports.
_FLAGS = [f"flag{number:02d}" for number in range(90)] + ["avx2", "vmx"]


@dataclass
class Row:
    """A line of the table. ``goal`` is the most that ``value`` may be."""

    what: str
    value: float
    unit: str
    goal: float | None = None
    note: str = ""


def main() -> int:
    """Print the table; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", default="", help="an empty database; SQLite in a scratch directory")
    parser.add_argument("--profile", action="store_true", help="print a profile of what runs in this process")
    parser.add_argument("--vms", type=int, default=VMS, help="how many VMs are at rest")
    asked = parser.parse_args()
    logging.disable(logging.INFO)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as folder:
        settings = _settings(Path(folder), asked.database)
        print(f"{HOSTS} hosts, {asked.vms} VMs at rest")
        print(f"{'what':44}{'':>10}  {'':12}{'goal':>8}")
        missed: list[Row] = []
        for row in _measure(settings, asked.profile, asked.vms):
            goal = "" if row.goal is None else f"{row.goal:g}"
            print(f"{row.what:44}{row.value:10.3f}  {row.unit:12}{goal:>8}  {row.note}".rstrip(), flush=True)
            if row.goal is not None and row.value > row.goal:
                missed.append(row)
    print(f"goals missed: {', '.join(row.what for row in missed)}" if missed else "goals met")
    return int(bool(missed))


def _measure(settings: Settings, profile: bool, vms: int) -> Iterator[Row]:
    broker = Broker(settings, store=_store(settings), kinds={"simulated": lambda: SimulatedProvider})
    try:
        admin, secret = _people(broker)
        yield from in_process(broker, admin, profiled if profile else timed, vms)
    finally:
        broker.close()
    if not profile:
        yield from served(settings, secret, vms)
        yield from waiting()


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
    yield Row(f"add a site of {HOSTS} hosts", timed("add", lambda: _sites(broker, admin)), "s", 8)
    _catalogue(broker, admin)
    _fill(broker, admin, vms)
    populate_world(broker)
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
        _forget(broker, [row.id for row, _ in made])
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
    _forget(broker, list(ids))  # what their moves cost would be counted as idle time


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
        {
            "data_dir": folder,
            "database": {"url": database},
            "listen": {"native_port": free_port(), "ec2_port": free_port()},
            "log": {"level": "warning"},
        }
    )


def _store(settings: Settings) -> Store:
    store = Store(settings.database_url)
    store.own(settings.data_dir / "lock")
    store.upgrade()
    return store


def _people(broker: Broker) -> tuple[Actor, str]:
    owner = project.create(broker, SYSTEM, name="lab")
    admin = Actor(owner.id, "admin", "ada")
    _, secret = token.create(broker, admin, name="bench", role="admin")
    return admin, secret


def _sites(broker: Broker, admin: Actor) -> None:
    common = {"cpu_total": CPUS, "mem_total_mb": 1048576.0, "cpu_model": "EPYC", "cpu_flags": _FLAGS}
    # What a site of machines is given: a line for each of them.
    hosts = [
        {
            "name": f"host-{n:04d}",
            "attributes": {"rack": f"r{n // 40}", "uri": f"qemu+ssh://root@host-{n:04d}/"},
        }
        for n in range(HOSTS)
    ]
    options: dict[str, Any] = {"hosts": hosts, "attributes": common}
    site.create(broker, admin, name="campus", kind="simulated", options=options)
    types = {
        f"t{vcpus}": {"vcpus": vcpus, "mem_mb": 2048 * vcpus, "price_hour": 0.05 * vcpus}
        for vcpus in (2, 4, 8, 16, 32)
    }
    options = {"elastic": True, "zones": ["a", "b", "c"], "types": types}
    site.create(broker, admin, name="cloud", kind="simulated", options=options)


def _catalogue(broker: Broker, admin: Actor) -> None:
    disk = broker.settings.data_dir / "disk.raw"
    disk.write_bytes(b"a disk\n" * 100)
    image.create(broker, admin, name="tiny", path=str(disk), format="raw", sites={"cloud": "ami-1"})
    flavor.create(broker, admin, name="small", size=Size(vcpus=2, mem_mb=1024, disk_gb=10))
    network.create(broker, admin, name="net", cidr="10.0.0.0/8")
    network.add_subnet(broker, admin, "net", site_ref="campus", cidr="10.16.0.0/13", mode="nat")
    policy.apply(broker, admin, POLICY)


def _fill(broker: Broker, admin: Actor, count: int) -> None:
    """VMs that have long been running, written as rows: making each through the API is measured elsewhere."""
    made, _ = launch.create(broker, admin, name="model", image_ref="tiny", flavor_ref="small")
    with broker.store.transaction() as session:
        model = session.get_one(VMRow, made.id)
        task = session.scalars(select(OperationRow).where(OperationRow.target == made.id)).one()
        hosts = session.scalars(
            select(HostRow).where(HostRow.elastic.is_(False)).order_by(HostRow.name)
        ).all()
        net = network.find(session, admin, "net")
        subnet = network.subnet_at(session, net.id, hosts[0].site_id)
        assert subnet is not None
        vms, tasks = [], []
        nics: list[dict[str, Any]] = []
        leased: list[dict[str, Any]] = []
        now = datetime.now(UTC)
        for number in range(count):
            vm_id, task_id, at = broker.new_id("vm"), broker.new_id("op"), hosts[number % len(hosts)]
            address = str(_FIRST + number)
            vms.append(
                _values(model)
                | {
                    "id": vm_id,
                    "name": f"rest-{number:04d}",
                    "state": VMState.RUNNING,
                    "operation_id": task_id,
                }
                | {
                    "site_id": at.site_id,
                    "host_id": at.id,
                    "launch": 1,
                    "launched_at": now,
                    "created_at": now,
                }
                | {"provider_ref": vm_uuid(broker.id, vm_id)}
            )
            tasks.append(
                _values(task)
                | {"id": task_id, "target": vm_id, "state": "done", "ended_at": now, "phase": "boot"}
            )
            nic_id = broker.new_id("nic")
            nics.append(
                {"id": nic_id, "vm_id": vm_id, "position": 0, "network_id": net.id, "subnet_id": subnet.id}
                | {"mac": mac_of(nic_id), "wanted_address": None}
            )
            leased.append(
                {"id": broker.new_id("addr"), "subnet_id": subnet.id, "address": address}
                | {"nic_id": nic_id, "position": 0, "rests_until": None}
            )
        session.execute(insert(VMRow), vms)
        session.execute(insert(OperationRow), tasks)
        session.execute(insert(NICRow), nics)
        session.execute(insert(AddressRow), leased)
        labels = [
            {"noun": "vm", "resource": row["id"], "key": "shard", "value": f"s{number % 1000}"}
            for number, row in enumerate(vms)
        ]
        session.execute(insert(LabelRow), labels)
    _forget(broker, [made.id])
    claim.mend(broker)


def _values(row: VMRow | OperationRow) -> dict[str, Any]:
    return {column.key: getattr(row, column.key) for column in type(row).__table__.columns}


def _forget(broker: Broker, ids: list[str]) -> None:
    with broker.store.transaction() as session:
        of_these = select(NICRow.id).where(NICRow.vm_id.in_(ids))
        session.execute(delete(AddressRow).where(AddressRow.nic_id.in_(of_these)))
        for owner in (NICRow.vm_id, OperationRow.target, VMRow.id):
            session.execute(delete(owner.class_).where(owner.in_(ids)))
    claim.mend(broker)


def populate_world(broker: Broker) -> None:
    """Have the simulated sites run what the rows say. Of each row only what they ask for is read: the process that serves
    does this first, and its memory is measured."""
    leases: dict[str, list[list[str]]] = {}
    with broker.store.reading() as session:
        on_nics = select(NICRow.vm_id, AddressRow.subnet_id, AddressRow.address).join(
            AddressRow, AddressRow.nic_id == NICRow.id
        )
        for vm_id, subnet_id, address in session.execute(on_nics.order_by(NICRow.position)).yield_per(1000):
            leases.setdefault(vm_id, []).append([subnet_id, address])
        placed = select(
            VMRow.site_id, VMRow.provider_ref, HostRow.name, VMRow.name, VMRow.id, VMRow.vcpus, VMRow.mem_mb
        ).join(HostRow, HostRow.id == VMRow.host_id)
        placed = placed.where(VMRow.provider_ref.is_not(None))
        for site_id, ref, at, name, vm_id, vcpus, mem_mb in session.execute(placed).yield_per(1000):
            if site_id is None or ref is None:
                continue
            with SimulatedProvider.world(site_id).transaction() as state:
                state.add(
                    SimulatedVM(
                        ref=ref,
                        host=at,
                        state=port.VMState.RUNNING,
                        name=name,
                        vm_id=vm_id,
                        broker_id=broker.id,
                        vcpus=vcpus,
                        mem_mb=mem_mb,
                        leases=leases.get(vm_id, []),
                    )
                )


# -- in a process of its own ------------------------------------------------------------------------


def _serve(settings: Settings, ready: Connection) -> None:
    from api import server

    store = Store(settings.database_url)
    broker = Broker(settings, store=store, kinds={"simulated": lambda: SimulatedProvider})
    populate_world(broker)
    broker.close()
    server.serve(settings, ready=lambda urls: ready.send(urls["native"]))


@contextmanager
def _serving(settings: Settings) -> Iterator[tuple[str, int]]:
    """``isthmus serve`` over sites that run what the rows say; (URL, process id)."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(settings, there))
    process.start()
    try:
        if not here.poll(60) or process.pid is None:
            raise RuntimeError("the broker did not come up")
        yield here.recv(), process.pid
    finally:
        process.terminate()
        process.join(20)
        if process.is_alive():
            process.kill()
            process.join()


def served(settings: Settings, secret: str, vms: int) -> Iterator[Row]:
    """What users and machines notice of a broker that serves."""
    with _serving(settings) as (url, pid):
        environment = {**os.environ, "ISTHMUS_URL": url, "ISTHMUS_TOKEN": secret}
        client = isthmus.Client(environ=environment)
        time.sleep(20)  # its first passes over the sites
        before, began = _cpu_s(pid), time.perf_counter()
        time.sleep(IDLE_S)
        yield Row("idle", 100 * (_cpu_s(pid) - before) / (time.perf_counter() - began), "% of a core", 5)
        yield Row("GET /v1/hosts, all", _median(lambda: _all(client.hosts.list(), HOSTS)), "s", 3)
        yield Row("isthmus vm list", timed("", lambda: _command(environment)), "s")
        asked = _while_created(environment)
        yield Row(
            "GET /v1/vms?limit=100, p99", 1000 * asked[0], "ms", 50, f"{asked[1]} VMs a minute are created"
        )
        yield Row("memory", _memory_mb(pid), "MiB", 1500)


def _while_created(environment: dict[str, str]) -> tuple[float, int]:
    """(99th percentile of the seconds of a page of VMs, VMs that were created a minute meanwhile)."""
    over = threading.Event()
    began = time.perf_counter()

    def create(number: int) -> int:
        mine, made = isthmus.Client(environ=environment), 0
        while not over.is_set():
            due = began + made * CREATORS / PER_SECOND
            over.wait(max(0.0, due - time.perf_counter()))
            mine.vms.create(name=f"new-{number}-{made}", image="tiny", flavor="small")
            made += 1
        return made

    pages: list[float] = []
    page = Request(  # noqa: S310 - our own broker
        f"{environment['ISTHMUS_URL']}/v1/vms?limit=100",
        headers={"Authorization": f"Bearer {environment['ISTHMUS_TOKEN']}"},
    )
    with ThreadPoolExecutor(CREATORS) as threads:
        creators = [threads.submit(create, number) for number in range(CREATORS)]
        while time.perf_counter() - began < CREATING_S:
            seconds = timed("", lambda: urlopen(page, timeout=30).read())  # noqa: S310
            if time.perf_counter() - began > WARM_S:
                pages.append(seconds)
            time.sleep(0.05)
        over.set()
        made = sum(one.result() for one in creators)
    taken = time.perf_counter() - began
    return statistics.quantiles(pages, n=100)[98], int(60 * made / taken)


def waiting() -> Iterator[Row]:
    """What a broker costs while very many VMs wait for a host that there is not."""
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as folder:
        settings = _settings(Path(folder), "")
        broker = Broker(settings, store=_store(settings), kinds={"simulated": lambda: SimulatedProvider})
        admin, _ = _people(broker)
        site.create(broker, admin, name="campus", kind="simulated", options={"hosts": 4})
        site.create(broker, admin, name="cloud", kind="simulated", options={"hosts": 1})
        _catalogue(broker, admin)
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
                vms.append(_values(model) | {"id": vm_id, "name": f"wait-{number}", "operation_id": task_id})
                tasks.append(_values(first) | {"id": task_id, "target": vm_id})
            session.execute(insert(VMRow), vms)
            session.execute(insert(OperationRow), tasks)
            # What a broker that was killed in the middle of its work leaves: due at once.
            session.execute(
                insert(OperationRow),
                [
                    _values(first)
                    | {"id": broker.new_id("op"), "target": f"vm-gone-{number}", "phase": "launch"}
                    | {"next_at": datetime.now(UTC)}
                    for number in range(DUE)
                ],
            )
        claim.mend(broker)
        broker.close()
        with _serving(settings) as (_, pid):
            threads = 0
            until = time.perf_counter() + SETTLING_S
            while time.perf_counter() < until:
                threads = max(threads, len(list(Path(f"/proc/{pid}/task").iterdir())))
                time.sleep(0.2)
            yield Row(f"threads at a start, {DUE} due", threads, "", 64)
            yield Row("  until all were told why they wait", SETTLING_S + _until_quiet(pid), "s")
            before, began = _cpu_s(pid), time.perf_counter()
            time.sleep(IDLE_S)
            spent = 100 * (_cpu_s(pid) - before) / (time.perf_counter() - began)
            yield Row(f"CPU while {WAITING} wait", spent, "% of a core", 2)
            yield Row(f"memory while {WAITING} wait", _memory_mb(pid), "MiB", 300)


def _all(items: Any, expected: int) -> None:
    found = sum(1 for _ in items)
    if found < expected:
        raise RuntimeError(f"{found} of {expected} were listed")


def _command(environment: dict[str, str]) -> None:
    subprocess.run([COMMAND, "vm", "list"], env=environment, check=True, stdout=subprocess.DEVNULL)


def _median(run: Callable[[], None], times: int = 3) -> float:
    return statistics.median(timed("", run) for _ in range(times))


def _cpu_s(pid: int) -> float:
    """User and system CPU seconds of a process (proc(5), /proc/pid/stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _until_quiet(pid: int, at_most_s: float = 300.0) -> float:
    """Seconds until a process leaves the greater part of a core alone for five seconds."""
    began = time.perf_counter()
    while time.perf_counter() - began < at_most_s:
        before = _cpu_s(pid)
        time.sleep(5)
        if _cpu_s(pid) - before < 1:
            break
    return time.perf_counter() - began


def _memory_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) / 1024


if __name__ == "__main__":
    sys.exit(main())
