"""Advance reservations, VMs that may be suspended, and VMs on the move"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from broker.store.base import UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "reservation",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("flavor", sa.String(), nullable=False),
        sa.Column("vcpus", sa.Integer(), nullable=False),
        sa.Column("mem_mb", sa.Integer(), nullable=False),
        sa.Column("disk_gb", sa.Integer(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("requirements", sa.String(), nullable=True),
        sa.Column("start_at", UtcDateTime(), nullable=False),
        sa.Column("end_at", UtcDateTime(), nullable=False),
        sa.Column("slots", sa.JSON(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["project.id"], name=op.f("fk_reservation_project_id_project")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reservation")),
    )
    with op.batch_alter_table("reservation", schema=None) as batch_op:
        batch_op.create_index("ix_reservation_end", ["state", "end_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_reservation_project_id"), ["project_id"], unique=False)

    # Column by column, as in 0002.
    op.add_column("vm", sa.Column("preemptible", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("vm", sa.Column("immediate", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("vm", sa.Column("reservation_id", sa.String(), nullable=True))
    op.add_column("vm", sa.Column("target_host_id", sa.String(), nullable=True))
