"""One broker: its store, clock, ids, secrets, providers and engine, passed to every function of this package."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import structlog
from sqlalchemy.exc import IntegrityError

from broker import dry_run
from broker.bus import Bus
from broker.clock import Clock, DatabaseClock, SystemClock
from broker.engine_port import Engine
from broker.ids import Ids, random_id
from broker.providers import Kinds, Providers, installed_kinds
from broker.sealing import Sealer
from broker.settings import Settings
from broker.signals import Signals
from broker.store import MetaRow, OperationRow, Store

log = structlog.get_logger()

Trace = Callable[[str, str, str], None]
"""Called with (operation id, phase, point) around every action; tests end the process here."""


P = TypeVar("P")


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
        self.clock: Clock = clock or (
            SystemClock() if self.store.is_sqlite else DatabaseClock(self.store.time_there)
        )
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
        self.bus: Bus | None = None
        """What wakes other brokers of the store, where there can be some."""
        self._parts: dict[type[Any], Any] = {}
        self._parts_lock = threading.RLock()

    def part(self, kind: type[P]) -> P:
        """This process's one ``kind``, made of the broker when it is first asked for: what a duty remembers between two runs.

        It may forget everything at any moment, as it does when the process ends.
        """
        with self._parts_lock:
            if kind not in self._parts:
                self._parts[kind] = kind(self)  # type: ignore[call-arg]
            part: P = self._parts[kind]
            return part

    @property
    def images_dir(self) -> Path:
        """Where the catalogue's files lie."""
        return self.settings.data_dir / "images"

    def submit(self, task: OperationRow) -> None:
        """Hand an operation to the engine. Without an engine one that starts later finds it. One of a dry run is none."""
        if dry_run.is_on():
            return
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
