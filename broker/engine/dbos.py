"""The engine on DBOS Transact, for several brokers that share one PostgreSQL.

Each drive of an operation is a workflow, without steps. All that matters is in our own rows, so a replay decides
nothing, and an upgrade with operations under way is safe. Which operations are due, how many are driven at a time and who
takes up what a dead process left is decided as everywhere (``lease.LeaseEngine``); what DBOS adds is a durable record of
every drive, and fences against two at once in its own tables. ``docs/adr/0002-dbos.md`` has what that costs.
DBOS is a process-wide singleton, so there is one such engine per process.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sqlite3
from datetime import timedelta

import structlog
from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, SetWorkflowID

from broker.broker import Broker
from broker.engine.advance import Pause
from broker.engine.lease import MOST_PHASES, WORKERS, LeaseEngine

log = structlog.get_logger()

PROTOCOL = "2"
"""DBOS's application version: a constant, or every upgrade would strand the operations under way."""

_KEEP_DAYS = 1

_running: DbosEngine | None = None
_pauses: dict[str, Pause | None] = {}
"""What the drive that runs now left to its engine, by workflow: DBOS stores what a workflow returns as JSON."""


# Without steps of DBOS: what a drive did is in our rows, and one that is run again goes on from there.
@DBOS.workflow(name="isthmus.drive", max_recovery_attempts=1_000_000)
def _drive(operation_id: str, drive_id: str) -> None:
    if _running is not None:
        _pauses[drive_id] = _running.step(operation_id, most=MOST_PHASES)


class DbosEngine(LeaseEngine):
    """``broker.engine_port.Engine`` on DBOS."""

    def __init__(self, broker: Broker) -> None:
        # Each start of a process is an executor of its own: DBOS must never take another's live work for its own.
        self.executor = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        super().__init__(broker, holder=self.executor)

    def start(self) -> None:
        """Launch DBOS, take up what was under way, begin the duties."""
        global _running
        if _running is not None:
            raise RuntimeError("an engine runs in this process already")
        DBOS(config=self._config())
        logging.getLogger("dbos").setLevel(logging.WARNING)
        _running = self
        DBOS.launch()
        self.schedule("workflows", 3600.0, self._forget_finished)
        super().start()

    def stop(self) -> None:
        """Let steps under way end (their claims are given back), then stop."""
        global _running
        if _running is not self:
            return
        super().stop()
        DBOS.destroy(workflow_completion_timeout_sec=0)
        _running = None

    def drive(self, operation_id: str) -> Pause | None:
        """Move an operation on until it has to wait, as a workflow."""
        drive_id = f"{operation_id}.{secrets.token_hex(4)}"
        _pauses[drive_id] = Pause(5.0, {})
        try:
            with SetWorkflowID(drive_id):
                _drive(operation_id, drive_id)
        finally:
            pause = _pauses.pop(drive_id)
        return pause

    def _forget_finished(self) -> None:
        """Drop workflows that are over, and those that a dead process left: their operations were taken up by our rows."""
        before = (self.broker.clock.now() - timedelta(days=_KEEP_DAYS)).isoformat()
        old = DBOS.list_workflows(end_time=before, limit=1000, load_input=False, load_output=False)
        if old:
            DBOS.delete_workflows([status.workflow_id for status in old])

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
            max_executor_threads=WORKERS,
            enable_otlp=False,
            log_level="WARNING",
        )
