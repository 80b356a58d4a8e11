"""GPUs, dedicated CPUs and huge pages of flavors, VMs and reservations; VMs that no host could take"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Column by column, as in 0002.
    for table in ("flavor", "vm", "reservation"):
        op.add_column(table, sa.Column("gpus", sa.Integer(), nullable=False, server_default="0"))
        for name in ("dedicated_cpus", "hugepages"):
            op.add_column(table, sa.Column(name, sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("vm", sa.Column("unplaceable", sa.Boolean(), nullable=False, server_default=sa.false()))
