"""A PostgreSQL server of our own, on a socket in a directory of our own: for tests and benchmarks."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psycopg

FAST = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "shared_buffers": "32MB",
    "max_connections": "100",
    "listen_addresses": "",
}
"""For tests: nothing of it has to outlive a power cut."""

SOUND = {"shared_buffers": "256MB", "max_connections": "200", "listen_addresses": ""}
"""For benchmarks: as durable as a server in production."""

_READY_S = 60.0


class PostgreSQLError(Exception):
    """No server is installed, or it does not start; says what to do."""


class PostgreSQL:
    """One server. It ends with ``stop``, and with this process also when that is killed."""

    def __init__(self, folder: Path, settings: dict[str, str] = FAST) -> None:
        self.folder = folder
        self.settings = settings
        self._numbers = itertools.count(1)
        self._server: subprocess.Popen[bytes] | None = None
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parts[4]))
        if not found:
            raise PostgreSQLError("no PostgreSQL server in /usr/lib/postgresql/*/bin: run `make setup`")
        self._bin = found[-1].parent

    def start(self) -> None:
        """Make the cluster, and wait until the server answers. Raises PostgreSQLError."""
        data = self.folder / "data"
        # The server refuses to run as root.
        become = ["--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        if become:
            shutil.chown(self.folder, "postgres", "postgres")
        run_as = ["setpriv", *become, "--pdeathsig", "QUIT"]
        subprocess.run(
            [*run_as, self._bin / "initdb", "-D", data, "-A", "trust", "-U", "postgres", "--no-sync"],
            check=True,
            capture_output=True,
            cwd="/",
        )
        settings = {**self.settings, "unix_socket_directories": str(self.folder)}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("wb") as log:
            self._server = subprocess.Popen(
                [*run_as, self._bin / "postgres", "-D", data, *options], stdout=log, stderr=log, cwd="/"
            )
        deadline = time.monotonic() + _READY_S
        while True:
            try:
                self.execute("SELECT 1")
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self._server.poll() is not None:
                    said = (self.folder / "log").read_text()[-2000:]
                    raise PostgreSQLError(f"PostgreSQL did not start: {said}") from None
                time.sleep(0.05)

    def stop(self) -> None:
        """End the server and remove its directory."""
        if self._server is not None:
            # Fast, then at once (pg_ctl(1)): by the other signals sessions are waited for, or outlive their server.
            self._server.send_signal(signal.SIGINT)
            try:
                self._server.wait(5)
            except subprocess.TimeoutExpired:
                self._server.send_signal(signal.SIGQUIT)
                self._server.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def execute(self, statement: str) -> None:
        """Run one statement in the database ``postgres``, by itself."""
        where = f"host={self.folder} user=postgres dbname=postgres"
        with psycopg.connect(where, autocommit=True) as connection:
            connection.execute(statement.encode())

    def url(self, name: str) -> str:
        """Where a database of the server is, as SQLAlchemy takes it."""
        return f"postgresql+psycopg://postgres@/{name}?host={self.folder}"

    def database(self, *, template: str = "template0") -> str:
        """The URL of a new database."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def drop(self, url: str) -> None:
        """Remove a database, whoever is connected."""
        name = url.split("?")[0].rsplit("/", 1)[1]
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")
