"""Labels of anything, by index; ids of flavors and key pairs; the EC2 client token apart from the labels"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_CLIENT_TOKEN = "aws:ec2:client-token"  # noqa: S105
"""The label that kept a launch's ClientToken."""
_BATCH = 1000


def upgrade() -> None:
    op.create_table(
        "label",
        sa.Column("resource", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sa.Column("noun", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("resource", "key", name=op.f("pk_label")),
    )
    op.create_index("ix_label_key", "label", ["key", "value", "resource"])
    # Column by column, as in 0002.
    op.add_column("vm", sa.Column("client_token", sa.String(), nullable=True))
    op.add_column("vm", sa.Column("launch_index", sa.Integer(), nullable=False, server_default="0"))
    op.create_index(op.f("ix_vm_client_token"), "vm", ["client_token"])
    _labels_of_vms()
    _launch_indexes()
    op.drop_column("vm", "labels")
    _ids("flavor", "flv", ["name"])
    _ids("key_pair", "key", ["project_id", "name"])


def _labels_of_vms() -> None:
    connection = op.get_bind()
    vm = sa.table("vm", sa.column("id"), sa.column("labels", sa.JSON()), sa.column("client_token"))
    label = sa.table("label", *(sa.column(name) for name in ("resource", "key", "value", "noun")))
    last = ""
    while some := connection.execute(
        sa.select(vm.c.id, vm.c.labels).where(vm.c.id > last).order_by(vm.c.id).limit(_BATCH)
    ).all():
        rows = []
        for vm_id, given in some:
            for key, value in _pairs(given):
                if key == _CLIENT_TOKEN:
                    connection.execute(vm.update().where(vm.c.id == vm_id).values(client_token=value))
                else:
                    rows.append({"resource": vm_id, "key": key, "value": value, "noun": "vm"})
        if rows:
            connection.execute(label.insert(), rows)
        last = some[-1][0]


def _launch_indexes() -> None:
    connection = op.get_bind()
    vm = sa.table("vm", *(sa.column(name) for name in ("id", "reservation", "launch_index")))
    index, before = 0, None
    ordered = sa.select(vm.c.id, vm.c.reservation).order_by(vm.c.reservation, vm.c.id)
    for vm_id, reservation in connection.execute(ordered).all():
        index = index + 1 if reservation == before else 0
        before = reservation
        if index:
            connection.execute(vm.update().where(vm.c.id == vm_id).values(launch_index=index))


def _pairs(given: object) -> Iterator[tuple[str, str]]:
    found = json.loads(given) if isinstance(given, str) else given
    if isinstance(found, Mapping):
        yield from ((str(key), str(value)) for key, value in found.items())


def _ids(table: str, prefix: str, names: list[str]) -> None:
    """An id for each row, of what named it before."""
    connection = op.get_bind()
    op.add_column(table, sa.Column("id", sa.String(), nullable=True))
    rows = sa.table(table, sa.column("id"), *(sa.column(name) for name in names))
    for found in connection.execute(sa.select(*(rows.c[name] for name in names))).all():
        digits = hashlib.sha256("/".join((table, *found)).encode()).hexdigest()[:17]
        same = [rows.c[name] == value for name, value in zip(names, found, strict=True)]
        connection.execute(rows.update().where(*same).values(id=f"{prefix}-{digits}"))
    # Nothing refers to these tables, so they may be made anew on SQLite.
    with op.batch_alter_table(table, schema=None) as batch_op:
        batch_op.alter_column("id", existing_type=sa.String(), nullable=False)
        batch_op.create_unique_constraint(batch_op.f(f"uq_{table}_id"), ["id"])
