"""What a broker costs with 3,000 hosts and 5,000 VMs: placement, lists, the reconciler, the policy, and being idle.

The site is simulated, so that what is measured is the broker. Goals are for two cores and SQLite. The rounds, the
reconciler and the policy are measured in this process; HTTP and idle time with ``isthmus serve`` in another.
``--database URL`` takes an empty database of yours (PostgreSQL); ``--profile`` prints where the time goes.
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
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import delete, event, insert, select

import isthmus
from bench._served import COMMAND, free_port
from broker import burst, flavor, image, launch, network, policy, project, queue, reconcile, site, token, vm
from broker.actor import SYSTEM, Actor
from broker.broker import Broker
from broker.ids import vm_uuid
from broker.sealing import Sealer
from broker.settings import Settings
from broker.states import VMState
from broker.store import HostRow, LeaseRow, OperationRow, Store, VMRow
from providers import port
from providers.simulated import SimulatedProvider, SimulatedVM
from vpn import address as addresses

HOSTS = 3000
VMS = 5000
ROUNDS = (1, 100, 1000)
CREATED = 300
CALLERS = 8
IDLE_S = 20.0
CPUS = 32.0

POLICY = """\
version: 1
placement:
  rank: '(elastic ? -1000 * price_hour : 100) + 10 * cpu_free / cpu_total'
burst:
  to: [cloud]
  open: {any: ['queue.wait_p95 > 60', 'local.cpu_used > 0.90']}
  close: {all: ['local.cpu_used < 0.60'], for: 15m}
"""

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


class Counted:
    """Statements and transactions of a store while it is watched."""

    def __init__(self, store: Store) -> None:
        self.statements = self.writes = self.transactions = 0
        self._engine = store.engine
        self._sets: list[tuple[str, Callable[..., None]]] = [
            ("before_cursor_execute", self._statement),
            ("commit", self._commit),
        ]

    def __enter__(self) -> Counted:
        for name, listener in self._sets:
            event.listen(self._engine, name, listener)
        return self

    def __exit__(self, *_error: object) -> None:
        for name, listener in self._sets:
            event.remove(self._engine, name, listener)

    def __str__(self) -> str:
        return f"{self.transactions} transactions, {self.statements} statements, {self.writes} writes"

    def _statement(
        self, _connection: Any, _cursor: Any, text: str, parameters: Any, _context: Any, many: bool
    ) -> None:
        self.statements += 1
        if text.startswith(("INSERT", "UPDATE", "DELETE")):
            self.writes += len(parameters) if many else 1

    def _commit(self, _connection: Any) -> None:
        self.transactions += 1


def main() -> int:
    """Print the table; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", default="", help="an empty database; SQLite in a scratch directory")
    parser.add_argument("--profile", action="store_true", help="print a profile of what runs in this process")
    asked = parser.parse_args()
    logging.disable(logging.INFO)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as folder:
        settings = _settings(Path(folder), asked.database)
        print(f"{HOSTS} hosts, {VMS} VMs at rest")
        print(f"{'what':44}{'':>10}  {'':12}{'goal':>8}")
        missed: list[Row] = []
        for row in _measure(settings, asked.profile):
            goal = "" if row.goal is None else f"{row.goal:g}"
            print(f"{row.what:44}{row.value:10.3f}  {row.unit:12}{goal:>8}  {row.note}".rstrip(), flush=True)
            if row.goal is not None and row.value > row.goal:
                missed.append(row)
    print(f"goals missed: {', '.join(row.what for row in missed)}" if missed else "goals met")
    return int(bool(missed))


def _measure(settings: Settings, profile: bool) -> Iterator[Row]:
    broker = Broker(settings, store=_store(settings), kinds={"simulated": lambda: SimulatedProvider})
    try:
        admin, secret = _people(broker)
        yield from in_process(broker, admin, profiled if profile else timed)
    finally:
        broker.close()
    if not profile:
        yield from served(settings, secret)


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
    broker: Broker, admin: Actor, measured: Callable[[str, Callable[[], object]], float]
) -> Iterator[Row]:
    """Fill the database, and measure what needs no face."""
    yield Row(f"add a site of {HOSTS} hosts", timed("add", lambda: _sites(broker, admin)), "s", 5)
    _catalogue(broker, admin)
    _fill(broker, admin)
    populate_world(broker)
    for count in ROUNDS:
        made = launch.create_many(
            broker, admin, count=count, name=f"wait{count}", image_ref="tiny", flavor_ref="small"
        )
        what = f"placement round, {count} pending"
        with Counted(broker.store) as counted:
            taken = measured(what, lambda: queue.place_pending(broker))
        if any(vm.get(broker, admin, row.id).host_id is None for row, _ in made):
            raise RuntimeError(f"{what}: not all were placed")
        yield Row(what, taken, "s", 0.5 + count * 0.002, str(counted))
        _forget(broker, [row.id for row, _ in made])
    yield from _duties(broker, measured)


