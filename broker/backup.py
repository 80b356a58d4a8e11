"""Backup and restore: one file with all that the broker knows.

The file is a tar of rows as JSON lines, not the database's own format: so a backup of SQLite is restored into PostgreSQL and
the other way round, and one of an older schema is brought up to date by the same migrations as a database.

    backup.json             what this is: format, schema, broker, fingerprint of the key, rows of each table
    tables/NAME.jsonl.gz    one row a line, all tables as of one moment
    settings.toml           the config file
    key                     only when asked for
    images/ID/...           only when asked for
    SHA256SUMS              of all before it; without it the file is cut off
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast

from sqlalchemy import Connection, DateTime, MetaData, Table, func, insert, inspect, select, text, update
from sqlalchemy.engine import make_url

from broker.sealing import Sealer
from broker.settings import Settings
from broker.store import DutyRow, EventRow, MetaRow, OperationRow, Row, Store

FORMAT = 1
_HEADER, _SUMS, _SETTINGS, _KEY = "backup.json", "SHA256SUMS", "settings.toml", "key"
_NOT_KEPT = {DutyRow.__tablename__}
"""Who runs which duty now: nobody does after a restore."""
_AT_ONCE = 1000
_BLOCK = 1 << 16
_NUMBERS_LEFT_OUT = 1_000_000
"""Events of after the backup are lost, but their numbers are known to those who follow them: the next ones are higher."""

Progress = Callable[[str, int, int], None]
"""Called with what is done, how much of it, and of how much: rows or bytes."""


class BackupError(Exception):
    """A backup cannot be made or restored; says what to do."""


@dataclass(frozen=True)
class Header:
    """What a backup says of itself."""

    format: int
    revision: str
    broker_id: str
    key_fingerprint: str
    data_dir: str
    made_at: str
    software: str
    tables: dict[str, int]
    images: bool

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(self.tables.values())


def quiet(what: str, done: int, total: int) -> None:
    """Progress that nobody sees."""


# -- making one --------------------------------------------------------------------------------------------------


def write(
    settings: Settings,
    file: Path,
    *,
    software: str,
    config: Path | None = None,
    with_key: bool = False,
    with_images: bool = False,
    now: datetime | None = None,
    progress: Progress = quiet,
) -> Header:
    """Write a backup of a broker that may be at work, mode 0600. Raises BackupError, SealError, OSError."""
    fingerprint = Sealer.fingerprint(settings.key_file)
    if file.exists():
        raise BackupError(f"{file} exists: choose another name, or remove it")
    part = file.with_name(file.name + ".part")
    store = Store(settings.database_url)
    sums: dict[str, str] = {}
    try:
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.fchmod(handle, 0o600)
        with (
            os.fdopen(handle, "wb") as out,
            tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar,
            _snapshot(store) as connection,
        ):
            revision = store.revision(connection)
            if revision != store.newest_revision():
                raise BackupError(
                    f"the database has the schema {revision or 'of no broker'}, and this version works with "
                    f"{store.newest_revision()}: back up with the version that runs on it, or start this one once"
                )
            tables = [table for table in Row.metadata.sorted_tables if table.name not in _NOT_KEPT]
            header = Header(
                format=FORMAT,
                revision=store.newest_revision(),
                broker_id=connection.scalar(
                    select(MetaRow.__table__.c.value).where(MetaRow.__table__.c.key == "broker_id")
                )
                or "",
                key_fingerprint=fingerprint,
                data_dir=str(settings.data_dir.absolute()),
                made_at=(now or datetime.now(UTC)).isoformat(),
                software=software,
                tables={
                    table.name: connection.scalar(select(func.count()).select_from(table)) or 0
                    for table in tables
                },
                images=with_images,
            )
            _add(tar, sums, _HEADER, json.dumps(vars(header), indent=1).encode())
            for table in tables:
                with tempfile.TemporaryFile(dir=file.parent) as rows:
                    _write_rows(connection, table, rows, header.tables[table.name], progress)
                    _add_file(tar, sums, f"tables/{table.name}.jsonl.gz", rows)
            if config is not None:
                _add(tar, sums, _SETTINGS, config.read_bytes())
            if with_key:
                _add(tar, sums, _KEY, settings.key_file.read_bytes())
            if with_images:
                _add_images(tar, sums, settings.data_dir / "images", progress)
            listed = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
            _add(tar, {}, _SUMS, listed.encode())
            tar.close()
            out.flush()
            os.fsync(out.fileno())
        part.replace(file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    finally:
        store.close()
    return header


@contextmanager
def _snapshot(store: Store) -> Iterator[Connection]:
    """All that is read is of one moment; nobody waits for it, and it waits for nobody."""
    options: dict[str, Any] = {"read_only": True}
    if not store.is_sqlite:  # where a read transaction is a snapshot anyway
        options["isolation_level"] = "REPEATABLE READ"
    with store.engine.connect().execution_options(**options) as connection:
        yield connection
        connection.rollback()


def _write_rows(connection: Connection, table: Table, out: IO[bytes], total: int, progress: Progress) -> None:
    done = 0
    with gzip.GzipFile(fileobj=out, mode="wb", mtime=0, compresslevel=6) as packed:
        for some in connection.execution_options(yield_per=_AT_ONCE).execute(select(table)).partitions():
            for row in some:
                packed.write(
                    json.dumps(row._asdict(), default=_plain, separators=(",", ":")).encode() + b"\n"
                )
            done += len(some)
            progress(table.name, done, total)


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"a row holds a {type(value).__name__}")


def _add(tar: tarfile.TarFile, sums: dict[str, str], name: str, content: bytes) -> None:
    _add_file(tar, sums, name, io.BytesIO(content))


def _add_file(tar: tarfile.TarFile, sums: dict[str, str], name: str, file: IO[bytes]) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = file.seek(0, os.SEEK_END), 0o600
    file.seek(0)
    reading = _Summed(file)
    tar.addfile(entry, cast(IO[bytes], reading))
    sums[name] = reading.digest()


def _add_images(tar: tarfile.TarFile, sums: dict[str, str], folder: Path, progress: Progress) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    total, done = sum(path.stat().st_size for path in files), 0
    for path in files:
        with path.open("rb") as file:
            _add_file(tar, sums, f"images/{path.relative_to(folder)}", file)
        done += path.stat().st_size
        progress("images", done, total)


class _Summed:
    """A file whose checksum is known when it was read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._sum = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        some = self._file.read(size)
        self._sum.update(some)
        return some

    def digest(self) -> str:
        """Of what was read, in hexadecimal."""
        return self._sum.hexdigest()


