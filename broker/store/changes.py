"""What has changed in the store, so that what a process keeps in memory is refreshed by that alone.

Each commit adds the names of what it changed: ``host:ID``, ``vm:ID``, ``address:SUBNET-ID``, or a whole kind of them
(``subnets``, ``tokens``).
A name is there only when the change can be read; whoever takes the names first and reads afterwards misses nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from sqlalchemy import event
from sqlalchemy.orm import ORMExecuteState, Session
from sqlalchemy.orm.attributes import get_history
from sqlalchemy.orm.base import PASSIVE_NO_INITIALIZE

from broker.size import SIZE
from broker.store.base import Row
from broker.store.network import GatewayRow, NetworkRow, SubnetRow
from broker.store.nic import AddressRow
from broker.store.project import ProjectRow, TokenRow
from broker.store.site import HostRow, SiteRow
from broker.store.vm import VMRow

ALL = "all"
"""Everything may have changed."""
SUBNETS = "subnets"
"""Which subnets there are."""
TOKENS = "tokens"
"""Which tokens there are, and what they let their bearers do."""

_MOST = 20_000
"""Names that are remembered; more are everything."""

_RESIDENT = (
    "host_id",
    "target_host_id",
    "state",
    *SIZE,
    "priority",
    "affinity",
    "elastic",
    "state_at",
    "preemptible",
    "runtime_s",
    "reservation_id",
)
"""What the pool knows of a VM that holds room; a new reason for its state, say, is nothing to it."""


class Changes:
    """Names of what has changed since they were last taken."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: set[str] = {ALL}
        self.version = 0
        """Grows with each change."""
        self.tokens = 0
        """Grows with each change of a token."""
        self.whole = False
        """Whether all changes come here, those of other processes too: otherwise nothing may be kept from one look to
        the next."""
        self.tell: Callable[[Session, set[str]], None] | None = None
        """Tells other processes, in the transaction that makes the change (``broker.bus``)."""

    def add(self, names: Iterable[str]) -> None:
        """Something has changed, and can be read."""
        with self._lock:
            self.version += 1
            names = set(names)
            self.tokens += not names.isdisjoint((TOKENS, ALL))
            self._names |= names - {TOKENS}
            if len(self._names) > _MOST:
                self._names = {ALL}

    def take(self) -> set[str]:
        """What has changed since the last time."""
        with self._lock:
            names, self._names = self._names, set()
        return names if self.whole else {ALL}


def mark(session: Session, *names: str) -> None:
    """Say what a statement that changes rows in bulk has changed, in the caller's transaction."""
    session.info.setdefault("changed", set()).update(names)


def listen(sessions: type[Session]) -> None:
    """Have sessions gather what they change, and add it to the ``changes`` of their ``info`` when it is committed."""
    event.listen(sessions, "before_flush", _gather)
    event.listen(sessions, "do_orm_execute", _gather_bulk)
    event.listen(sessions, "before_commit", _tell)
    event.listen(sessions, "after_commit", _add)
    event.listen(sessions, "after_rollback", _drop)


def _gather(session: Session, _context: object, _instances: object) -> None:
    names: set[str] = set()
    for row in session.new:
        names |= _names_of(row)
    for row in session.deleted:
        names |= {ALL} if isinstance(row, SiteRow) else _names_of(row)
        if isinstance(row, ProjectRow | GatewayRow):
            names.add(TOKENS)  # the database takes theirs along
    for row in session.dirty:
        if session.is_modified(row):
            names |= _names_of(row) if not isinstance(row, VMRow) or _matters(row) else set()
    if names:
        mark(session, *names)


def _matters(row: VMRow) -> bool:
    return any(get_history(row, name, PASSIVE_NO_INITIALIZE).has_changes() for name in _RESIDENT)


def _names_of(row: object) -> set[str]:
    if isinstance(row, HostRow):
        return {f"host:{row.id}"}
    if isinstance(row, VMRow):
        return {f"vm:{row.id}"}
    if isinstance(row, AddressRow):
        return {f"address:{row.subnet_id}"}
    if isinstance(row, TokenRow):
        return {TOKENS}
    return {SUBNETS} if isinstance(row, SubnetRow | NetworkRow) else set()


_TRACKED: tuple[type[Row], ...] = (HostRow, VMRow, AddressRow, SubnetRow, NetworkRow, SiteRow, TokenRow)


def _gather_bulk(state: ORMExecuteState) -> None:
    """A statement that changes rows in bulk says itself what it changes (option ``changes``), or it is everything."""
    if not (state.is_update or state.is_delete) or state.bind_mapper is None:
        return
    if issubclass(state.bind_mapper.class_, _TRACKED):
        mark(state.session, *state.execution_options.get("changes", (ALL,)))


def _tell(session: Session) -> None:
    changes: Changes | None = session.info.get("changes")
    if changes is None or changes.tell is None or session.in_nested_transaction():
        return
    session.flush()
    if names := session.info.get("changed"):
        changes.tell(session, names)


def _add(session: Session) -> None:
    if session.in_nested_transaction():
        return
    changes: Changes | None = session.info.get("changes")
    names = session.info.pop("changed", None)
    if names and changes is not None:
        changes.add(names)


def _drop(session: Session) -> None:
    session.info.pop("changed", None)
