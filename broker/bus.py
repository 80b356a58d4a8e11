"""Brokers on one PostgreSQL wake each other: signals, and what has changed in the store, by LISTEN and NOTIFY.

PostgreSQL hands a notification out when its transaction commits, in the order of commits, to whoever listens then
(https://www.postgresql.org/docs/current/sql-notify.html). So what is told of a change can be read, and who listens
without a break misses none; after a break everything counts as changed. A signal that is lost only costs time.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from broker.clock import DatabaseClock
from broker.signals import Signals
from broker.store import Store
from broker.store.changes import ALL

log = structlog.get_logger()

_CHANNEL = "isthmus"
_MOST = 7000
"""Bytes of a notification; the server takes less than 8000."""
_GATHER_S = 0.1
"""How long signals are gathered after some were told, to be told in one transaction."""
_LOOK_S = 2.0
_CLOCK_S = 30.0
_AGAIN_S = 2.0


class Bus:
    """This process's ear and voice."""

    def __init__(self, store: Store, signals: Signals, clock: DatabaseClock | None = None) -> None:
        self._store = store
        self._signals = signals
        self._clock = clock
        self._id = secrets.token_hex(6)
        self._lock = threading.Lock()
        self._said: set[str] = set()
        self._something = threading.Event()
        self._stopping = threading.Event()
        self._listening = threading.Event()
        self._line: Any = None
        """The ear's connection, while it listens."""
        self._threads: list[threading.Thread] = []

    def start(self, wait_s: float = 5.0) -> None:
        """Begin to listen and to tell; returns when it listens, or after ``wait_s`` seconds all the same."""
        self._store.changes.tell = self._tell_changes
        self._signals.tell = self._gather
        for name, work in (("isthmus-ear", self._listen), ("isthmus-voice", self._speak)):
            thread = threading.Thread(target=work, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()
        self._listening.wait(wait_s)

    def stop(self) -> None:
        """End both; what the process keeps of the store counts as old from now on."""
        self._signals.tell = self._store.changes.tell = None
        self._stopping.set()
        self._something.set()
        self._hang_up()
        for thread in self._threads:
            thread.join(timeout=5)
        self._store.changes.whole = False

    # The voice

    def _gather(self, name: str) -> None:
        with self._lock:
            self._said.add(name)
        self._something.set()

    def _speak(self) -> None:
        while not self._stopping.is_set():
            self._something.wait()
            self._something.clear()
            with self._lock:
                said, self._said = self._said, set()
            if not said:
                continue
            try:
                with self._store.engine.begin() as connection:
                    for payload in _payloads(self._id, "signals", said):
                        connection.execute(select(func.pg_notify(_CHANNEL, payload)))
            except Exception:
                log.exception("bus.not_told", signals=len(said))
            self._stopping.wait(_GATHER_S)

    def _tell_changes(self, session: Session, names: set[str]) -> None:
        for payload in _payloads(self._id, "changes", names):
            session.execute(select(func.pg_notify(_CHANNEL, payload)))

    # The ear

    def _listen(self) -> None:
        while not self._stopping.is_set():
            try:
                self._listen_once()
            except Exception:
                if not self._stopping.is_set():
                    log.exception("bus.deaf")
                self._stopping.wait(_AGAIN_S)
            finally:
                self._line = None
                self._store.changes.whole = False

    def _hang_up(self) -> None:
        """Wake the ear, which waits for the server to say something, and nothing else wakes it."""
        line = self._line
        if line is not None:
            with suppress(Exception), socket.socket(fileno=os.dup(line.fileno())) as end:
                end.shutdown(socket.SHUT_RDWR)

    def _listen_once(self) -> None:
        # A connection of its own for as long as it lives, which the pool does not miss.
        pooled = self._store.engine.raw_connection()
        raw: Any = pooled.driver_connection
        pooled.detach()
        with closing(raw):
            raw.rollback()
            raw.autocommit = True
            raw.execute(f"LISTEN {_CHANNEL}")
            self._line = raw
            # From now on nothing is missed; what came before is.
            self._store.changes.add({ALL})
            self._store.changes.whole = True
            self._listening.set()
            looked = 0.0
            while not self._stopping.is_set():
                for notice in raw.notifies(timeout=_LOOK_S, stop_after=1):
                    self._hear(notice.payload)
                looked += _LOOK_S
                if self._clock is not None and looked >= _CLOCK_S:
                    looked = 0.0
                    self._clock.measure()

    def _hear(self, payload: str) -> None:
        said = json.loads(payload)
        if said["from"] == self._id:
            return
        if "changes" in said:
            self._store.changes.add(said["changes"])
        for name in said.get("signals", ()):
            self._signals.set(name, tell=False)


def _payloads(sender: str, what: str, names: set[str]) -> Iterator[str]:
    """The names in as many notifications as they need."""
    part: list[str] = []
    size = 0
    for name in sorted(names):
        if part and size + len(name) + 3 > _MOST:
            yield json.dumps({"from": sender, what: part})
            part, size = [], 0
        part.append(name)
        size += len(name.encode()) + 4
    if part:
        yield json.dumps({"from": sender, what: part})
