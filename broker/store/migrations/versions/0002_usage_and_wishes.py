"""Usage records, and what VMs say for their place"""

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

    # Column by column: a table that is made anew takes along, on SQLite, what refers to it.
    for column in (
        sa.Column("priority", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("runtime_s", sa.Double(), nullable=True),
        sa.Column("deadline", UtcDateTime(), nullable=True),
        sa.Column("affinity", sa.JSON(), nullable=False, server_default="[]"),
        sa.Column("interruptions", sa.Integer(), nullable=False, server_default="0"),
    ):
        op.add_column("vm", column)
    op.create_index("ix_vm_project_age", "vm", ["project_id", "created_at", "id"])
