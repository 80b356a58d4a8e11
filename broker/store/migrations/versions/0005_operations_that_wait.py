"""Operations that wait for somebody instead of the clock, and the site that one works on"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("operation") as batch:
        batch.add_column(sa.Column("site_id", sa.String(), nullable=True))
        batch.alter_column("next_at", existing_type=sa.DateTime(timezone=True), nullable=True)
        batch.create_index("ix_operation_due", ["state", "next_at"])
        batch.create_index("ix_operation_over", ["ended_at"])
    operation = sa.table(
        "operation",
        *(sa.column(name) for name in ("id", "kind", "target", "state", "phase", "site_id", "next_at")),
    )
    vm = sa.table("vm", *(sa.column(name) for name in ("id", "host_id", "site_id")))
    of_vm = sa.select(vm.c.site_id).where(vm.c.id == operation.c.target).scalar_subquery()
    op.execute(operation.update().where(operation.c.state == "running").values(site_id=of_vm))
    # A launch whose host was given back just when the broker stopped looks for another one.
    homeless = sa.select(vm.c.id).where(vm.c.host_id.is_(None))
    launching = ("image", "network", "peer", "launch", "boot", "enrol")
    op.execute(
        operation.update()
        .where(
            operation.c.state == "running", operation.c.phase.in_(launching), operation.c.target.in_(homeless)
        )
        .values(phase="place")
    )
