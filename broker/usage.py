"""Usage records: who held room where, for how long, at what price."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from broker import access
from broker.actor import Actor
from broker.broker import Broker
from broker.errors import InvalidRequest
from broker.store import HostRow, UsageRow, VMRow
from placement.budget import Charge, Ledger, month_of
from placement.policy import Policy


def begin(broker: Broker, session: Session, row: VMRow, at: HostRow, *, anew: bool = False) -> None:
    """Write that a VM holds room on a host from now on, in the transaction of its claim. ``anew``: it held none before."""
    if not anew:
        end(broker, session, row.id)
    price = at.attributes.get("price_hour")
    session.add(
        UsageRow(
            id=broker.new_id("use"),
            vm_id=row.id,
            project_id=row.project_id,
            project=row.project.name,
            site=at.site.name,
            host=at.name,
            elastic=at.elastic,
            spot=bool(at.attributes.get("spot")),
            vcpus=row.vcpus,
            mem_mb=row.mem_mb,
            price_hour=float(price) if isinstance(price, int | float) else None,
            started_at=broker.clock.now(),
            ended_at=None,
        )
    )


def end(broker: Broker, session: Session, *vm_ids: str) -> None:
    """Write that VMs hold no room any more, in the transaction that gives it up. Again changes nothing."""
    session.execute(
        update(UsageRow)
        .where(UsageRow.vm_id.in_(vm_ids), UsageRow.ended_at.is_(None))
        .values(ended_at=broker.clock.now()),
        execution_options={"synchronize_session": False},
    )


def ledger(broker: Broker, session: Session, policy: Policy | None) -> Ledger | None:
    """The budget's ledger now; None without a budget."""
    if policy is None or policy.budget is None:
        return None
    now = broker.clock.now().timestamp()
    timing = broker.settings.timing
    rows = session.scalars(
        select(UsageRow).where(
            UsageRow.elastic,
            UsageRow.price_hour.is_not(None),
            or_(
                UsageRow.ended_at.is_(None),
                UsageRow.ended_at >= datetime.fromtimestamp(month_of(now)[0], UTC),
            ),
        )
    )
    charges = [
        Charge(
            row.vm_id,
            row.project,
            row.price_hour or 0.0,
            row.started_at.timestamp(),
            row.ended_at.timestamp() if row.ended_at else None,
        )
        for row in rows
    ]
    billing_s = policy.burst.billing_boundary_s if policy.burst is not None else None
    return Ledger(
        policy.budget,
        charges,
        now,
        billing_s=billing_s,
        # A broker that was away for a while finds the budget as it left it: so much is kept back.
        tick_s=max(60.0, 2 * timing.policy_s),
        grace_s=timing.stop_grace_s + 2 * timing.provider_call_s + 120.0,
    )


def decayed(broker: Broker, session: Session, half_life_s: float) -> dict[str, float]:
    """Project name -> core-seconds that it held; what was held a half-life ago counts half."""
    now = broker.clock.now().timestamp()
    since = datetime.fromtimestamp(now - 10 * half_life_s, UTC)
    rows = session.execute(
        select(UsageRow.project, UsageRow.vcpus, UsageRow.started_at, UsageRow.ended_at).where(
            or_(UsageRow.ended_at.is_(None), UsageRow.ended_at >= since)
        )
    )
    found: dict[str, float] = {}
    for project, vcpus, started, ended in rows:
        first = max(started, since).timestamp() - now
        last = (ended.timestamp() if ended else now) - now
        # The integral of 2 ** (t / half-life) over the stay.
        scale = half_life_s / _LN2
        weight = scale * (2 ** (min(last, 0.0) / half_life_s) - 2 ** (min(first, 0.0) / half_life_s))
        found[project] = found.get(project, 0.0) + vcpus * max(0.0, weight)
    return found


_LN2 = 0.6931471805599453


@dataclass
class UsageView:
    """One project's use of one site from ``since`` to ``until``; hours of VMs, of their vCPUs, of their GiB of memory."""

    project: str
    site: str
    elastic: bool
    since: datetime
    until: datetime
    vms: int = 0
    vm_hours: float = 0.0
    vcpu_hours: float = 0.0
    gib_hours: float = 0.0
    cost: float = 0.0
    unpriced_hours: float = 0.0


def report(
    broker: Broker, actor: Actor, *, since: datetime | None = None, until: datetime | None = None
) -> Sequence[UsageView]:
    """What the caller's project used, by site; for admins every project's. Without times this month (UTC) until now.

    Raises InvalidRequest.
    """
    access.require(actor, "usage.list")
    now = broker.clock.now()
    for time in (since, until):
        if time is not None and time.tzinfo is None:
            raise InvalidRequest("a time has no time zone", hint="such as 2026-12-01T00:00:00+00:00")
    first = since or datetime.fromtimestamp(month_of(now.timestamp())[0], UTC)
    last = min(until or now, now)
    if first >= last:
        raise InvalidRequest(
            f"the time from {first} to {last} is empty", hint="move its beginning, or its end"
        )
    query = select(UsageRow).where(
        UsageRow.started_at < last, or_(UsageRow.ended_at.is_(None), UsageRow.ended_at > first)
    )
    query = access.visible(query, actor, UsageRow, "usage.list")
    found: dict[tuple[str, str, bool], UsageView] = {}
    seen: dict[tuple[str, str, bool], set[str]] = {}
    with broker.store.reading() as session:
        for row in session.scalars(query):
            key = (row.project, row.site, row.elastic)
            view = found.setdefault(key, UsageView(*key, since=first, until=last))
            hours = (min(row.ended_at or last, last) - max(row.started_at, first)).total_seconds() / 3600
            seen.setdefault(key, set()).add(row.vm_id)
            view.vm_hours += hours
            view.vcpu_hours += hours * row.vcpus
            view.gib_hours += hours * row.mem_mb / 1024
            if row.price_hour is None:
                view.unpriced_hours += hours
            else:
                view.cost += hours * row.price_hour
    for key, vms in seen.items():
        found[key].vms = len(vms)
    return [found[key] for key in sorted(found)]
