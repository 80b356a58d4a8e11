"""What the broker needs of a workflow engine. DBOS stands behind it; a swap costs one file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Engine(Protocol):
    """Drives operations. Rows are the truth: an engine may forget everything, and the sweep finds it again."""

    def submit(self, operation_id: str, site_id: str | None = None) -> None:
        """Drive an operation, of which site its machines are, until it has to wait. From any thread; again is harmless."""

    def schedule(self, name: str, every_s: float, duty: Callable[[], None]) -> None:
        """Run a duty periodically and when ``name`` is signalled; once at a time over all brokers of a store."""

    def start(self) -> None:
        """Take up what was under way, and begin the duties."""

    def stop(self) -> None:
        """Let steps under way finish, start no new ones."""
