"""Lists of one state or site, and addresses that have rested, are read from an index"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_vm_project_state", "vm", ["project_id", "state", "created_at", "id"])
    op.create_index("ix_vm_project_site", "vm", ["project_id", "site_id", "created_at", "id"])
    dated = sa.text("runtime_s IS NOT NULL")
    op.create_index("ix_vm_runtime", "vm", ["state"], sqlite_where=dated, postgresql_where=dated)
    rests = sa.text("rests_until IS NOT NULL")
    op.create_index(
        "ix_address_rests",
        "address",
        ["subnet_id", "rests_until"],
        sqlite_where=rests,
        postgresql_where=rests,
    )
