"""One broker: its store, clock, ids, secrets, providers and engine, passed to every function of this package."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.exc import IntegrityError

from broker.clock import Clock, SystemClock
from broker.engine_port import Engine
from broker.ids import Ids, random_id
from broker.providers import Kinds, Providers, installed_kinds
from broker.sealing import Sealer
from broker.settings import Settings
from broker.signals import Signals
from broker.store import MetaRow, OperationRow, Store
from placement.table import HostTable

log = structlog.get_logger()

Trace = Callable[[str, str, str], None]
"""Called with (operation id, phase, point) around every action; tests end the process here."""


class Broker:
    """The parts of one broker. It holds no state that the store does not: any process may end at any moment."""

    def __init__(
        self,
        settings: Settings,
        *,
        store: Store | None = None,
        clock: Clock | None = None,
        ids: Ids = random_id,
        kinds: Kinds | None = None,
        trace: Trace | None = None,
    ) -> None:
        self.settings = settings
        self.store = store or Store(settings.database_url)
        self.clock: Clock = clock or SystemClock()
        self.new_id = ids
        self.sealer = Sealer.from_file(settings.key_file)
        self.trace: Trace = trace or (lambda operation, phase, point: None)
        self.signals = Signals()
        self.id = self._own_id()
        self.providers = Providers(
            installed_kinds() if kinds is None else kinds,
            broker_id=self.id,
            store=self.store,
            sealer=self.sealer,
            signals=self.signals,
            data_dir=settings.data_dir,
            call_timeout_s=settings.timing.provider_call_s,
        )
        self.engine: Engine | None = None
        self.placing = threading.Lock()
        self.reconciling: set[str] = set()
        self.reconciling_lock = threading.Lock()
        self.last_round = (-1, 0.0)
        self.last_table: tuple[list[str], list[dict[str, Any]], HostTable] | None = None
        """Host ids, their attributes and the table of the last snapshot, to make the next one from."""
        self.round_rests_until = 0.0
        self.policy_file_text = self.policy_file_problem = ""

    @property
    def images_dir(self) -> Path:
        """Where the catalogue's files lie."""
        return self.settings.data_dir / "images"

    def submit(self, task: OperationRow) -> None:
        """Hand an operation to the engine. Without an engine one that starts later finds it."""
        self.signals.set(task.id)
        if self.engine is not None:
            self.engine.submit(task.id, task.site_id)

    def close(self) -> None:
        """Drop providers and connections."""
        self.providers.close()
        self.store.close()

    def _own_id(self) -> str:
        try:
            with self.store.transaction() as session:
                row = session.get(MetaRow, "broker_id")
                if row is None:
                    row = MetaRow(key="broker_id", value=self.new_id("brk"))
                    session.add(row)
                return row.value
        except IntegrityError:
            # Another broker on the same new database was faster: it is its id that counts.
            with self.store.transaction() as session:
                return session.get_one(MetaRow, "broker_id").value
