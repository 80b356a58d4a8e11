"""Time, injected: nothing in the broker asks the machine for the time by itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """``now()`` is an aware UTC time."""

    def now(self) -> datetime:
        """The time."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """The machine's time in UTC."""
        return datetime.now(UTC)


class DatabaseClock:
    """The clock of the database that several brokers share, so that their leases run on one time whatever their machines say.

    ``ask`` says what time it is there. Between two measurements the machine's own clock carries on.
    """

    def __init__(self, ask: Callable[[], datetime]) -> None:
        self._ask = ask
        self._ahead = timedelta()
        self.measure()

    def measure(self) -> None:
        """Compare both clocks. The answer is taken to be as old as half of the time that it took."""
        asked, began = time.monotonic(), datetime.now(UTC)
        there = self._ask()
        self._ahead = there - began - timedelta(seconds=(time.monotonic() - asked) / 2)

    def now(self) -> datetime:
        """The database's time in UTC."""
        return datetime.now(UTC) + self._ahead


class ManualClock:
    """A clock that moves when it is told to; for tests and simulations."""

    def __init__(self, start: datetime) -> None:
        self._now = start

    def now(self) -> datetime:
        """The time it was set to."""
        return self._now

    def set(self, now: datetime) -> None:
        """Move to ``now``."""
        self._now = now
