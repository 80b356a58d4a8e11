"""Disk counts in quotas, disk and GPUs in usage"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Column by column, as in 0002.
    op.add_column("project", sa.Column("quota_disk_gb", sa.Integer(), nullable=True))
    op.add_column("project", sa.Column("used_disk_gb", sa.BigInteger(), nullable=False, server_default="0"))
    for name in ("disk_gb", "gpus"):
        op.add_column("usage", sa.Column(name, sa.Integer(), nullable=False, server_default="0"))
    for name in ("disk_gib_hours", "gpu_hours"):
        op.add_column("usage_month", sa.Column(name, sa.Double(), nullable=False, server_default="0"))
    vm = sa.table("vm", *(sa.column(name) for name in ("id", "project_id", "state", "disk_gb", "gpus")))
    project = sa.table("project", sa.column("id"), sa.column("used_disk_gb"))
    used = (
        sa.select(sa.func.coalesce(sa.func.sum(vm.c.disk_gb), 0))
        .where(vm.c.project_id == project.c.id, vm.c.state != "terminated")
        .scalar_subquery()
    )
    op.execute(project.update().values(used_disk_gb=used))
    # A VM keeps the size that it was made with. What is known of one that is pruned stays as it is.
    usage = sa.table("usage", *(sa.column(name) for name in ("vm_id", "disk_gb", "gpus")))
    same = vm.c.id == usage.c.vm_id
    op.execute(
        usage.update()
        .where(sa.exists().where(same))
        .values({name: sa.select(vm.c[name]).where(same).scalar_subquery() for name in ("disk_gb", "gpus")})
    )
