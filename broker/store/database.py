"""Connections and transactions, alike on SQLite and PostgreSQL."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, func, inspect, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DisconnectionError, SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

from broker import dry_run
from broker.store import changes, claim

_UPGRADE_LOCK = 0x6973_7468
"""Any number that no other program locks in the same database."""
_PREPARED = 500
"""Statements that a connection to PostgreSQL keeps prepared: more than a broker has."""
TRUSTED_S = 1.0
"""How long a connection that rests is believed to be alive: to ask each time would cost a round trip a transaction, and a
server that was started anew was away for longer."""
_WRITING = ("INSERT", "UPDATE", "DELETE")
_RESTS_SINCE = "isthmus_rests_since"


class _Session(Session):
    """A session of a broker's store: it keeps what VMs hold in the rows of their hosts and projects."""


claim.listen(_Session)
changes.listen(_Session)


class _ReadSession(Session):
    """A session that writes nothing, whatever is done to the rows in it."""

    def flush(self, objects: Sequence[Any] | None = None) -> None:
        """Nothing: changes are not kept."""


BESIDE: ContextVar[Callable[[Session], None] | None] = ContextVar("beside", default=None)
"""What else each transaction of this call writes, at its beginning: the request that asked for it."""


class StoreError(Exception):
    """The database cannot be used; says what to do."""


