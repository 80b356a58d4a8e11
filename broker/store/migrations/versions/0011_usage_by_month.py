"""Usage by month, and an index for what is terminated"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "usage_month",
        sa.Column("month", sa.DateTime(timezone=True), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("site", sa.String(), nullable=False),
        sa.Column("elastic", sa.Boolean(), nullable=False),
        sa.Column("vms", sa.Integer(), nullable=False),
        sa.Column("new_vms", sa.Integer(), nullable=False),
        sa.Column("vm_hours", sa.Double(), nullable=False),
        sa.Column("vcpu_hours", sa.Double(), nullable=False),
        sa.Column("gib_hours", sa.Double(), nullable=False),
        sa.Column("cost", sa.Double(), nullable=False),
        sa.Column("unpriced_hours", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("month", "project_id", "project", "site", "elastic", name="pk_usage_month"),
    )
    op.create_index("ix_vm_terminated_at", "vm", ["terminated_at"])