def _duties(broker: Broker, measured: Callable[[str, Callable[[], object]], float]) -> Iterator[Row]:
    duties: tuple[tuple[str, Callable[[], None], float], ...] = (
        ("reconcile, nothing changed", partial(reconcile.reconcile, broker), 1.0),
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
    store.upgrade()
    return store


def _people(broker: Broker) -> tuple[Actor, str]:
    owner = project.create(broker, SYSTEM, name="lab")
    admin = Actor(owner.id, "admin", "ada")
    _, secret = token.create(broker, admin, name="bench", role="admin")
    return admin, secret


def _sites(broker: Broker, admin: Actor) -> None:
    common = {"cpu_total": CPUS, "mem_total_mb": 131072.0, "cpu_model": "EPYC", "cpu_flags": _FLAGS}
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
    flavor.create(broker, admin, name="small", vcpus=2, mem_mb=1024, disk_gb=10)
    network.create(broker, admin, name="net", cidr="10.0.0.0/8")
    network.add_subnet(broker, admin, "net", site_ref="campus", cidr="10.20.0.0/16", mode="nat")
    policy.apply(broker, admin, POLICY)


def _fill(broker: Broker, admin: Actor) -> None:
    """VMs that have long been running, written as rows: making each through the API is measured elsewhere."""
    made, _ = launch.create(broker, admin, name="model", image_ref="tiny", flavor_ref="small")
    with broker.store.transaction() as session:
        model = session.get_one(VMRow, made.id)
        task = session.scalars(select(OperationRow).where(OperationRow.target == made.id)).one()
        hosts = session.scalars(
            select(HostRow).where(HostRow.elastic.is_(False)).order_by(HostRow.name)
        ).all()
        net = network.find(session, "net")
        subnet = network.subnet_at(session, net.id, hosts[0].site_id)
        assert subnet is not None
        vms, tasks, leases = [], [], []
        now = datetime.now(UTC)
        for number in range(VMS):
            vm_id, task_id, at = broker.new_id("vm"), broker.new_id("op"), hosts[number % len(hosts)]
            address = f"10.20.{(number + 10) // 256}.{(number + 10) % 256}"
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
            leases.append(
                {"id": broker.new_id("eni"), "subnet_id": subnet.id, "address": address, "vm_id": vm_id}
                | {"mac": addresses.mac_of(address), "position": 0}
            )
        session.execute(insert(VMRow), vms)
        session.execute(insert(OperationRow), tasks)
        session.execute(insert(LeaseRow), leases)
    _forget(broker, [made.id])


def _values(row: VMRow | OperationRow) -> dict[str, Any]:
    return {column.key: getattr(row, column.key) for column in row.__mapper__.column_attrs}


def _forget(broker: Broker, ids: list[str]) -> None:
    with broker.store.transaction() as session:
        for owner in (LeaseRow.vm_id, OperationRow.target, VMRow.id):
            session.execute(delete(owner.class_).where(owner.in_(ids)))


def populate_world(broker: Broker) -> None:
    """Have the simulated sites run what the rows say."""
    with broker.store.reading() as session:
        rows = list(session.scalars(select(VMRow).where(VMRow.provider_ref.is_not(None))))
    for row in rows:
        if row.site_id is None or row.host is None or row.provider_ref is None:
            continue
        with SimulatedProvider.world(row.site_id).transaction() as state:
            state.add(
                SimulatedVM(
                    ref=row.provider_ref,
                    host=row.host.name,
                    state=port.VMState.RUNNING,
                    name=row.name,
                    vm_id=row.id,
                    broker_id=broker.id,
                    vcpus=row.vcpus,
                    mem_mb=row.mem_mb,
                    leases=[[nic.subnet_id, nic.address] for nic in row.nics],
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


def served(settings: Settings, secret: str) -> Iterator[Row]:
    """What users and machines notice of a broker that serves."""
    with _serving(settings) as (url, pid):
        environment = {**os.environ, "ISTHMUS_URL": url, "ISTHMUS_TOKEN": secret}
        client = isthmus.Client(environ=environment)
        time.sleep(5)  # its first pass over the sites
        before, began = _cpu_s(pid), time.perf_counter()
        time.sleep(IDLE_S)
        yield Row("idle", 100 * (_cpu_s(pid) - before) / (time.perf_counter() - began), "% of a core", 10)
        yield Row("GET /v1/vms, all", _median(lambda: _all(client.vms.list(), VMS)), "s", 3)
        yield Row("GET /v1/hosts, all", _median(lambda: _all(client.hosts.list(), HOSTS)), "s", 3)
        yield Row("isthmus vm list", timed("", lambda: _command(environment)), "s", 5)
        before = _cpu_s(pid)
        taken, asked = _create(environment)
        yield Row(
            f"POST /v1/vms -> running, {CREATED} VMs", taken, "s", 60, f"{CREATED / taken:.1f} a second"
        )
        yield Row("  of that: POST, median", 1000 * asked, "ms", None, f"{CALLERS} callers")
        yield Row("  of that: CPU a VM", 1000 * (_cpu_s(pid) - before) / CREATED, "ms")
        yield Row("memory", _memory_mb(pid), "MiB", 600)


def _create(environment: dict[str, str]) -> tuple[float, float]:
    """Ask for VMs from several callers at once and wait until all run: (seconds, median seconds of a request)."""
    clients = [isthmus.Client(environ=environment) for _ in range(CALLERS)]

    def caller(number: int) -> list[tuple[float, Any]]:
        made = []
        for index in range(number, CREATED, CALLERS):
            began = time.perf_counter()
            row = clients[number].vms.create(name=f"new-{index}", image="tiny", flavor="small")
            made.append((time.perf_counter() - began, row))
        return made

    began = time.perf_counter()
    with ThreadPoolExecutor(CALLERS) as pool:
        made = [one for several in pool.map(caller, range(CALLERS)) for one in several]
    for _, row in made:
        row.wait_until("running", timeout=120)
    return time.perf_counter() - began, statistics.median(taken for taken, _ in made)


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


def _memory_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) / 1024


if __name__ == "__main__":
    sys.exit(main())
