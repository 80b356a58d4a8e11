"""The engine that needs nothing but our own rows: it drives what is due with a bounded number of threads.

An operation that waits is a row, never a thread: this process remembers of it when to look again and for which signals,
up to a bound, and what it does not remember it finds by the rows' ``next_at``. Whoever finds an operation due claims it
(``advance.Claims``); what a dead process had claimed is free when its claims run out, so any broker of the store takes
it up, at a start as at any other time.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import structlog
from sqlalchemy import delete, or_, select, update

from broker.broker import Broker
from broker.engine.advance import Claims, Pause, advance
from broker.engine_port import Turns
from broker.states import OperationState
from broker.store import DutyRow, OperationRow

log = structlog.get_logger()

WORKERS = 32
"""Operations that this process moves on at a time."""
PER_SITE = 12
"""How many of them may be of one site: a cloud that swallows calls must not hold up the others."""
_MOST_ASLEEP = 5_000
"""Waiting operations that this process remembers; the others are found by their rows."""
MOST_PHASES = 100
"""Phases of one operation in a row, before others have their turn."""
_DUTY_TRY_S = 3.0
"""How often a duty that another broker has is asked for."""


class LeaseEngine:
    """``broker.engine_port.Engine`` as a plain loop over leases on rows."""

    def __init__(self, broker: Broker, *, holder: str = "local") -> None:
        self.broker = broker
        self.claims = Claims(broker, holder)
        self._poll_s = broker.settings.timing.sweep_s
        self._changed = threading.Condition()
        self._ready: dict[str | None, deque[str]] = {}
        """Site -> operations that may go on; the site whose turn it is first."""
        self._queued: set[str] = set()
        self._busy: dict[str, str | None] = {}
        """Operation -> its site, while a thread of ours works on it."""
        self._again: set[str] = set()
        """Those that were submitted while they were busy."""
        self._asleep: dict[str, _Asleep] = {}
        self._alarms: list[tuple[float, str]] = []
        self._stopping = threading.Event()
        self._pool: ThreadPoolExecutor | None = None
        self._threads: list[threading.Thread] = []
        self._duties: list[_Duty] = []

    # The port

    def submit(self, operation_id: str, site_id: str | None = None) -> None:
        """Drive an operation, now; when it is driven here already, once more after that."""
        with self._changed:
            if self._pool is None or self._stopping.is_set():
                return
            if operation_id in self._busy:
                self._again.add(operation_id)
                return
            self._forget(operation_id)
            self._enqueue(operation_id, site_id)
            self._changed.notify()

    @property
    def turns(self) -> Turns:
        """For duties that brokers share."""
        return self.claims

    def schedule(
        self,
        name: str,
        every_s: float,
        duty: Callable[[], None],
        *,
        shared: bool = False,
        rest_s: float = 0.0,
    ) -> None:
        """Add a duty; before ``start``. ``shared``: all brokers do it. ``rest_s``: between two runs at the least."""
        self._duties.append(_Duty(name, every_s, duty, shared, rest_s))

    def start(self) -> None:
        """Take up what was under way, begin the duties."""
        if self.broker.store.is_sqlite:
            self.forget_claims()
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="isthmus-step")
        self._begin("isthmus-engine", self._dispatch)
        for duty in self._duties:
            self._begin(f"isthmus-{duty.name}", partial(self._serve, duty))
        self.broker.engine = self

    def stop(self) -> None:
        """Let steps under way end (their claims are given back), then stop."""
        if self._pool is None:
            return
        self.broker.engine = None
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        for duty in self._duties:
            self.broker.signals.set(duty.name)
        for thread in self._threads:
            thread.join(timeout=10)
        self._pool.shutdown(wait=True, cancel_futures=True)
        with self._changed:
            for operation_id in list(self._asleep):
                self._forget(operation_id)
        self.claims.stop()
        self._pool = None

    # One operation

    def step(self, operation_id: str, *, most: int = 1) -> Pause | None:
        """At most so many phases, in the calling thread."""
        try:
            return advance(self.broker, self.claims, operation_id, most=most)
        except Exception:
            # The store is away, or a bug: the operation stays as it is and is tried again.
            log.exception("operation.advance_failed", operation=operation_id)
            return Pause(5.0, {})

    def drive(self, operation_id: str) -> Pause | None:
        """Move an operation on until it has to wait, in the calling thread."""
        return self.step(operation_id, most=MOST_PHASES)

    # What is due

    def due(self, most: int) -> list[tuple[str, str | None]]:
        """Running operations whose time has come and that nobody has claimed, with their sites; the oldest first."""
        now = self.broker.clock.now()
        query = (
            select(OperationRow.id, OperationRow.site_id)
            .where(OperationRow.state == OperationState.RUNNING, OperationRow.next_at <= now)
            .where(or_(OperationRow.claim_until.is_(None), OperationRow.claim_until < now))
            .order_by(OperationRow.next_at)
            .limit(most)
        )
        with self.broker.store.reading() as session:
            return [(operation_id, site_id) for operation_id, site_id in session.execute(query)]

    def forget_claims(self) -> None:
        """On a store of our own: claims of the process that died before this one hold nothing any more."""
        with self.broker.store.transaction() as session:
            session.execute(
                update(OperationRow)
                .where(OperationRow.claim_token.is_not(None))
                .values(claim_token=None, claim_until=None)
            )
            session.execute(delete(DutyRow))

    # The loop

    def _dispatch(self) -> None:
        """Hand out what may go on, wake what has slept its time, and look for what nobody remembers."""
        polled = 0.0
        while not self._stopping.is_set():
            now = time.monotonic()
            if now - polled >= self._poll_s:
                polled = now
                self._fetch()
            with self._changed:
                while self._alarms and self._alarms[0][0] <= now:
                    due, operation_id = heapq.heappop(self._alarms)
                    asleep = self._asleep.get(operation_id)
                    if asleep is not None and asleep.due == due:
                        self._forget(operation_id)
                        self._enqueue(operation_id, asleep.site_id)
                while (chosen := self._next()) is not None and self._pool is not None:
                    self._busy[chosen[0]] = chosen[1]
                    self._pool.submit(self._work, *chosen)
                until = min([polled + self._poll_s, *(due for due, _ in self._alarms[:1])])
                self._changed.wait(max(0.0, until - time.monotonic()))

    def _fetch(self) -> None:
        with self._changed:
            room = 4 * WORKERS - len(self._queued)
        if room <= 0:
            return
        try:
            found = self.due(room)
        except Exception:
            log.exception("engine.poll_failed")
            return
        with self._changed:
            for operation_id, site_id in found:
                if operation_id not in self._busy and operation_id not in self._asleep:
                    self._enqueue(operation_id, site_id)

    def _next(self) -> tuple[str, str | None] | None:
        """An operation whose turn it is: sites take turns, and none has more than its share of the threads."""
        if len(self._busy) >= WORKERS:
            return None
        working = Counter(self._busy.values())
        for site_id in list(self._ready):
            if site_id is not None and working[site_id] >= PER_SITE:
                continue
            waiting = self._ready.pop(site_id)
            operation_id = waiting.popleft()
            if waiting:
                self._ready[site_id] = waiting
            self._queued.discard(operation_id)
            return operation_id, site_id
        return None

    def _work(self, operation_id: str, site_id: str | None) -> None:
        pause: Pause | None = Pause(5.0, {})
        try:
            with self.claims.slots.held():
                if not self._stopping.is_set():
                    pause = self.drive(operation_id)
        except Exception:
            log.exception("engine.drive_failed", operation=operation_id)
        finally:
            with self._changed:
                self._busy.pop(operation_id, None)
                if operation_id in self._again:
                    self._again.discard(operation_id)
                    self._enqueue(operation_id, site_id)
                elif pause is not None and not self._stopping.is_set():
                    self._sleep(operation_id, site_id, pause)
                self._changed.notify()

    def _enqueue(self, operation_id: str, site_id: str | None) -> None:
        if operation_id not in self._queued:
            self._queued.add(operation_id)
            self._ready.setdefault(site_id, deque()).append(operation_id)

    def _sleep(self, operation_id: str, site_id: str | None, pause: Pause) -> None:
        """Remember when to look again, and listen for what may wake it before; a parked one is not remembered."""
        signals = self.broker.signals
        if any(signals.count(name) > seen for name, seen in pause.signals.items()) or pause.seconds == 0:
            self._enqueue(operation_id, site_id)
        elif pause.seconds is not None and len(self._asleep) < _MOST_ASLEEP:
            asleep = _Asleep(time.monotonic() + pause.seconds, site_id)
            self._asleep[operation_id] = asleep
            heapq.heappush(self._alarms, (asleep.due, operation_id))
            wake = partial(self.submit, operation_id, site_id)
            asleep.ends = [signals.listen(name, wake) for name in pause.signals]
            # Counted again after listening began: what came in between is not slept over.
            if any(signals.count(name) > seen for name, seen in pause.signals.items()):
                self._forget(operation_id)
                self._enqueue(operation_id, site_id)

    def _forget(self, operation_id: str) -> None:
        asleep = self._asleep.pop(operation_id, None)
        if asleep is not None:
            for end in asleep.ends:
                end()

    # Duties

    def _serve(self, duty: _Duty) -> None:
        """Run a duty every so many seconds, and when its name is signalled, while this broker has it."""
        signals = self.broker.signals
        while not self._stopping.is_set():
            seen = signals.count(duty.name)
            mine = False
            try:
                mine = duty.shared or self.claims.on_duty(duty.name)
                if mine:
                    duty.run()
            except Exception:
                log.exception("duty.failed", duty=duty.name)
            if mine:
                self._stopping.wait(duty.rest_s)
                signals.wait(duty.name, seen, duty.every_s)
            else:
                self._stopping.wait(_DUTY_TRY_S)

    def _begin(self, name: str, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()


@dataclass(frozen=True)
class _Duty:
    """Something that is done again and again; ``shared``: by all brokers; ``rest_s``: between two runs at the least."""

    name: str
    every_s: float
    run: Callable[[], None]
    shared: bool
    rest_s: float


@dataclass
class _Asleep:
    """An operation that waits, remembered: until when (monotonic), where, and what ends listening for its signals."""

    due: float
    site_id: str | None
    ends: list[Callable[[], None]] = field(default_factory=list)
