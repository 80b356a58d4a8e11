"""Leases, budgets and constraints"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from broker.store.base import UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "usage",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("vm_id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("site", sa.String(), nullable=False),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("elastic", sa.Boolean(), nullable=False),
        sa.Column("spot", sa.Boolean(), nullable=False),
        sa.Column("vcpus", sa.Integer(), nullable=False),
        sa.Column("mem_mb", sa.Integer(), nullable=False),
        sa.Column("gpus", sa.Integer(), nullable=False),
        sa.Column("price_hour", sa.Double(), nullable=True),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_usage")),
    )
    with op.batch_alter_table("usage", schema=None) as batch_op:
        batch_op.create_index("ix_usage_live", ["ended_at", "elastic"], unique=False)
        batch_op.create_index(batch_op.f("ix_usage_project_id"), ["project_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_usage_started_at"), ["started_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_usage_vm_id"), ["vm_id"], unique=False)

    op.create_table(
        "capacity_reservation",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("status_reason", sa.String(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("vcpus", sa.Integer(), nullable=False),
        sa.Column("mem_mb", sa.Integer(), nullable=False),
        sa.Column("disk_gb", sa.Integer(), nullable=False),
        sa.Column("gpus", sa.Integer(), nullable=False),
        sa.Column("requirements", sa.String(), nullable=True),
        sa.Column("slots", sa.JSON(), nullable=False),
        sa.Column("start_at", UtcDateTime(), nullable=False),
        sa.Column("end_at", UtcDateTime(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"],
            ["project.id"],
            name=op.f("fk_capacity_reservation_project_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_capacity_reservation")),
        sa.UniqueConstraint("project_id", "name", name=op.f("uq_capacity_reservation_project_id")),
    )
    with op.batch_alter_table("capacity_reservation", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_capacity_reservation_project_id"), ["project_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_capacity_reservation_state"), ["state"], unique=False)

    # Column by column: a table that is made anew takes along, on SQLite, what refers to it.
    for column in (
        sa.Column("gpus", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("priority", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("preemptible", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("immediate", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("runtime_s", sa.Double(), nullable=True),
        sa.Column("deadline", UtcDateTime(), nullable=True),
        sa.Column("affinity", sa.JSON(), nullable=False, server_default="[]"),
        sa.Column("tuning", sa.JSON(), nullable=False, server_default="{}"),
        sa.Column("binding", sa.JSON(), nullable=False, server_default="{}"),
        sa.Column("capacity_reservation_id", sa.String(), nullable=True),
        sa.Column("target_host_id", sa.String(), nullable=True),
        sa.Column("interruptions", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("moved_at", UtcDateTime(), nullable=True),
    ):
        op.add_column("vm", column)
    op.create_index(op.f("ix_vm_capacity_reservation_id"), "vm", ["capacity_reservation_id"])
    op.create_index(op.f("ix_vm_target_host_id"), "vm", ["target_host_id"])
    op.create_index("ix_vm_project_age", "vm", ["project_id", "created_at", "id"])
