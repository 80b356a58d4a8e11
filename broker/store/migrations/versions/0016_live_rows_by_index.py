"""The index of burst VMs in the words that SQLite looks for, and one for the peers that are live"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("ix_vm_elastic", "vm")
    op.create_index(
        "ix_vm_elastic",
        "vm",
        ["state"],
        sqlite_where=sa.text("elastic = 1"),
        postgresql_where=sa.text("elastic"),
    )
    op.create_index("ix_peer_state", "peer", ["state"])
