"""Versions, owners and visibility of images, and what each site has of them as rows"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import sqlalchemy as sa
from alembic import op

from broker.store.base import UtcDateTime

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

_KEPT = (
    "id",
    "state",
    "status_reason",
    "format",
    "path",
    "sha256",
    "size_bytes",
    "architecture",
    "kernel",
    "initrd",
    "cmdline",
    "created_at",
)
"""Columns that stay as they are."""
_LIVES = "state != 'deleted'"


def upgrade() -> None:
    sites = _sites()
    if op.get_bind().dialect.name == "sqlite":
        _make_anew()
    else:
        _alter()
    for name, columns, where in (
        ("uq_image_shared_version", ["family", "version"], f"project_id IS NULL AND {_LIVES}"),
        ("uq_image_project_version", ["project_id", "family", "version"], _LIVES),
    ):
        op.create_index(
            name, "image", columns, unique=True, sqlite_where=sa.text(where), postgresql_where=sa.text(where)
        )
    op.create_table(
        "image_realisation",
        sa.Column("image_id", sa.String(), nullable=False),
        sa.Column("site_id", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("status_reason", sa.String(), nullable=False),
        sa.Column("ref", sa.String(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("image_id", "site_id", name=op.f("pk_image_realisation")),
        sa.ForeignKeyConstraint(
            ["image_id"], ["image.id"], name=op.f("fk_image_realisation_image_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["site_id"], ["site.id"], name=op.f("fk_image_realisation_site_id"), ondelete="CASCADE"
        ),
    )
    op.create_index(op.f("ix_image_realisation_site_id"), "image_realisation", ["site_id"])
    if sites:
        names = ("image_id", "site_id", "ref", "state", "status_reason")
        times = (sa.column(name, UtcDateTime()) for name in ("created_at", "updated_at"))
        rows = sa.table("image_realisation", *(sa.column(name) for name in names), *times)
        op.get_bind().execute(rows.insert(), sites)


def _sites() -> list[dict[str, object]]:
    """What the map of each image says of sites that are there; it kept the names of those that are gone."""
    connection = op.get_bind()
    site = sa.table("site", sa.column("id"), sa.column("name"))
    known = {name: site_id for site_id, name in connection.execute(sa.select(site.c.id, site.c.name))}
    image = sa.table(
        "image",
        *(sa.column(name) for name in ("id", "state")),
        sa.column("sites", sa.JSON()),
        sa.column("created_at", UtcDateTime()),
    )
    found = sa.select(image.c.id, image.c.sites, image.c.created_at).where(image.c.state != "deleted")
    return [
        {
            "image_id": image_id,
            "site_id": known[name],
            "ref": ref,
            "state": "available",
            "status_reason": "",
            "created_at": created_at,
            "updated_at": created_at,
        }
        for image_id, given, created_at in connection.execute(found).all()
        for name, ref in _pairs(given)
        if name in known and ref
    ]


def _pairs(given: object) -> Iterator[tuple[str, str]]:
    found = json.loads(given) if isinstance(given, str) else given
    if isinstance(found, Mapping):
        yield from ((str(name), str(ref)) for name, ref in found.items())


def _columns() -> list[sa.Column[object]]:
    """The new ones."""
    return [
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=True),
        sa.Column("visibility", sa.String(), nullable=False),
        sa.Column("min_disk_gb", sa.Integer(), nullable=False),
        sa.Column("login_user", sa.String(), nullable=False),
        sa.Column("deprecated_at", UtcDateTime(), nullable=True),
    ]


_VALUES = {"version": 1, "visibility": "shared", "min_disk_gb": 0, "login_user": ""}
"""Of the images of before: all had them."""


def _alter() -> None:
    op.drop_constraint("uq_image_name", "image", type_="unique")
    op.alter_column("image", "name", new_column_name="family")
    op.drop_column("image", "sites")
    for column in _columns():
        value = _VALUES.get(column.name)
        if value is not None:
            column.server_default = sa.DefaultClause(str(value))
        op.add_column("image", column)
        if value is not None:
            op.alter_column("image", column.name, server_default=None)
    op.create_foreign_key(
        "fk_image_project_id", "image", "project", ["project_id"], ["id"], ondelete="SET NULL"
    )


def _make_anew() -> None:
    """SQLite drops no constraint, so the table is made again. VMs refer to it by its name: what they refer to is gone for a
    moment, which it is told to look for at the end, and the rows must come back into a table of that name."""
    op.execute("PRAGMA defer_foreign_keys = ON")
    op.execute("CREATE TABLE image_before AS SELECT * FROM image")
    op.drop_table("image")
    op.create_table(
        "image",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("family", sa.String(), nullable=False),
        *_columns(),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("status_reason", sa.String(), nullable=False),
        sa.Column("format", sa.String(), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("architecture", sa.String(), nullable=False),
        sa.Column("kernel", sa.String(), nullable=False),
        sa.Column("initrd", sa.String(), nullable=False),
        sa.Column("cmdline", sa.String(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_image")),
        sa.ForeignKeyConstraint(
            ["project_id"], ["project.id"], name=op.f("fk_image_project_id"), ondelete="SET NULL"
        ),
    )
    before = sa.table("image_before", sa.column("name"), *(sa.column(name) for name in _KEPT))
    image = sa.table("image", *(sa.column(name) for name in ("family", *_KEPT, *_VALUES)))
    op.execute(
        image.insert().from_select(
            ["family", *_KEPT, *_VALUES],
            sa.select(
                before.c.name,
                *(before.c[name] for name in _KEPT),
                *(sa.literal(value) for value in _VALUES.values()),
            ),
        )
    )
    op.drop_table("image_before")
