"""How many steps of a process work at a time, apart from those that wait for a provider."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

AT_ONCE = 1
"""Steps that run Python and SQL in a process at a time."""


class Slots:
    """Steps take turns at what they do themselves, and wait for providers beside each other.

    What a step does itself is Python and short transactions. A dozen threads that do so end no sooner than one after the
    other, since one interpreter runs them all; but a request that comes meanwhile shares it with each of them: a page of
    VMs of 25 ms then took half a second (``bench/scale``).
    """

    def __init__(self, count: int = AT_ONCE) -> None:
        self._free = threading.Semaphore(count)
        self._mine = threading.local()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Wait for a slot and keep it; a thread takes one at a time."""
        with self._free:
            self._mine.held = True
            try:
                yield
            finally:
                self._mine.held = False

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Leave the slot to others meanwhile; nothing for a thread that has none."""
        if not getattr(self._mine, "held", False):
            yield
            return
        self._mine.held = False
        self._free.release()
        try:
            yield
        finally:
            self._free.acquire()
            self._mine.held = True
