"""One broker: its store, clock, ids, secrets, providers and engine, passed to every function of this package."""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from sqlalchemy.exc import IntegrityError

from broker.clock import Clock, SystemClock
from broker.errors import InvalidRequest
from broker.ids import Ids, random_id
from broker.sealing import Sealer
from broker.settings import Settings
from broker.store import MetaRow, Store
from providers.port import Factory

if TYPE_CHECKING:
    from broker.engine.port import Engine
    from broker.site import Providers
    from placement.table import HostTable

log = structlog.get_logger()

Trace = Callable[[str, str, str], None]
"""Called with (operation id, phase, point) around every action; tests end the process here."""


def installed_kinds() -> dict[str, Callable[[], Factory]]:
    """The kinds of site of all installed packages (entry-point group ``isthmus.providers``)."""
    return {point.name: point.load for point in entry_points(group="isthmus.providers")}


class Broker:
    """The parts of one broker. It holds no state that the store does not: any process may end at any moment."""

    def __init__(
        self,
        settings: Settings,
        *,
        store: Store | None = None,
        clock: Clock | None = None,
        ids: Ids = random_id,
        kinds: dict[str, Callable[[], Factory]] | None = None,
        trace: Trace | None = None,
    ) -> None:
        from broker.site import Providers

        self.settings = settings
        self.store = store or Store(settings.database_url)
        self.clock: Clock = clock or SystemClock()
        self.new_id = ids
        self.sealer = Sealer.from_file(settings.key_file)
        self.kinds = installed_kinds() if kinds is None else kinds
        self.trace: Trace = trace or (lambda operation, phase, point: None)
        self.signals = Signals()
        self.providers: Providers = Providers(self)
        self.engine: Engine | None = None
        self.placing = threading.Lock()
        self.reconciling: set[str] = set()
        self.reconciling_lock = threading.Lock()
        self.last_round = (-1, 0.0)
        self.last_table: tuple[list[str], list[dict[str, Any]], HostTable] | None = None
        """Host ids, their attributes and the table of the last snapshot, to make the next one from."""
        self.round_rests_until = 0.0
        self.policy_file_text = self.policy_file_problem = ""
        self.id = self._own_id()

    @property
    def images_dir(self) -> Path:
        """Where the catalogue's files lie."""
        return self.settings.data_dir / "images"

    def kind(self, name: str) -> Factory:
        """The provider of a kind of site. Raises InvalidRequest when it is not installed."""
        try:
            return self.kinds[name]()
        except KeyError:
            known = ", ".join(sorted(self.kinds))
            raise InvalidRequest(f"there is no kind of site {name!r}", hint=f"known kinds: {known}") from None
        except ImportError as error:
            raise InvalidRequest(
                f"sites of kind {name!r} need a package that is not installed: {error}",
                hint=f"pip install 'isthmus-server[{name}]'",
            ) from None

    def submit(self, operation_id: str) -> None:
        """Hand an operation to the engine. Without an engine the sweep of one that starts later finds it."""
        self.signals.set(operation_id)
        if self.engine is not None:
            self.engine.submit(operation_id)

    def close(self) -> None:
        """Drop providers and connections."""
        self.providers.close()
        self.store.close()

    def _own_id(self) -> str:
        try:
            with self.store.transaction() as session:
                row = session.get(MetaRow, "broker_id")
                if row is None:
                    row = MetaRow(key="broker_id", value=self.new_id("brk"))
                    session.add(row)
                return row.value
        except IntegrityError:
            # Another broker on the same new database was faster: it is its id that counts.
            with self.store.transaction() as session:
                return session.get_one(MetaRow, "broker_id").value


class Signals:
    """Wakes what waits for a name: an operation, or a duty such as ``policy``. Losing a signal only costs time."""

    _MOST = 10_000
    """How many names are remembered; the one that was signalled longest ago is forgotten first."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._last = 0
        self._counts: dict[str, int] = {}
        self._listeners: dict[str, set[Callable[[], None]]] = {}

    def count(self, name: str) -> int:
        """A number that grows whenever ``name`` is signalled; 0 for a name that is not known."""
        with self._lock:
            return self._counts.get(name, 0)

    def set(self, name: str) -> None:
        """Wake all that wait for ``name``."""
        with self._lock:
            # One counter for all names, so that a forgotten name never counts back.
            self._last += 1
            self._counts.pop(name, None)
            self._counts[name] = self._last
            if len(self._counts) > self._MOST:
                del self._counts[next(iter(self._counts))]
            listeners = list(self._listeners.get(name, ()))
            self._lock.notify_all()
        for listener in listeners:
            listener()

    def wait(self, name: str, seen: int, timeout_s: float) -> int:
        """Wait until the count of ``name`` is beyond ``seen``, or the time is up; the count then."""
        with self._lock:
            self._lock.wait_for(lambda: self._counts.get(name, 0) > seen, timeout_s)
            return self._counts.get(name, 0)

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
