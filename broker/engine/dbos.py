"""The engine on DBOS Transact: embedded on SQLite, shared by several brokers on PostgreSQL.

One workflow with one kind of step: drive the operation for a while. All that matters is in our own rows, so
a replay decides nothing, and an upgrade with operations under way is safe. What DBOS adds is that a workflow
of a process that died is taken up again; the sweep over our rows makes that true in every other case too.
DBOS is a process-wide singleton, so there is one engine per process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import sqlite3
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import structlog
from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, SetWorkflowID

from broker import project
from broker.broker import Broker
from broker.engine.drive import Driver

log = structlog.get_logger()

PROTOCOL = "1"
"""DBOS's application version: a constant, or every upgrade would strand the operations under way."""

_STEP_S = 300.0
_STEPS = 12
_KEEP_DAYS = 1
_KEEP_KEYS_DAYS = 7
_THREADS = 48

_running: DbosEngine | None = None


@DBOS.step(name="isthmus.drive.step")
async def _step(operation_id: str) -> bool:
    engine = _running
    return True if engine is None else await engine.driver.drive(operation_id, _STEP_S)


@DBOS.workflow(name="isthmus.drive", max_recovery_attempts=1_000_000)
async def _drive(operation_id: str) -> None:
    for _ in range(_STEPS):
        if await _step(operation_id):
            return
    # A workflow's history is read whole when it is recovered: a VM that waits for days gets a new one.
    if _running is not None:
        _running.submit(operation_id)


class DbosEngine:
    """``broker.engine.port.Engine`` on DBOS."""

    def __init__(self, broker: Broker) -> None:
        shared = not broker.store.is_sqlite
        # Each start of a process is an executor of its own, unless the store is ours alone: then the fixed
        # name has DBOS take up at start what the process before it left.
        self.executor = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}" if shared else "local"
        self.broker = broker
        self.driver = Driver(broker, holder=self.executor)
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(_THREADS, thread_name_prefix="isthmus-step"))
        self._thread: threading.Thread | None = None
        self._duties: list[tuple[str, float, Callable[[], None]]] = []

    def submit(self, operation_id: str) -> None:
        """Drive an operation; when it is driven here already, the signal with its id has woken it."""
        if self._thread is not None and not self.driver.is_driving(operation_id):
            self._run(self._start(operation_id))

    def schedule(self, name: str, every_s: float, duty: Callable[[], None]) -> None:
        """Add a duty; before ``start``."""
        self._duties.append((name, every_s, duty))

    def start(self) -> None:
        """Launch DBOS, take up what was under way, begin the duties."""
        global _running
        if _running is not None:
            raise RuntimeError("an engine runs in this process already")
        if self.broker.store.is_sqlite:
            self.driver.forget_claims()
        DBOS(config=self._config())
        logging.getLogger("dbos").setLevel(logging.WARNING)
        _running = self
        DBOS.launch()
        self._thread = threading.Thread(target=self._loop.run_forever, name="isthmus-engine", daemon=True)
        self._thread.start()
        for operation_id in self.driver.stranded(at_start=True):
            self.submit(operation_id)
        self.schedule("sweep", self.broker.settings.timing.sweep_s, self._sweep)
        self.schedule("retention", 3600.0, self._forget_finished)
        for name, every_s, duty in self._duties:
            self._run(self.driver.duty(name, every_s, duty))
        self.broker.engine = self

    def stop(self) -> None:
        """Let steps under way end (their claims are given back), then stop."""
        global _running
        if self._thread is None:
            return
        self.broker.engine = None
        self.driver.stop()
        DBOS.destroy(workflow_completion_timeout_sec=0)
        asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        self._thread.join(timeout=10)
        self._thread = None
        _running = None

    async def _end(self) -> None:
        """End what sleeps, then the loop."""
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._loop.stop()

    async def _start(self, operation_id: str) -> None:
        with SetWorkflowID(f"{operation_id}.{secrets.token_hex(4)}"):
            await DBOS.start_workflow_async(_drive, operation_id)

    def _sweep(self) -> None:
        for operation_id in self.driver.stranded():
            log.info("operation.taken_up", operation=operation_id)
            self.submit(operation_id)

    def _forget_finished(self) -> None:
        """Drop workflows that are over, and idempotency keys that nobody repeats any more."""
        before = (self.broker.clock.now() - timedelta(days=_KEEP_DAYS)).isoformat()
        old = DBOS.list_workflows(
            status=["SUCCESS", "ERROR", "CANCELLED"],
            completed_before=before,
            limit=1000,
            load_input=False,
            load_output=False,
        )
        if old:
            DBOS.delete_workflows([status.workflow_id for status in old])
        project.forget_idempotency_keys(self.broker, timedelta(days=_KEEP_KEYS_DAYS))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        def failed(done: Any) -> None:
            if not done.cancelled() and done.exception() is not None:
                log.error("engine.failed", error=repr(done.exception()))

        asyncio.run_coroutine_threadsafe(work, self._loop).add_done_callback(failed)

    def _config(self) -> DBOSConfig:
        url = self.broker.settings.database_url
        if self.broker.store.is_sqlite:
            path = self.broker.settings.data_dir / "dbos.sqlite3"
            # DBOS leaves the journal in rollback mode, which costs two thirds of the throughput.
            with sqlite3.connect(path) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
            connection.close()
            url = f"sqlite:///{path}"
        return DBOSConfig(
            name="isthmus",
            system_database_url=url,
            executor_id=self.executor,
            application_version=PROTOCOL,
            serializer=DBOSPortableJSONSerializer(),
            enable_otlp=False,
            log_level="WARNING",
        )
