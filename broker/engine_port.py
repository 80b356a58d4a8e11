"""What the broker needs of a workflow engine. DBOS stands behind it; a swap costs one file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Turns(Protocol):
    """Who does a duty this time, of the brokers that share it."""

    def take_turn(self, name: str, rest_s: float) -> bool:
        """Take a duty for one time, unless another broker has it or it was done less than ``rest_s`` seconds ago."""

    def end_turn(self, name: str) -> None:
        """Say that a duty was done, for this time."""


class Engine(Protocol):
    """Drives operations. Rows are the truth: an engine may forget everything, and the sweep finds it again."""

    def submit(self, operation_id: str, site_id: str | None = None) -> None:
        """Drive an operation, of which site its machines are, until it has to wait. From any thread; again is harmless."""

    @property
    def turns(self) -> Turns:
        """For duties that brokers share."""

    def schedule(
        self,
        name: str,
        every_s: float,
        duty: Callable[[], None],
        *,
        shared: bool = False,
        rest_s: float = 0.0,
    ) -> None:
        """Run a duty periodically and when ``name`` is signalled; once at a time over all brokers of a store.

        ``shared``: in each of them, because they share its parts out by ``turns``, or each has its own.
        ``rest_s``: seconds from the end of one run to the next at the least.
        """

    def start(self) -> None:
        """Take up what was under way, and begin the duties."""

    def stop(self) -> None:
        """Let steps under way finish, start no new ones."""