# -- restoring one -----------------------------------------------------------------------------------------------


def verify(file: Path, progress: Progress = quiet) -> Header:
    """Read a backup from end to end and compare its checksums. Raises BackupError."""
    sums: dict[str, str] = {}
    listed: str | None = None
    header: Header | None = None
    try:
        total = file.stat().st_size
        with tarfile.open(file, mode="r:") as tar:
            for entry in tar:
                content = tar.extractfile(entry)
                if content is None:
                    raise BackupError(f"{file} holds {entry.name!r}, which is no file: it is no backup")
                if entry.name == _SUMS:
                    listed = content.read().decode()
                    continue
                reading = _Summed(content)
                if entry.name == _HEADER:
                    header = _header(file, reading.read())
                while reading.read(_BLOCK):
                    pass
                sums[entry.name] = reading.digest()
                progress("checksums", entry.offset_data + entry.size, total)
    except FileNotFoundError:
        raise BackupError(f"{file} does not exist") from None
    except (tarfile.TarError, EOFError, UnicodeDecodeError) as error:
        raise BackupError(f"{file} is no backup, or is damaged: {error}") from None
    if header is None:
        raise BackupError(f"{file} is no backup of Isthmus")
    if listed is None:
        raise BackupError(f"{file} is cut off: its end is missing. Take another backup")
    expected = {name: digest for digest, name in (line.split("  ", 1) for line in listed.splitlines())}
    if wrong := sorted(
        name for name in expected.keys() | sums.keys() if expected.get(name) != sums.get(name)
    ):
        raise BackupError(
            f"{file} is damaged: {', '.join(wrong)} is not what was written. Take another backup"
        )
    return header


def _header(file: Path, content: bytes) -> Header:
    try:
        values = json.loads(content)
        number = int(values["format"])
    except (ValueError, KeyError, TypeError):
        raise BackupError(f"{file} is no backup of Isthmus") from None
    if number > FORMAT:
        raise BackupError(
            f"{file} has the format {number}, and this version reads {FORMAT}: restore it with the version that made it, "
            f"{values.get('software', 'a newer one')}"
        )
    return Header(**{name: values[name] for name in Header.__dataclass_fields__})


