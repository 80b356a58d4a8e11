"""What an engine costs: operations of five phases that do nothing, driven by each adapter on each database.

The plain lease loop beside DBOS, in turn and in a process of its own each, since DBOS is one per process. CPU per
operation is the fairer figure on a busy machine. Goal: the engine that a database gets by default is not beaten by
the other one by more than twice.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import structlog
from sqlalchemy import func, select

from broker import operation, project
from broker.actor import SYSTEM
from broker.broker import Broker
from broker.engine import registry
from broker.engine.declaration import Declaration, Done, Next, Outcome, Phase, Step
from broker.engine.lease import LeaseEngine
from broker.sealing import Sealer
from broker.settings import Database, Settings
from broker.states import OperationState
from broker.store import OperationRow, ProjectRow, Store
from lab.postgresql import SOUND, PostgreSQL

OPERATIONS = 400
GOAL = 2.0


def one(_step: Step[ProjectRow]) -> Outcome:
    """Nothing, and on."""
    return Next()


def two(_step: Step[ProjectRow]) -> Outcome:
    """Nothing, and on."""
    return Next()


def three(_step: Step[ProjectRow]) -> Outcome:
    """Nothing, and on."""
    return Next()


def four(_step: Step[ProjectRow]) -> Outcome:
    """Nothing, and on."""
    return Next()


def five(_step: Step[ProjectRow]) -> Outcome:
    """Nothing."""
    return Done()


_NONE = "it does nothing"
BENCH = Declaration(
    "bench.nothing",
    ProjectRow,
    (
        Phase(one, to=(two,), undo=_NONE),
        Phase(two, to=(three,), undo=_NONE),
        Phase(three, to=(four,), undo=_NONE),
        Phase(four, to=(five,), undo=_NONE),
        Phase(five, undo=_NONE),
    ),
    settles=False,
)


def main() -> int:
    """Print the table; 1 when the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--drive", choices=["lease", "dbos"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--url", default="", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.drive:
        print(json.dumps(drive(asked.drive, Path(asked.folder), asked.url)))
        return 0
    found: dict[tuple[str, str], dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="ib-") as folder:
        server = PostgreSQL(Path(tempfile.mkdtemp(prefix="ib-pg-")), SOUND)
        server.start()
        try:
            for database in ("sqlite", "postgresql"):
                for engine in ("lease", "dbos"):
                    here = Path(folder) / f"{database}-{engine}"
                    here.mkdir()
                    url = server.database() if database == "postgresql" else ""
                    found[database, engine] = once(engine, here, url)
        finally:
            server.stop()
    print(
        f"{OPERATIONS} operations of five phases; goal: the default costs at most {GOAL:g} times the other's CPU"
    )
    print(f"{'database':<12}{'engine':<8}{'operations/s':>14}{'CPU ms each':>14}{'threads':>9}{'RSS MB':>8}")
    for (database, engine), figures in found.items():
        print(
            f"{database:<12}{engine:<8}{figures['rate']:>14.0f}{figures['cpu_ms']:>14.1f}"
            f"{figures['threads']:>9.0f}{figures['rss_mb']:>8.0f}"
        )
    ratio = found["sqlite", "lease"]["cpu_ms"] / found["sqlite", "dbos"]["cpu_ms"]
    print(f"SQLite's default, the lease loop, costs {ratio:.2f} times what DBOS does there")
    print("goals met" if ratio <= GOAL else "goals missed")
    return 0 if ratio <= GOAL else 1


def once(engine: str, folder: Path, url: str) -> dict[str, float]:
    """One run in a process of its own."""
    command = [sys.executable, "-m", "bench.engine", "--drive", engine, "--folder", str(folder), "--url", url]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def drive(name: str, folder: Path, url: str) -> dict[str, float]:
    """Drive the operations, all submitted at once."""
    logging.disable(logging.INFO)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    registry.OPERATIONS[BENCH.kind] = BENCH
    Sealer.create_file(folder / "key")
    settings = Settings(data_dir=folder, database=Database(url=url))
    store = Store(settings.database_url)
    store.upgrade()
    broker = Broker(settings, store=store)
    owner = project.create(broker, SYSTEM, name="bench")
    engine: LeaseEngine = LeaseEngine(broker)
    if name == "dbos":
        from broker.engine.dbos import DbosEngine

        engine = DbosEngine(broker)
    engine.start()
    began, cpu, threads = time.monotonic(), _cpu_s(), 0
    with broker.store.transaction() as session:
        tasks = [
            operation.add(broker, session, BENCH.kind, owner.id, phase=BENCH.begins)
            for _ in range(OPERATIONS)
        ]
    for task in tasks:
        broker.submit(task)
    running = (
        select(func.count()).select_from(OperationRow).where(OperationRow.state == OperationState.RUNNING)
    )
    while True:
        threads = max(threads, threading.active_count())
        with broker.store.reading() as session:
            if not session.scalar(running):
                break
        time.sleep(0.05)
    took, spent = time.monotonic() - began, _cpu_s() - cpu
    engine.stop()
    broker.close()
    rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "rate": OPERATIONS / took,
        "cpu_ms": 1000 * spent / OPERATIONS,
        "threads": threads,
        "rss_mb": rss_mb,
    }


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
