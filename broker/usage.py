"""Usage records: who held room where, for how long, at what price.

Each stay is a row. Months that are long over are summed up (``roll_up``), and their rows go (``broker.retention``): what is
before the moment ``summed_until`` is read from the sums, what is after it from the stays. The budget's ledger needs no
sums: a stay that ended this month is always there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from broker import access
from broker.actor import Actor
from broker.broker import Broker
from broker.errors import InvalidRequest
from broker.size import Amounts, Dimensions
from broker.store import HostRow, MetaRow, UsageMonthRow, UsageRow, VMRow
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
            **Dimensions.of(row).as_dict(),
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
    """Project name -> core-seconds that it held; what was held a half-life ago counts half.

    A month that is summed up counts as if its use had been even.
    """
    now = broker.clock.now().timestamp()
    since = datetime.fromtimestamp(now - 10 * half_life_s, UTC)
    summed = summed_until(session)
    found: dict[str, float] = {}

    def add(project: str, cores: float, started: datetime, ended: datetime | None) -> None:
        first = max(started, since).timestamp() - now
        last = (ended.timestamp() if ended else now) - now
        # The integral of 2 ** (t / half-life) over the stay.
        scale = half_life_s / _LN2
        weight = scale * (2 ** (min(last, 0.0) / half_life_s) - 2 ** (min(first, 0.0) / half_life_s))
        found[project] = found.get(project, 0.0) + cores * max(0.0, weight)

    first = since
    if summed is not None and summed > since:
        first = summed
        query = select(UsageMonthRow.month, UsageMonthRow.project, func.sum(UsageMonthRow.vcpu_hours))
        query = query.where(UsageMonthRow.month >= _month(since)).group_by(
            UsageMonthRow.month, UsageMonthRow.project
        )
        for month, project, vcpu_hours in session.execute(query):
            end = _next_month(month)
            add(project, vcpu_hours * 3600 / (end - month).total_seconds(), month, end)
    rows = session.execute(
        select(UsageRow.project, UsageRow.vcpus, UsageRow.started_at, UsageRow.ended_at).where(
            or_(UsageRow.ended_at.is_(None), UsageRow.ended_at >= first)
        )
    )
    for project, vcpus, started, ended in rows:
        add(project, vcpus, max(started, first), ended)
    return found


_LN2 = 0.6931471805599453


@dataclass
class Hours:
    """What some stays come to. ``held``: what they held, times the hours of it."""

    held: Amounts = field(default_factory=Amounts)
    cost: float = 0.0
    unpriced_hours: float = 0.0

    def add(self, row: UsageRow, first: datetime, last: datetime) -> None:
        """Count a stay, as far as it is between two moments."""
        hours = (min(row.ended_at or last, last) - max(row.started_at, first)).total_seconds() / 3600
        self.held += row.held * hours
        if row.price_hour is None:
            self.unpriced_hours += hours
        else:
            self.cost += hours * row.price_hour

    def add_month(self, row: UsageMonthRow) -> None:
        """Count a month that is summed up."""
        self.held += row.held_hours
        self.cost += row.cost
        self.unpriced_hours += row.unpriced_hours


@dataclass(kw_only=True)
class UsageView(Hours):
    """One project's use of one site from ``since`` to ``until``.

    ``vms`` counts each once; in months that are summed up one that had been away for a whole month counts again.
    """

    project: str
    site: str
    elastic: bool
    since: datetime
    until: datetime
    vms: int = 0


def report(
    broker: Broker, actor: Actor, *, since: datetime | None = None, until: datetime | None = None
) -> Sequence[UsageView]:
    """What the caller's project used, by site; for admins every project's. Without times this month (UTC) until now.

    Raises InvalidRequest, also for a time within a month of which only the sum is left.
    """
    access.require(actor, "usage.list")
    now = broker.clock.now()
    for time in (since, until):
        if time is not None and time.tzinfo is None:
            raise InvalidRequest("a time has no time zone", hint="such as 2026-12-01T00:00:00+00:00")
    first = since or _month(now)
    last = min(until or now, now)
    if first >= last:
        raise InvalidRequest(
            f"the time from {first} to {last} is empty", hint="move its beginning, or its end"
        )
    found: dict[tuple[str, str, bool], UsageView] = {}

    def view(key: tuple[str, str, bool]) -> UsageView:
        project, site, elastic = key
        made = UsageView(project=project, site=site, elastic=elastic, since=first, until=last)
        return found.setdefault(key, made)

    with broker.store.reading() as session:
        summed = summed_until(session)
        known: dict[tuple[str, str, bool], set[str]] = {}
        begin = first
        if summed is not None and first < summed:
            months = select(UsageMonthRow).where(
                UsageMonthRow.month >= _month(first), UsageMonthRow.month < min(last, summed)
            )
            months = access.visible(months, actor, UsageMonthRow, "usage.list")
            for month in session.scalars(months):
                if month.month < first or _next_month(month.month) > last:
                    raise InvalidRequest(
                        f"of {month.month:%Y-%m} there is only the sum of the whole month: its details are pruned "
                        "(setting retention.usage_days)",
                        hint=f"let the time begin and end with a month, such as at {_next_month(month.month).isoformat()}",
                    )
                one = view((month.project, month.site, month.elastic))
                one.add_month(month)
                one.vms += month.vms if month.month == _month(first) else month.new_vms
            begin = summed
            if last > summed:  # who was there in the last of these months is counted already
                for row in _stays(session, actor, _month(summed - _MOMENT), summed):
                    known.setdefault((row.project, row.site, row.elastic), set()).add(row.vm_id)
        seen: dict[tuple[str, str, bool], set[str]] = {}
        for row in _stays(session, actor, begin, last) if begin < last else ():
            key = (row.project, row.site, row.elastic)
            view(key).add(row, begin, last)
            seen.setdefault(key, set()).add(row.vm_id)
        for key, vms in seen.items():
            found[key].vms += len(vms - known.get(key, set()))
    return [found[key] for key in sorted(found)]


# -- months that are over ----------------------------------------------------------------------------------------

_SUMMED = "usage_summed_until"
_MOMENT = timedelta(microseconds=1)
_CHUNK = 5000
"""Stays that are read at once when a month is summed up."""


def summed_until(session: Session) -> datetime | None:
    """The first moment of which usage is not summed up; None when none is."""
    row = session.get(MetaRow, _SUMMED)
    return datetime.fromisoformat(row.value) if row is not None else None


def kept_since(session: Session) -> datetime | None:
    """Stays that ended before this moment are not read any more. The last month that is summed up keeps its own: who was
    there tells which VMs of the month after it are new."""
    summed = summed_until(session)
    return _month(summed - _MOMENT) if summed is not None else None


def roll_up(broker: Broker, before: datetime) -> int:
    """Sum up each whole month that ended by then; how many. Several brokers may do so at once, and again changes nothing.

    A month is read without a lock, as nothing of it changes any more, and its sums are written in one transaction.
    """
    done = 0
    while True:
        with broker.store.reading() as session:
            was = summed_until(session)
            first = session.scalar(select(func.min(UsageRow.started_at))) if was is None else was
        if first is None:
            return done
        begin = _month(first)
        end = _next_month(begin)
        if end > before or not _sum_up(broker, begin, end, was):
            return done
        done += 1


@dataclass
class _Sum(Hours):
    vms: set[str] = field(default_factory=set)


def _sum_up(broker: Broker, begin: datetime, end: datetime, was: datetime | None) -> bool:
    """Sum up one month; False when another broker was faster."""
    Key = tuple[str, str, str, bool]
    sums: dict[Key, _Sum] = {}
    before: dict[Key, set[str]] = {}
    with broker.store.reading() as session:
        for row in _every_stay(session, _month(begin - _MOMENT), end):
            key = (row.project_id, row.project, row.site, row.elastic)
            if row.started_at < begin:
                before.setdefault(key, set()).add(row.vm_id)
            if row.ended_at is None or row.ended_at > begin:
                one = sums.setdefault(key, _Sum())
                one.add(row, begin, end)
                one.vms.add(row.vm_id)
    try:
        with broker.store.transaction() as session:
            if was is None:
                session.add(MetaRow(key=_SUMMED, value=end.isoformat()))
                session.flush()
            else:
                moved = session.execute(
                    update(MetaRow)
                    .where(MetaRow.key == _SUMMED, MetaRow.value == was.isoformat())
                    .values(value=end.isoformat()),
                    execution_options={"synchronize_session": False},
                )
                if moved.rowcount != 1:  # type: ignore[attr-defined]
                    return False
            for (project_id, project, site, elastic), one in sums.items():
                session.add(
                    UsageMonthRow(
                        month=begin,
                        project_id=project_id,
                        project=project,
                        site=site,
                        elastic=elastic,
                        vms=len(one.vms),
                        new_vms=len(one.vms - before.get((project_id, project, site, elastic), set())),
                        **one.held.as_hours(),
                        cost=one.cost,
                        unpriced_hours=one.unpriced_hours,
                    )
                )
    except IntegrityError:
        return False
    return True


def _stays(session: Session, actor: Actor, first: datetime, last: datetime) -> Sequence[UsageRow]:
    query = select(UsageRow).where(
        UsageRow.started_at < last, or_(UsageRow.ended_at.is_(None), UsageRow.ended_at > first)
    )
    query = access.visible(query, actor, UsageRow, "usage.list")
    return session.scalars(query).all()


def _every_stay(session: Session, first: datetime, last: datetime) -> Iterator[UsageRow]:
    """Stays that touch a time, some at once."""
    query = select(UsageRow).where(
        UsageRow.started_at < last, or_(UsageRow.ended_at.is_(None), UsageRow.ended_at > first)
    )
    after = ""
    while True:
        rows = session.scalars(query.where(UsageRow.id > after).order_by(UsageRow.id).limit(_CHUNK)).all()
        yield from rows
        if len(rows) < _CHUNK:
            return
        after = rows[-1].id
        session.expunge_all()


def _month(time: datetime) -> datetime:
    return datetime.fromtimestamp(month_of(time.timestamp())[0], UTC)


def _next_month(time: datetime) -> datetime:
    return datetime.fromtimestamp(month_of(time.timestamp())[1], UTC)