def restore(
    settings: Settings,
    file: Path,
    *,
    replace: bool = False,
    now: datetime | None = None,
    progress: Progress = quiet,
) -> Header:
    """Put a backup in the place of what ``settings`` name, all of its rows or none. No broker may run there meanwhile.

    Raises BackupError (also where something is already, unless ``replace``), StoreError.
    """
    header = verify(file, progress)
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tarfile.open(file, mode="r:") as tar:
        key = _check_key(settings, tar, header, replace)
        store = Store(settings.database_url)
        try:
            store.own(settings.data_dir / "lock")
            if header.revision not in store.revisions():
                raise BackupError(
                    f"{file} has the schema {header.revision}, which this version does not know: install {header.software} "
                    "or a newer version"
                )
            images = settings.data_dir / "images"
            if header.images and not replace and images.exists() and any(images.iterdir()):
                raise BackupError(f"{images} is not empty: restore elsewhere, or say --replace")
            if store.is_sqlite:
                _into_sqlite(settings, tar, header, replace, now or datetime.now(UTC), progress)
            else:
                with store.engine.begin() as connection:
                    _make_empty(store, connection, replace, now or datetime.now(UTC))
                    _fill(store, connection, settings, tar, header, now or datetime.now(UTC), progress)
        finally:
            store.close()
        if key is not None:
            _write_private(settings.key_file, key)
        if header.images:
            _restore_images(tar, images, progress)
    return header


def config_of(file: Path) -> bytes | None:
    """The config file in a backup; None when it has none."""
    with tarfile.open(file, mode="r:") as tar:
        return _content(tar, _SETTINGS)


def _check_key(settings: Settings, tar: tarfile.TarFile, header: Header, replace: bool) -> bytes | None:
    """The key of the backup, where it has to be written. Raises BackupError."""
    inside = _content(tar, _KEY)
    there = Sealer.fingerprint(settings.key_file) if settings.key_file.exists() else None
    if there == header.key_fingerprint:
        return None
    if inside is not None and (there is None or replace):
        return inside
    if there is None:
        raise BackupError(
            f"the secrets in the backup are sealed with the key {header.key_fingerprint}, which is not in it: "
            f"put that key file at {settings.key_file}, mode 0600"
        )
    raise BackupError(
        f"the secrets in the backup are sealed with the key {header.key_fingerprint}, and {settings.key_file} is {there}: "
        "put the key file of that broker there" + (", or say --replace" if inside is not None else "")
    )


def _into_sqlite(
    settings: Settings, tar: tarfile.TarFile, header: Header, replace: bool, now: datetime, progress: Progress
) -> None:
    """Make a new file beside the old one, which is kept under another name."""
    file = Path(make_url(settings.database_url).database or "")
    if file.exists() and not replace:
        raise BackupError(f"{file} exists: restore elsewhere, or say --replace")
    fresh = file.with_name(file.name + ".restoring")
    for suffix in ("", "-wal", "-shm"):
        Path(f"{fresh}{suffix}").unlink(missing_ok=True)
    os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT, 0o600))
    store = Store(f"sqlite:///{fresh}")
    try:
        with store.engine.begin() as connection:
            _fill(store, connection, settings, tar, header, now, progress)
    except BaseException:
        store.close()
        fresh.unlink(missing_ok=True)
        raise
    store.close()
    for suffix in ("", "-wal", "-shm"):
        old = Path(f"{file}{suffix}")
        if old.exists():
            old.replace(f"{file}.replaced{suffix}")
    fresh.replace(file)


def _make_empty(store: Store, connection: Connection, replace: bool, now: datetime) -> None:
    """Take the tables of a database away, in the transaction that makes new ones. Raises BackupError."""
    have = set(inspect(connection).get_table_names())
    if DutyRow.__tablename__ in have:
        holder = connection.scalar(select(DutyRow.__table__.c.holder).where(DutyRow.__table__.c.until > now))
        if holder is not None:
            raise BackupError(f"a broker runs on this database ({holder}): stop it, and wait a minute")
    ours = have & ({*Row.metadata.tables} | {"alembic_version"})
    if ours and not replace:
        raise BackupError("the database is not empty: name another one in database.url, or say --replace")
    old = MetaData()
    old.reflect(connection, only=sorted(ours))
    old.drop_all(connection)


