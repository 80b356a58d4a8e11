"""What VMs hold of hosts and use of quotas, as columns; a quota of GPUs; indexes of burst VMs"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_HELD = {
    "held_vms": sa.Integer(),
    "held_vcpus": sa.Integer(),
    "held_mem_mb": sa.BigInteger(),
    "held_gpus": sa.Integer(),
    "held_dedicated_cpus": sa.Integer(),
    "held_hugepages_mb": sa.BigInteger(),
}
_USED = {
    "used_vms": sa.Integer(),
    "used_vcpus": sa.Integer(),
    "used_mem_mb": sa.BigInteger(),
    "used_gpus": sa.Integer(),
}


def upgrade() -> None:
    # Column by column, as in 0002.
    for table, columns in (("host", _HELD), ("project", _USED)):
        for name, kind in columns.items():
            op.add_column(table, sa.Column(name, kind, nullable=False, server_default="0"))
    op.add_column("project", sa.Column("quota_gpus", sa.Integer(), nullable=True))
    op.create_index(
        "ix_vm_elastic",
        "vm",
        ["state"],
        sqlite_where=sa.text("elastic"),
        postgresql_where=sa.text("elastic"),
    )
    waiting = sa.text("host_id IS NULL AND state = 'pending'")
    op.create_index("ix_vm_waiting", "vm", ["created_at"], sqlite_where=waiting, postgresql_where=waiting)
    op.create_index("ix_vm_site", "vm", ["site_id", "state"])
    _count()


def _count() -> None:
    """As ``broker.claim`` does now; written out, because a migration does not change with the code."""
    vm = sa.table(
        "vm",
        *(
            sa.column(name)
            for name in ("project_id", "host_id", "target_host_id", "state", "vcpus", "mem_mb", "gpus")
        ),
        sa.column("dedicated_cpus", sa.Boolean()),
        sa.column("hugepages", sa.Boolean()),
    )
    host = sa.table("host", sa.column("id"), *(sa.column(name) for name in _HELD))
    project = sa.table("project", sa.column("id"), *(sa.column(name) for name in _USED))
    awake = vm.c.state != "suspended"
    amounts = {
        "held_vms": sa.literal(1),
        "held_vcpus": sa.case((awake & ~vm.c.dedicated_cpus, vm.c.vcpus), else_=0),
        "held_mem_mb": sa.case((awake & ~vm.c.hugepages, vm.c.mem_mb), else_=0),
        "held_gpus": vm.c.gpus,
        "held_dedicated_cpus": sa.case((vm.c.dedicated_cpus, vm.c.vcpus), else_=0),
        "held_hugepages_mb": sa.case((vm.c.hugepages, vm.c.mem_mb), else_=0),
    }
    there = sa.or_(vm.c.host_id == host.c.id, vm.c.target_host_id == host.c.id)
    op.execute(
        host.update().values(
            {
                name: sa.select(sa.func.coalesce(sa.func.sum(amount), 0))
                .where(there, vm.c.state != "terminated")
                .scalar_subquery()
                for name, amount in amounts.items()
            }
        )
    )
    used = {
        "used_vms": sa.literal(1),
        "used_vcpus": vm.c.vcpus,
        "used_mem_mb": vm.c.mem_mb,
        "used_gpus": vm.c.gpus,
    }
    op.execute(
        project.update().values(
            {
                name: sa.select(sa.func.coalesce(sa.func.sum(amount), 0))
                .where(vm.c.project_id == project.c.id, vm.c.state != "terminated")
                .scalar_subquery()
                for name, amount in used.items()
            }
        )
    )
