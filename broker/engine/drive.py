"""Drives operations in this process: step after step, asleep in between until a signal or the clock wakes it.

An engine adds durability (who takes up what a dead process left) and calls ``Driver.drive``. Without one the
driver is what tests use.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import timedelta

import structlog
from sqlalchemy import or_, select, update

from broker.broker import Broker
from broker.engine.advance import Claims, Pause, advance
from broker.engine.phases import PHASES
from broker.states import OperationState
from broker.store import DutyRow, OperationRow

log = structlog.get_logger()

_LATE_S = 10.0
"""An operation that should have moved this long ago and is claimed by nobody has lost its driver."""


class Driver:
    """One process's driver. ``drive`` runs in any event loop; actions run in worker threads."""

    def __init__(self, broker: Broker, *, holder: str = "local") -> None:
        self.broker = broker
        self.holder = holder
        self.claims = Claims(broker)
        self._lock = threading.Lock()
        self._driven: set[str] = set()
        self._stopping = False

    def is_driving(self, operation_id: str) -> bool:
        """Whether this process drives it already; a signal with its id wakes it then."""
        with self._lock:
            return operation_id in self._driven

    async def drive(self, operation_id: str, at_most_s: float) -> bool:
        """Move an operation on for at most so many seconds. True when it is over, or driven elsewhere."""
        with self._lock:
            if operation_id in self._driven or self._stopping:
                return not self._stopping
            self._driven.add(operation_id)
        try:
            loop = asyncio.get_running_loop()
            until = loop.time() + at_most_s
            while not self._stopping:
                pause = await asyncio.to_thread(self.step, operation_id)
                if pause is None:
                    return True
                if loop.time() >= until:
                    return False
                await self._sleep(pause)
            return False
        finally:
            with self._lock:
                self._driven.discard(operation_id)

    def step(self, operation_id: str) -> Pause | None:
        """One step, in the calling thread."""
        try:
            return advance(self.broker, self.claims, PHASES, operation_id)
        except Exception:
            # The store is away, or a bug: the operation stays as it is and is tried again.
            log.exception("operation.advance_failed", operation=operation_id)
            return Pause(5.0, {})

    def run_until_idle(self, operation_id: str, most_steps: int = 1000) -> None:
        """Step in the calling thread until the operation is over or has to wait. For tests."""
        for _ in range(most_steps):
            pause = self.step(operation_id)
            if pause is None or pause.seconds > 0:
                return

    async def _sleep(self, pause: Pause) -> None:
        if pause.seconds <= 0:
            return
        loop = asyncio.get_running_loop()
        woken = asyncio.Event()
        signals = self.broker.signals

        def wake() -> None:
            loop.call_soon_threadsafe(woken.set)

        ends = [signals.listen(name, wake) for name in pause.signals]
        try:
            # Counted again after listening began: what came in between is not slept over.
            if any(signals.count(name) > seen for name, seen in pause.signals.items()):
                return
            await asyncio.wait_for(woken.wait(), pause.seconds)
        except TimeoutError:
            return
        finally:
            for end in ends:
                end()

    def forget_claims(self) -> None:
        """On a store of our own: claims of the process that died before this one hold nothing any more."""
        with self.broker.store.transaction() as session:
            session.execute(
                update(OperationRow)
                .where(OperationRow.claim_token.is_not(None))
                .values(claim_token=None, claim_until=None)
            )

    def stranded(self, *, at_start: bool = False) -> list[str]:
        """Running operations that nobody drives, oldest first."""
        now = self.broker.clock.now()
        late = now if at_start else now - timedelta(seconds=_LATE_S)
        query = (
            select(OperationRow.id)
            .where(OperationRow.state == OperationState.RUNNING)
            .where(or_(OperationRow.claim_until.is_(None), OperationRow.claim_until < now))
            .order_by(OperationRow.created_at)
        )
        if not at_start:
            query = query.where(OperationRow.next_at < late)
        with self.broker.store.reading() as session:
            return [found for found in session.scalars(query) if not self.is_driving(found)]

    def on_duty(self, name: str, for_s: float) -> bool:
        """Take a periodic duty, when no other broker has it."""
        now = self.broker.clock.now()
        with self.broker.store.transaction() as session:
            row = session.get(DutyRow, name, with_for_update=True)
            if row is None:
                row = DutyRow(name=name, holder=self.holder, until=now)
                session.add(row)
            elif row.holder != self.holder and row.until > now:
                return False
            row.holder, row.until = self.holder, now + timedelta(seconds=for_s)
        return True

    async def duty(self, name: str, every_s: float, run: Callable[[], None]) -> None:
        """Run ``run`` every so many seconds, and when ``name`` is signalled, until cancelled."""
        seen = self.broker.signals.count(name)
        while not self._stopping:
            try:
                if await asyncio.to_thread(self.on_duty, name, 2 * every_s + 30):
                    await asyncio.to_thread(run)
            except Exception:
                log.exception("duty.failed", duty=name)
            await self._sleep(Pause(every_s, {name: seen}))
            seen = self.broker.signals.count(name)

    def stop(self) -> None:
        """Take no new steps; those under way end."""
        self._stopping = True
        self.claims.stop()
