"""Time, injected: nothing in the broker asks the machine for the time by itself."""

from __future__ import annotations

from datetime import UTC, datetime
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
