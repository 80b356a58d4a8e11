"""What the pool carries now, in the numbers that a policy's conditions and limits read."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from broker import flavor
from broker.broker import Broker
from broker.states import HostState, OperationState, VMState
from broker.store import HostRow, OperationRow, ProjectRow, UsageRow, VMRow
from placement import burst


def metrics(broker: Broker, session: Session) -> dict[str, float]:
    """What a policy's conditions read: seconds, counts, and fractions of what the local hosts have."""
    now = broker.clock.now()
    waits = [
        (now - created).total_seconds()
        for created in session.scalars(
            select(VMRow.created_at)
            .join(OperationRow, OperationRow.id == VMRow.operation_id)
            .where(VMRow.state == VMState.PENDING, VMRow.host_id.is_(None), VMRow.reservation_id.is_(None))
            .where(OperationRow.state == OperationState.RUNNING, VMRow.unplaceable.is_(False))
        )
    ]
    local = (HostRow.elastic.is_(False), HostRow.state == HostState.UP)
    totals = session.execute(
        select(
            func.coalesce(func.sum(HostRow.vcpus_total), 0.0),
            func.coalesce(func.sum(HostRow.reserved_vcpus), 0.0),
            func.coalesce(func.sum(HostRow.mem_total_mb), 0.0),
            func.coalesce(func.sum(HostRow.reserved_mem_mb), 0.0),
        ).where(*local)
    ).one()
    vcpus, vcpus_used, mem, mem_used = totals
    local_vms, vm_vcpus, vm_mem = session.execute(
        select(
            func.count(VMRow.id),
            func.coalesce(func.sum(flavor.SHARED_VCPUS), 0),
            func.coalesce(func.sum(flavor.ORDINARY_MEM_MB), 0),
        )
        .join(HostRow, HostRow.id == VMRow.host_id)
        .where(VMRow.state.not_in((VMState.TERMINATED, VMState.SUSPENDED)), *local)
    ).one()
    vcpus_used, mem_used = vcpus_used + float(vm_vcpus), mem_used + float(vm_mem)
    bursting = session.execute(
        select(func.count(), func.coalesce(func.sum(VMRow.vcpus), 0)).where(
            VMRow.elastic, VMRow.state != VMState.TERMINATED
        )
    ).one()
    return burst.Load(
        waits=waits,
        vcpus=vcpus,
        vcpus_used=vcpus_used,
        mem_mb=mem,
        mem_used_mb=mem_used,
        local_vms=local_vms,
        burst_vms=bursting[0],
        burst_vcpus=float(bursting[1]),
    ).metrics()


def cloud_use(broker: Broker, session: Session) -> burst.CloudUse:
    """What is in clouds now, and how many VMs were started there in the last hour."""
    found = burst.CloudUse()
    for name, vms, vcpus in session.execute(
        select(ProjectRow.name, func.count(), func.coalesce(func.sum(VMRow.vcpus), 0))
        .join(VMRow, VMRow.project_id == ProjectRow.id)
        .where(VMRow.elastic, VMRow.state != VMState.TERMINATED)
        .group_by(ProjectRow.name)
    ):
        found.projects[name] = (vms, float(vcpus))
        found.vms, found.vcpus = found.vms + vms, found.vcpus + float(vcpus)
    found.launches = (
        session.scalar(
            select(func.count())
            .select_from(UsageRow)
            .where(UsageRow.elastic, UsageRow.started_at > broker.clock.now() - timedelta(hours=1))
        )
        or 0
    )
    return found
