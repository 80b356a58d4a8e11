"""How long VMs wait is read from an index alone"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

_WAITING = sa.text("host_id IS NULL AND state = 'pending'")


def upgrade() -> None:
    op.drop_index("ix_vm_waiting", "vm")
    op.create_index(
        "ix_vm_waiting",
        "vm",
        ["unplaceable", "reservation_id", "created_at"],
        sqlite_where=_WAITING,
        postgresql_where=_WAITING,
    )
