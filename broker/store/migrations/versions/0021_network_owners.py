"""Owners and visibility of networks, and prefixes that two networks may have"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from broker.store.base import UtcDateTime

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

_NETWORK = ("id", "name", "cidr", "created_at")
_SUBNET = ("id", "network_id", "site_id", "cidr", "mode", "gateway", "bridge", "dns", "reserved", "mtu")
"""Columns that stay as they are."""
_VISIBLE = "visibility IN ('private', 'shared')"
_MODES = "mode IN ('bridge', 'nat', 'route', 'tunnel')"


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        _make_anew()
    else:
        _alter()
    unowned = sa.text("project_id IS NULL")
    op.create_index(
        "uq_network_shared_name",
        "network",
        ["name"],
        unique=True,
        sqlite_where=unowned,
        postgresql_where=unowned,
    )


def _alter() -> None:
    op.drop_constraint("uq_network_name", "network", type_="unique")
    op.add_column("network", sa.Column("project_id", sa.String(), nullable=True))
    # The networks of before: all had them.
    op.add_column("network", sa.Column("visibility", sa.String(), nullable=False, server_default="shared"))
    op.alter_column("network", "visibility", server_default=None)
    op.create_check_constraint(op.f("ck_network_visibility"), "network", _VISIBLE)
    op.create_unique_constraint("uq_network_project_id", "network", ["project_id", "name"])
    op.create_foreign_key(
        "fk_network_project_id", "network", "project", ["project_id"], ["id"], ondelete="SET NULL"
    )
    op.drop_constraint("uq_subnet_cidr", "subnet", type_="unique")
    op.create_unique_constraint("uq_subnet_network_cidr", "subnet", ["network_id", "cidr"])


def _make_anew() -> None:
    """SQLite drops no constraint, so both tables are made again: subnets first go and last come, since a network takes its own
    with it. What refers to them refers to nothing for a moment, which it is told to look for at the end."""
    op.execute("PRAGMA defer_foreign_keys = ON")
    for table in ("subnet", "network"):
        op.execute(f"CREATE TABLE {table}_before AS SELECT * FROM {table}")  # noqa: S608 - a constant
        op.drop_table(table)
    op.create_table(
        "network",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=True),
        sa.Column("visibility", sa.String(), nullable=False),
        sa.Column("cidr", sa.String(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_network")),
        sa.ForeignKeyConstraint(
            ["project_id"], ["project.id"], name=op.f("fk_network_project_id"), ondelete="SET NULL"
        ),
        sa.UniqueConstraint("project_id", "name", name=op.f("uq_network_project_id")),
        sa.CheckConstraint(_VISIBLE, name=op.f("ck_network_visibility")),
    )
    op.create_table(
        "subnet",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("network_id", sa.String(), nullable=False),
        sa.Column("site_id", sa.String(), nullable=False),
        sa.Column("cidr", sa.String(), nullable=False),
        sa.Column("mode", sa.String(), nullable=False),
        sa.Column("gateway", sa.String(), nullable=False),
        sa.Column("bridge", sa.String(), nullable=False),
        sa.Column("dns", sa.JSON(), nullable=False),
        sa.Column("reserved", sa.JSON(), nullable=False),
        sa.Column("mtu", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subnet")),
        sa.ForeignKeyConstraint(
            ["network_id"], ["network.id"], name=op.f("fk_subnet_network_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["site_id"], ["site.id"], name=op.f("fk_subnet_site_id")),
        sa.UniqueConstraint("network_id", "site_id", name=op.f("uq_subnet_network_id")),
        sa.UniqueConstraint("network_id", "cidr", name="uq_subnet_network_cidr"),
        sa.CheckConstraint(_MODES, name=op.f("ck_subnet_mode")),
    )
    for table, columns, new in (("network", _NETWORK, {"visibility": "shared"}), ("subnet", _SUBNET, {})):
        before = sa.table(f"{table}_before", *map(sa.column, columns))
        now = sa.table(table, *map(sa.column, (*columns, *new)))
        kept = sa.select(
            *(before.c[name] for name in columns), *(sa.literal(value) for value in new.values())
        )
        op.execute(now.insert().from_select([*columns, *new], kept))
        op.drop_table(f"{table}_before")
