"""One host's connection: every call runs in a thread of its own, with a deadline.

libvirt's calls cannot be interrupted. A call that misses its deadline is left behind in its (daemon) thread and
ends when keepalive closes the connection. While such a call is out, every further call to the host first asks
its libvirt for a sign of life, briefly: so a hung host costs its callers one deadline and then a second each,
other hosts' callers nothing, and one hung guest does not make its host look dead.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from providers.kvm import driver
from providers.port import Unreachable

T = TypeVar("T")
_SIGN_OF_LIFE_S = 1.0


@dataclass(frozen=True)
class Pending(Generic[T]):
    """A call under way."""

    number: int
    begun: float
    future: Future[T] = field(default_factory=Future)


class Connection:
    """Calls to the libvirt of one host. ``timeout_s`` is the deadline of each.

    Every action given to ``call`` must be idempotent: it is run a second time on a fresh connection when the
    one at hand turns out to be broken.
    """

    def __init__(
        self,
        uri: str,
        label: str,
        timeout_s: float,
        *,
        open_connection: Callable[[str], Any] = driver.open_connection,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.uri = uri
        self.label = label
        self._timeout_s = timeout_s
        self._open_connection = open_connection
        self._clock = clock
        self._open_lock = threading.Lock()
        self._current: Any = None
        self._late: dict[int, float] = {}
        self._numbers = itertools.count()
        self._ping: Future[object] | None = None
        self._ping_lock = threading.Lock()
        self._closed = False

    def call(self, action: Callable[[Any], T]) -> T:
        """``action(connection)`` within the deadline. Raises ProviderError, Unreachable when it is missed."""
        return self.result(self.submit(action))

    def submit(self, action: Callable[[Any], T]) -> Pending[T]:
        """Begin ``action(connection)`` in a thread of its own."""
        pending: Pending[T] = Pending(next(self._numbers), self._clock())

        def run() -> None:
            try:
                if self._late and not self._shows_life():
                    waited = self._clock() - min(list(self._late.values()), default=pending.begun)
                    raise Unreachable(
                        f"host {self.label}: libvirt has not answered a call for {waited:.0f} s"
                    )
                result = self._run(action)
            except BaseException as error:
                pending.future.set_exception(error)
            else:
                pending.future.set_result(result)
            finally:
                self._late.pop(pending.number, None)

        name = f"kvm-{self.label}-{pending.number}"
        threading.Thread(target=run, name=name, daemon=True).start()
        return pending

    def result(self, pending: Pending[T]) -> T:
        """What a submitted action answered, waiting until its deadline (from when it was submitted)."""
        try:
            return pending.future.result(timeout=max(0.0, pending.begun + self._timeout_s - self._clock()))
        except FutureTimeout:
            self._late[pending.number] = pending.begun
            if pending.future.done():  # it ended between the two lines above
                self._late.pop(pending.number, None)
            raise Unreachable(
                f"host {self.label}: no answer from libvirt within {self._timeout_s:g} s"
            ) from None

    def separate(self, timeout_s: float) -> Connection:
        """Another connection to the same host, with its own deadline, for long transfers. Close it after use."""
        return Connection(
            self.uri, self.label, timeout_s, open_connection=self._open_connection, clock=self._clock
        )

    def current(self) -> Any:
        """The open libvirt connection, or None. Makes no call."""
        connection = self._current
        return connection if connection is not None and _alive(connection) else None

    def close(self) -> None:
        """Drop the connection; calls that wait on it end with an error."""
        self._closed = True
        connection, self._current = self._current, None
        if connection is not None:
            with contextlib.suppress(driver.LibvirtError):
                connection.close()

    def _shows_life(self) -> bool:
        """Whether libvirt answers the simplest of questions within a second. Askers at once share the answer."""
        with self._ping_lock:
            if self._ping is None or self._ping.done():
                ping: Future[object] = Future()
                self._ping = ping

                def ask() -> None:
                    try:
                        ping.set_result(self._ensure_open()[0].getLibVersion())
                    except BaseException as error:
                        ping.set_exception(error)

                threading.Thread(target=ask, name=f"kvm-{self.label}-ping", daemon=True).start()
            asked = self._ping
        try:
            asked.result(timeout=_SIGN_OF_LIFE_S)
        except Exception:
            return False
        return True

    def _run(self, action: Callable[[Any], T]) -> T:
        for attempt in (1, 2):
            connection, fresh = self._ensure_open()
            try:
                return action(connection)
            except driver.LibvirtError as error:
                translated = driver.translate(error, self.label)
                if not isinstance(translated, Unreachable):
                    raise translated from error
                self._discard(connection)
                if fresh or attempt == 2:
                    raise translated from error
        raise AssertionError("unreachable code")

    def _ensure_open(self) -> tuple[Any, bool]:
        connection = self._current
        if connection is not None and _alive(connection):
            return connection, False
        with self._open_lock:
            connection = self._current
            if connection is not None and _alive(connection):
                return connection, False
            if self._closed:
                raise Unreachable(f"host {self.label}: the site is closed")
            self._current = None
            try:
                connection = self._open_connection(self.uri)
            except driver.LibvirtError as error:
                raise driver.translate(error, self.label) from error
            self._current = connection
            return connection, True

    def _discard(self, connection: Any) -> None:
        with self._open_lock:
            if self._current is connection:
                self._current = None
        with contextlib.suppress(driver.LibvirtError):
            connection.close()


def _alive(connection: Any) -> bool:
    """Whether the socket is open; asks nothing of the daemon."""
    try:
        return bool(connection.isAlive())
    except driver.LibvirtError:
        return False
