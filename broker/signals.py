"""Signals: what wakes a waiting operation or duty before its time."""

from __future__ import annotations

import threading
from collections.abc import Callable

from broker import dry_run


class Signals:
    """Wakes what waits for a name: an operation, or a duty such as ``policy``. Losing a signal only costs time."""

    _MOST = 10_000
    """How many names are remembered; the one that was signalled longest ago is forgotten first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0
        self._counts: dict[str, int] = {}
        self._listeners: dict[str, set[Callable[[], None]]] = {}
        self.tell: Callable[[str], None] | None = None
        """Tells other brokers of a signal (``broker.bus``)."""

    def count(self, name: str) -> int:
        """A number that grows whenever ``name`` is signalled; 0 for a name that is not known."""
        with self._lock:
            return self._counts.get(name, 0)

    def set(self, name: str, *, tell: bool = True) -> None:
        """Wake all that wait for ``name``, also in other brokers of the store unless they told it (``tell``).

        A dry run wakes nobody.
        """
        if dry_run.is_on():
            return
        with self._lock:
            # One counter for all names, so that a forgotten name never counts back.
            self._last += 1
            self._counts.pop(name, None)
            self._counts[name] = self._last
            if len(self._counts) > self._MOST:
                del self._counts[next(iter(self._counts))]
            listeners = list(self._listeners.get(name, ()))
        for listener in listeners:
            listener()
        if tell and self.tell is not None:
            self.tell(name)

    def wait(self, name: str, seen: int, timeout_s: float) -> int:
        """Wait until the count of ``name`` is beyond ``seen``, or the time is up; the count then."""
        # Each waits on a lock of its own: one for all would wake every duty of the process at every signal.
        signalled = threading.Event()
        end = self.listen(name, signalled.set)
        try:
            if self.count(name) <= seen:
                signalled.wait(timeout_s)
        finally:
            end()
        return self.count(name)

    def listen(self, name: str, listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener`` (quick, from any thread) at each signal; returns what ends it."""
        with self._lock:
            self._listeners.setdefault(name, set()).add(listener)

        def end() -> None:
            with self._lock:
                listeners = self._listeners.get(name, set())
                listeners.discard(listener)
                if not listeners:
                    self._listeners.pop(name, None)

        return end
