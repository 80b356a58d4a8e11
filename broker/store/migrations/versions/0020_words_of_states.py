"""The words of states are checked by the database; a host's maintenance is no state of it any more"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from alembic import op

from broker.store import StoreError

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

_VM = (
    *("pending", "running", "stopping", "stopped", "suspending", "suspended"),
    *("migrating", "shutting-down", "terminated", "error"),
)
_WORDS: dict[str, dict[str, Sequence[str]]] = {
    "host": {"state": ("up", "unreachable")},
    "image": {"state": ("available", "deleted"), "visibility": ("private", "shared")},
    "image_realisation": {"state": ("available",)},
    "operation": {"state": ("running", "done", "failed", "cancelled")},
    "peer": {"state": ("bootstrap", "enrolled", "expired", "removed")},
    "reservation": {"state": ("scheduled", "active", "ended", "cancelled")},
    "site": {"state": ("new", "up", "unreachable")},
    "subnet": {"mode": ("bridge", "nat", "route", "tunnel")},
    "vm": {"state": _VM, "desired": _VM},
}
"""Table -> column -> the words that it may hold."""


def upgrade() -> None:
    host = sa.table("host", sa.column("state"))
    # Whether it is in maintenance was in a column of its own, too.
    op.execute(host.update().where(host.c.state == "maintenance").values(state="up"))
    for table, columns in _WORDS.items():
        _refuse_others(table, columns)
        checks = {
            f"ck_{table}_{column}": f"{column} IN ({', '.join(map(repr, words))})"
            for column, words in columns.items()
        }
        if op.get_bind().dialect.name == "sqlite":
            _check_on_sqlite(table, checks)
        else:
            for name, check in checks.items():
                op.create_check_constraint(op.f(name), table, check)


def _refuse_others(table: str, columns: Mapping[str, Sequence[str]]) -> None:
    for name, words in columns.items():
        column: sa.ColumnClause[str] = sa.column(name)
        found = sa.select(column).select_from(sa.table(table, column)).where(column.not_in(words)).limit(1)
        if (word := op.get_bind().scalar(found)) is not None:
            raise StoreError(
                f"the database holds {word!r} in {table}.{name}, which no version wrote there: it may be {', '.join(words)}"
            )


def _check_on_sqlite(table: str, checks: Mapping[str, str]) -> None:
    """SQLite adds no constraint to a table that is there. A CHECK changes nothing of what is stored, so that it may be written
    into the text of the schema (sqlite.org/lang_altertable.html, section 7): the table need not be made anew, which with
    many VMs takes long, and lets go of the rows that refer to it."""
    connection = op.get_bind()
    is_it = "WHERE type = 'table' AND name = :name"
    made = connection.scalar(sa.text(f"SELECT sql FROM sqlite_schema {is_it}"), {"name": table})  # noqa: S608 - a constant
    constraints = "".join(f", CONSTRAINT {name} CHECK ({check})" for name, check in checks.items())
    version = connection.scalar(sa.text("PRAGMA schema_version"))
    op.execute("PRAGMA writable_schema = ON")
    connection.execute(
        sa.text(f"UPDATE sqlite_schema SET sql = :sql {is_it}"),  # noqa: S608 - a constant
        {"sql": f"{str(made).rstrip().removesuffix(')')}{constraints})", "name": table},
    )
    op.execute(f"PRAGMA schema_version = {int(version or 0) + 1}")
    op.execute("PRAGMA writable_schema = OFF")