def _fill(
    store: Store,
    connection: Connection,
    settings: Settings,
    tar: tarfile.TarFile,
    header: Header,
    now: datetime,
    progress: Progress,
) -> None:
    """Make the schema of the backup, write its rows, and bring both up to date."""
    store.upgrade(header.revision, connection)
    schema = MetaData()
    schema.reflect(connection)
    for table in reversed(schema.sorted_tables):  # a migration may have written rows of its own
        if table.name in header.tables:
            connection.execute(table.delete())
    for table in schema.sorted_tables:
        if table.name in header.tables:
            _read_rows(connection, table, tar, header.tables[table.name], progress)
    store.upgrade("head", connection)
    # No driver of before is at work any more: what was under way is taken up at once.
    claims = update(OperationRow.__table__).values(claim_token=None, claim_until=None)  # type: ignore[arg-type]
    connection.execute(claims)
    _move_images(connection, header.data_dir, str(settings.data_dir.absolute()))
    words = f"restored from the backup of {header.made_at}"
    number = _say_once(connection, "broker.restored", header.broker_id, words, now)
    if not store.is_sqlite:
        connection.execute(
            text("SELECT setval(pg_get_serial_sequence('event', 'seq'), :number)"), {"number": number}
        )


def _say_once(connection: Connection, kind: str, target: str, message: str, now: datetime) -> int:
    """Write an event whose number is higher than any that was seen; the number."""
    events = cast(Table, EventRow.__table__)
    number = (connection.scalar(select(func.max(events.c.seq))) or 0) + _NUMBERS_LEFT_OUT
    values: dict[str, Any] = {
        "seq": number,
        "time": now,
        "kind": kind,
        "target": target,
        "message": message,
        "data": {},
    }
    connection.execute(insert(events).values(**values))
    return number


def _read_rows(
    connection: Connection, table: Table, tar: tarfile.TarFile, total: int, progress: Progress
) -> None:
    times = [column.name for column in table.columns if isinstance(column.type, DateTime)]
    packed = tar.extractfile(f"tables/{table.name}.jsonl.gz")
    assert packed is not None  # noqa: S101 - its checksum was compared
    done = 0
    some: list[dict[str, Any]] = []

    def put() -> None:
        nonlocal done
        if some:
            connection.execute(insert(table), some)
            done += len(some)
            some.clear()
            progress(table.name, done, total)

    with gzip.open(packed, "rb") as lines:
        for line in lines:
            row = json.loads(line)
            for name in times:
                if row[name] is not None:
                    row[name] = datetime.fromisoformat(row[name])
            some.append(row)
            if len(some) >= _AT_ONCE:
                put()
    put()
    if done != total:
        raise BackupError(f"the backup has {done} rows of {table.name} and says {total}: take another one")


def _move_images(connection: Connection, before: str, now: str) -> None:
    """Files lie below the data directory, wherever that is."""
    images = Row.metadata.tables["image"]
    names = ("path", "kernel", "initrd")
    for row in connection.execute(select(images.c.id, *(images.c[name] for name in names))).all():
        moved = {
            name: now + row._mapping[name].removeprefix(before)
            for name in names
            if row._mapping[name].startswith(before + "/")
        }
        if moved:
            connection.execute(update(images).where(images.c.id == row.id).values(**moved))


def _restore_images(tar: tarfile.TarFile, folder: Path, progress: Progress) -> None:
    """Blocks of zeros become holes."""
    entries = [entry for entry in tar if entry.name.startswith("images/")]
    total, done = sum(entry.size for entry in entries), 0
    fresh = folder.with_name("images.restoring")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    for entry in entries:
        path = (fresh / entry.name.removeprefix("images/")).resolve()
        content = tar.extractfile(entry)
        if content is None or not path.is_relative_to(fresh.resolve()):
            raise BackupError(f"the backup holds a file {entry.name!r}: it is none of Isthmus")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as out:
            while block := content.read(_BLOCK):
                if block.strip(b"\0"):
                    out.write(block)
                else:
                    out.seek(len(block), os.SEEK_CUR)
                done += len(block)
                progress("images", done, total)
            out.truncate(entry.size)
    if folder.exists():
        old = folder.with_name("images.replaced")
        shutil.rmtree(old, ignore_errors=True)
        folder.replace(old)
    fresh.replace(folder)


def _content(tar: tarfile.TarFile, name: str) -> bytes | None:
    try:
        found = tar.extractfile(name)
    except KeyError:
        return None
    return found.read() if found is not None else None


def _write_private(path: Path, content: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.fchmod(handle, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
