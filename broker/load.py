"""What the pool carries now, in the numbers that a policy's conditions and limits read."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import func, literal, select
from sqlalchemy.orm import Session

from broker.broker import Broker
from broker.states import VMState
from broker.store import HostRow, ProjectRow, UsageRow, VMRow
from placement import burst


def metrics(broker: Broker, session: Session) -> dict[str, float]:
    """What a policy's conditions read: seconds, counts, and fractions of what the local hosts have."""
    local = (HostRow.elastic.is_(False), HostRow.takes_vms)
    vcpus, vcpus_used, mem, mem_used, local_vms = session.execute(
        select(
            func.coalesce(func.sum(HostRow.vcpus_total), 0.0),
            func.coalesce(func.sum(HostRow.reserved_vcpus + HostRow.held_vcpus), 0.0),
            func.coalesce(func.sum(HostRow.mem_total_mb), 0.0),
            func.coalesce(func.sum(HostRow.reserved_mem_mb + HostRow.held_mem_mb), 0.0),
            func.coalesce(func.sum(HostRow.held_vms), 0),
        ).where(*local)
    ).one()
    suspended = select(func.count()).where(VMRow.state == VMState.SUSPENDED).scalar_subquery()
    asleep = session.scalar(select(suspended)) or 0
    bursting = session.execute(
        select(func.count(), func.coalesce(func.sum(VMRow.vcpus), 0)).where(
            VMRow.elastic, VMRow.state != VMState.TERMINATED
        )
    ).one()
    return burst.Load(
        waits=_waits(broker, session),
        vcpus=float(vcpus),
        vcpus_used=float(vcpus_used),
        mem_mb=float(mem),
        mem_used_mb=float(mem_used),
        local_vms=local_vms - asleep,
        burst_vms=bursting[0],
        burst_vcpus=float(bursting[1]),
    ).metrics()


def _waits(broker: Broker, session: Session) -> burst.Waits:
    """How long VMs without a host have waited that some host could take: never all of them are read."""
    now = broker.clock.now()
    who = (
        # In the statement itself: for a parameter SQLite takes no partial index.
        VMRow.state == literal(VMState.PENDING, VMRow.state.type, literal_execute=True),
        VMRow.host_id.is_(None),
        VMRow.reservation_id.is_(None),
        VMRow.unplaceable.is_(False),
    )
    length, first = session.execute(select(func.count(), func.min(VMRow.created_at)).where(*who)).one()
    if not length:
        return burst.Waits()
    # The 95th percentile lies between two neighbours, counted from the one that has waited longest.
    place = 0.05 * (length - 1)
    around = session.scalars(
        select(VMRow.created_at).where(*who).order_by(VMRow.created_at).offset(int(place)).limit(2)
    ).all()
    long, less = ((now - created).total_seconds() for created in (around[0], around[-1]))
    p95 = long + (less - long) * (place - int(place))
    return burst.Waits(length, p95, (now - first).total_seconds())


def cloud_use(broker: Broker, session: Session) -> burst.CloudUse:
    """What is in clouds now, and how many VMs were started there in the last hour."""
    found = burst.CloudUse()
    for name, vms, vcpus in session.execute(
        select(ProjectRow.name, func.count(), func.coalesce(func.sum(VMRow.vcpus), 0))
        .select_from(VMRow)
        .outerjoin(ProjectRow, ProjectRow.id == VMRow.project_id)  # outer: the VMs are read first
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