class Store:
    """One database. Rows that leave a transaction are detached and stay readable."""

    def __init__(self, url: str) -> None:
        """Raises StoreError when the driver of the database is not installed."""
        self.url = url
        parsed = make_url(url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self.engine: Engine = create_engine(url, connect_args={"timeout": 30, "check_same_thread": False})
            event.listen(self.engine, "connect", _prepare_sqlite)
            event.listen(self.engine, "begin", _begin_immediate)
        else:
            if parsed.drivername == "postgresql":
                parsed = parsed.set(drivername="postgresql+psycopg")
            try:
                # The connection used last is taken next: the one that has the most statements prepared.
                self.engine = create_engine(parsed, pool_size=10, max_overflow=20, pool_use_lifo=True)
            except ModuleNotFoundError as error:
                raise StoreError(f"{error}: pip install 'isthmus-server[postgres]'") from error
            event.listen(self.engine, "connect", _prepare_postgresql)
            event.listen(self.engine, "checkin", _note_rest)
            event.listen(self.engine, "checkout", _look_after_rest)
        event.listen(self.engine, "before_cursor_execute", _refuse_to_write)
        self.changes = changes.Changes()
        """What was committed here (and, where somebody tells, by other processes) since it was last taken."""
        self._sessions = sessionmaker(
            self.engine, class_=_Session, expire_on_commit=False, info={"changes": self.changes}
        )
        # SQLite has one writer at a time and lets the others poll: of many threads some would wait beyond the timeout.
        # So those of this process queue up before it.
        self._writing: AbstractContextManager[Any] = threading.RLock() if self.is_sqlite else nullcontext()
        self._lock_file: int | None = None

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A transaction that commits at the end or leaves nothing behind. Make no network call inside.

        In a dry run (``broker.dry_run``) the database checks what it wrote, and it leaves nothing behind either.
        """
        beside = BESIDE.get()
        with self._writing, self._sessions.begin() as session:
            if beside is not None:
                beside(session)
            yield session
            if dry_run.is_on():
                _take_back(session)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """What there is, to read from; it never waits for a writer on SQLite. Changes are not kept.

        On SQLite all of it is of one moment. On PostgreSQL each statement is, as in any of its transactions.
        """
        with self._looking() as connection, _ReadSession(connection, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def _looking(self) -> Iterator[Connection]:
        """A connection that ends without a rollback on PostgreSQL, after which the driver forgets its prepared statements
        (psycopg, "Prepared statements"): then each statement would be planned anew each time."""
        options: dict[str, Any] = {"read_only": True}
        if not self.is_sqlite:
            options["isolation_level"] = "AUTOCOMMIT"
        with self.engine.connect().execution_options(**options) as connection:
            yield connection

    def time_there(self) -> datetime:
        """What time it is on the database's server (PostgreSQL)."""
        with self._looking() as connection:
            there: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
            return there.astimezone(UTC)

    def upgrade(self, revision: str = "head", connection: Connection | None = None) -> None:
        """Bring the schema to a revision, the newest unless said; in the transaction of a connection that is given.

        Raises StoreError; also when a newer version has upgraded it, of which this one knows nothing.
        """
        config = self._migrations()
        config.attributes["engine"] = self.engine
        config.attributes["connection"] = connection
        try:
            with self._only_one_upgrades() if connection is None else nullcontext():
                self._refuse_newer(connection)
                command.upgrade(config, revision)
            if self.is_sqlite and connection is None:
                self._forget_statistics()
        except SQLAlchemyError as error:
            raise StoreError(f"cannot prepare the database: {error}") from error

    def _refuse_newer(self, connection: Connection | None) -> None:
        with self.engine.connect() if connection is None else nullcontext(connection) as looking:
            there = self.revision(looking)
        if there is not None and there not in self.revisions():
            raise StoreError(
                f"a newer version of Isthmus has upgraded the database, to schema {there}; this one knows schemas up to "
                f"{self.newest_revision()}: install the newer version here, or restore the backup made before its upgrade"
            )

    def revision(self, connection: Connection) -> str | None:
        """The revision of the schema that is there; None where there is none."""
        return MigrationContext.configure(connection).get_current_revision()

    def newest_revision(self) -> str:
        """The revision of the schema that this version works with."""
        return str(ScriptDirectory.from_config(self._migrations()).get_current_head())

    def revisions(self) -> Sequence[str]:
        """All revisions that this version knows."""
        return [one.revision for one in ScriptDirectory.from_config(self._migrations()).walk_revisions()]

    def _migrations(self) -> Config:
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        return config

    @contextmanager
    def _only_one_upgrades(self) -> Iterator[None]:
        """Of several brokers that start at once on PostgreSQL, one makes the schema and the others wait."""
        if self.is_sqlite:
            yield
            return
        with self.engine.connect() as connection:
            connection.execute(select(func.pg_advisory_lock(_UPGRADE_LOCK)))
            try:
                yield
            finally:
                connection.execute(select(func.pg_advisory_unlock(_UPGRADE_LOCK)))

    def own(self, path: Path) -> None:
        """On SQLite, be the only broker. Raises StoreError when another one runs on this file."""
        if not self.is_sqlite:
            return
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise StoreError(
                "another broker runs on this SQLite database: stop it, or set database.url to postgresql+psycopg://... "
                "to run several"
            ) from None
        self._lock_file = handle
        self.changes.whole = True

    def _forget_statistics(self) -> None:
        # Our indexes are for how SQLite reads without. With those of a database of one project, and VMs in one state, it finds
        # both useless, and looks at all VMs where it should begin with the project's or with those that wait.
        with self.engine.connect() as connection:
            if inspect(connection).has_table("sqlite_stat1"):
                connection.exec_driver_sql("DROP TABLE sqlite_stat1")
                connection.commit()

    def close(self) -> None:
        """Drop all connections."""
        self.engine.dispose()
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None


def _take_back(session: Session) -> None:
    session.flush()
    # As they would leave it: a rollback has the rows that are still in the session forget what was read and written.
    session.expunge_all()
    session.rollback()


def _refuse_to_write(connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
    """What is for reading commits each statement on PostgreSQL."""
    if connection.get_execution_options().get("read_only", False) and statement.startswith(_WRITING):
        raise StoreError(f"a transaction that is for reading was to write: {statement.split()[0]}")


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # The driver's own transaction handling begins late and deferred; SQLAlchemy's "begin" hook does it instead.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _prepare_postgresql(connection: Any, _record: Any) -> None:
    connection.prepared_max = _PREPARED
    connection.autocommit = True
    # docs/adr/0005-statements-to-postgresql.md has the reasons, and what each of them is worth.
    connection.execute("SET jit = off; SET plan_cache_mode = force_custom_plan")
    connection.autocommit = False


def _note_rest(_connection: Any, record: ConnectionPoolEntry) -> None:
    record.info[_RESTS_SINCE] = time.monotonic()


def _look_after_rest(connection: Any, record: ConnectionPoolEntry, _proxy: Any) -> None:
    """Before a connection that has rested is used, see whether the server still knows it."""
    since = record.info.get(_RESTS_SINCE)
    if since is None or time.monotonic() - since < TRUSTED_S:
        return
    try:
        connection.autocommit = True
        connection.execute("SELECT 1")
        connection.autocommit = False
    except Exception as error:
        raise DisconnectionError from error  # the pool makes a new one


def _begin_immediate(connection: Any) -> None:
    # A deferred transaction that reads and then writes fails with "database is locked" under contention.
    read_only = connection.get_execution_options().get("read_only", False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
