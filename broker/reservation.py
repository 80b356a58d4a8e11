"""Advance reservations: room on hosts of one's own that is kept for a project from one time to another.

A reservation is accepted only when its room is sure (``placement.lease``), and nobody who is let in later makes it late.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from broker import access, event, expression, flavor, label, pool, project
from broker.actor import Actor
from broker.broker import Broker
from broker.errors import Exists, InvalidRequest, NoRoom, NotFound, WrongState
from broker.size import DIMENSIONS, Amounts
from broker.states import LIVE_RESERVATION, HostState, ReservationState
from broker.store import LABELS, EventRow, FlavorRow, HostRow, ProjectRow, ReservationRow, SiteRow, VMRow
from placement.lease import Book

_LONGEST = timedelta(days=366)
_PATIENCE_S = 60.0
"""How long a host may be silent before room that is reserved there is looked for elsewhere."""
_LOOKED_AFTER_S = 900.0
"""How long after its start rounds are run for a reservation's sake alone: its room is free by then."""


def create(
    broker: Broker,
    actor: Actor,
    *,
    name: str,
    flavor_ref: str,
    count: int,
    start_at: datetime | None,
    end_at: datetime,
    requirements: str | None = None,
    labels: Mapping[str, str] | None = None,
) -> ReservationRow:
    """Reserve room for ``count`` VMs of a flavor. Without ``start_at`` it begins now.

    Raises InvalidRequest, InvalidExpression, NotFound, Exists, QuotaExceeded, and NoRoom with the earliest time at which
    there would be room.
    """
    access.require(actor, "reservation.create", actor.project_id)
    expression.check_text("requirements", requirements)
    now = broker.clock.now()
    start = start_at or now
    _check_times(now, start, end_at)

    def decide() -> ReservationRow:
        with broker.store.transaction() as session:
            owner = project.find(session, actor, actor.project_id, lock=True)
            size = flavor.find(session, flavor_ref)
            if session.scalar(
                select(ReservationRow.id).where(
                    ReservationRow.project_id == owner.id,
                    ReservationRow.name == name,
                    ReservationRow.state.in_(LIVE_RESERVATION),
                )
            ):
                raise Exists("reservation", name)
            project.check_quota(
                owner,
                size.size * count,
                have=_reserved(session, owner),
                verb="has reserved",
                instead="cancel reservations",
            )
            seen = pool.snapshot(broker, session, residents=True)
            row = ReservationRow(
                id=broker.new_id("res"),
                name=name,
                project_id=owner.id,
                state=ReservationState.SCHEDULED if start > now else ReservationState.ACTIVE,
                flavor=size.name,
                **size.size.as_dict(),
                count=count,
                requirements=requirements,
                start_at=start,
                end_at=end_at,
                slots={},
                created_at=now,
            )
            row.project = owner
            eligible = pool.eligible_for(seen, row)
            book = Book(
                seen.table,
                seen.residents,
                seen.reserved,
                seen.now,
                suspend_s=seen.suspend_s,
                suspends=seen.suspends,
            )
            wanted = pool.of_row(row, seen.index)
            slots = book.room(wanted, eligible)
            if slots is None:
                raise _no_room(row, book.earliest(wanted, eligible))
            row.slots = {seen.hosts[host].id: number for host, number in slots.items()}
            pool.claim(session, seen, row.slots)
            session.add(row)
            label.give(session, row, labels)
            event.record(
                broker,
                session,
                "reservation.created",
                row.id,
                f"{name} ({count} x {size.name} from {_time(start)} to {_time(end_at)}) reserved by {actor.name}",
                project_id=owner.id,
            )
        return row

    row = pool.decided(broker, decide)
    broker.signals.set("place")
    return row


def find(session: Session, actor: Actor, ref: str, *, lock: bool = False) -> ReservationRow:
    """A reservation by id, or by name among the live ones of the caller's project. Raises NotFound."""
    query = select(ReservationRow).where(
        (ReservationRow.id == ref)
        | (
            (ReservationRow.name == ref)
            & ReservationRow.state.in_(LIVE_RESERVATION)
            & (ReservationRow.project_id == actor.project_id)
        )
    )
    if lock:
        query = query.with_for_update(of=ReservationRow)
    row = session.scalar(query.options(LABELS))
    if row is None or not access.sees(actor, row.project_id, "reservation.get"):
        raise NotFound("reservation", ref)
    return row


def get(broker: Broker, actor: Actor, ref: str) -> ReservationRow:
    """One reservation. Raises NotFound."""
    access.require(actor, "reservation.get")
    with broker.store.reading() as session:
        return find(session, actor, ref)


def list_reservations(
    broker: Broker,
    actor: Actor,
    *,
    include_over: bool = False,
    all_projects: bool = False,
    labels: Mapping[str, str] | None = None,
) -> Sequence[ReservationRow]:
    """Reservations of the caller's project that carry these labels, by their start; those that are over on request."""
    access.require(actor, "reservation.list")
    query = select(ReservationRow).order_by(ReservationRow.start_at, ReservationRow.id)
    query = access.visible(query, actor, ReservationRow, "reservation.list", here=not all_projects)
    if not include_over:
        query = query.where(ReservationRow.state.in_(LIVE_RESERVATION))
    with broker.store.reading() as session:
        return list(session.scalars(label.filter(query.options(LABELS), ReservationRow, labels)))


def vms(broker: Broker, rows: Sequence[ReservationRow]) -> dict[str, int]:
    """Reservation id -> how many living VMs stand in its room, or wait for it."""
    query = (
        select(VMRow.reservation_id, func.count())
        .where(VMRow.reservation_id.in_([row.id for row in rows]), VMRow.state != "terminated")
        .group_by(VMRow.reservation_id)
    )
    with broker.store.reading() as session:
        return {reserved: count for reserved, count in session.execute(query) if reserved}


def host_names(broker: Broker, row: ReservationRow) -> dict[str, int]:
    """``site/host`` -> how many of its VMs there is room kept for there."""
    return host_names_of(broker, [row])[row.id]


def host_names_of(broker: Broker, rows: Sequence[ReservationRow]) -> dict[str, dict[str, int]]:
    """Reservation id -> ``site/host`` -> how many of its VMs there is room kept for there."""
    wanted = {host_id for row in rows for host_id in row.slots}
    query = select(HostRow.id, SiteRow.name, HostRow.name).join(SiteRow, SiteRow.id == HostRow.site_id)
    with broker.store.reading() as session:
        found = session.execute(query.where(HostRow.id.in_(wanted)))
        names = {host_id: f"{site}/{host}" for host_id, site, host in found}
    return {
        row.id: dict(sorted((names[one], count) for one, count in row.slots.items() if one in names))
        for row in rows
    }


def delete(broker: Broker, actor: Actor, ref: str) -> None:
    """Give the room back. VMs that stand in it run on, and may be suspended for other reservations from now on.

    Raises NotFound; cancelling again, or after its end, changes nothing.
    """
    access.require(actor, "reservation.delete")
    with broker.store.transaction() as session:
        row = find(session, actor, ref, lock=True)
        access.require(actor, "reservation.delete", row.project_id)
        if row.state in LIVE_RESERVATION:
            row.state = ReservationState.CANCELLED
            event.record(
                broker,
                session,
                "reservation.cancelled",
                row.id,
                f"{row.name} cancelled by {actor.name}",
                project_id=row.project_id,
            )
    broker.signals.set("place")


def for_vm(session: Session, actor: Actor, ref: str, size: FlavorRow) -> ReservationRow:
    """The reservation in whose room a new VM of that size may stand. Raises NotFound, WrongState, InvalidRequest."""
    row = find(session, actor, ref)
    if row.project_id != actor.project_id:
        raise NotFound("reservation", ref)
    if row.state not in LIVE_RESERVATION:
        raise WrongState(
            f"reservation {row.name} is {row.state}", hint="`isthmus reservation list` shows live ones"
        )
    if not replace(size.size, gpus=row.gpus).fits(row.size):
        raise InvalidRequest(
            f"flavor {size.name} is larger than {row.flavor}, which reservation {row.name} has room for",
            hint=f"use a flavor of at most {row.vcpus} vCPUs, {row.mem_mb} MiB and {row.disk_gb} GiB",
        )
    if size.size.hardware != row.size.hardware:
        raise InvalidRequest(
            f"reservation {row.name} has room for VMs of flavor {row.flavor}, and {size.name} has other GPUs, dedicated CPUs "
            "or huge pages",
            hint=f"use flavor {row.flavor}",
        )
    return row


def follow(session: Session, row: VMRow, *, move_from: str | None, to: str | None) -> None:
    """A VM moves, in the caller's transaction: the room that its reservation keeps for it goes along."""
    if row.reservation_id is None or move_from is None or to is None:
        return
    booked = session.get(ReservationRow, row.reservation_id, with_for_update={"of": ReservationRow})
    if booked is None or booked.state not in LIVE_RESERVATION or not booked.slots.get(move_from):
        return
    slots = {**booked.slots, move_from: booked.slots[move_from] - 1}
    slots[to] = slots.get(to, 0) + 1
    booked.slots = {host_id: count for host_id, count in slots.items() if count}


def is_due(broker: Broker, session: Session) -> bool:
    """Whether one begins, so that its room has to be made free."""
    now = broker.clock.now()
    query = (
        select(ReservationRow.id)
        .where(
            ReservationRow.state.in_(LIVE_RESERVATION),
            ReservationRow.end_at > now,
            ReservationRow.start_at <= now + timedelta(seconds=broker.settings.timing.suspend_s),
            ReservationRow.start_at > now - timedelta(seconds=_LOOKED_AFTER_S),
        )
        .limit(1)
    )
    return session.scalar(query) is not None


def tick(broker: Broker) -> None:
    """Write which reservations have begun and which are over, and find other room for those whose hosts are away.

    Again changes nothing.
    """
    now = broker.clock.now()
    changed = False
    with broker.store.reading() as session:
        moving = ((ReservationRow.state == ReservationState.SCHEDULED) & (ReservationRow.start_at <= now)) | (
            ReservationRow.state.in_(LIVE_RESERVATION) & (ReservationRow.end_at <= now)
        )
        ids = list(session.scalars(select(ReservationRow.id).where(moving)))
        due = is_due(broker, session)
    for reserved in ids:
        with broker.store.transaction() as session:
            row = session.get_one(ReservationRow, reserved, with_for_update={"of": ReservationRow})
            if row.state in LIVE_RESERVATION and row.end_at <= now:
                row.state = ReservationState.ENDED
                word, said = "ended", f"{row.name} has ended"
            elif row.state == ReservationState.SCHEDULED and row.start_at <= now:
                row.state = ReservationState.ACTIVE
                word, said = "started", f"{row.name} has begun"
            else:
                continue
            changed = True
            event.record(broker, session, f"reservation.{word}", row.id, said, project_id=row.project_id)
    if _mend(broker) or changed or due:
        broker.signals.set("place")


def _mend(broker: Broker) -> bool:
    """Find other room where hosts take no VM, or have not answered for a while; whether any was found."""
    now = broker.clock.now()
    gone = HostRow.maintenance | (
        (HostRow.state == HostState.UNREACHABLE) & (HostRow.seen_at < now - timedelta(seconds=_PATIENCE_S))
    )
    with broker.store.reading() as session:
        rows = pool.live(session, now)
        known = {host_id for row in rows for host_id in row.slots}
        away = set(session.scalars(select(HostRow.id).where(HostRow.id.in_(known), gone)))
        broken = [row.id for row in rows if away.intersection(row.slots)]
    moved = [pool.decided(broker, partial(_elsewhere, broker, reserved, away)) for reserved in broken]
    return any(moved)


def _elsewhere(broker: Broker, reserved: str, away: set[str]) -> bool:
    """Move what of a reservation's room is on hosts that are away and not used there. False when there is no other."""
    with broker.store.transaction() as session:
        row = session.get_one(ReservationRow, reserved, with_for_update={"of": ReservationRow})
        used: dict[str, int] = {}
        for host_id in session.scalars(
            select(VMRow.host_id).where(VMRow.reservation_id == row.id, VMRow.state != "terminated")
        ):
            if host_id is not None:
                used[host_id] = used.get(host_id, 0) + 1
        # A VM that stands there keeps its place: it may well be running.
        kept = {
            host_id: min(number, used.get(host_id, 0)) if host_id in away else number
            for host_id, number in row.slots.items()
        }
        kept = {host_id: number for host_id, number in kept.items() if number}
        lost = row.count - sum(kept.values())
        if row.state not in LIVE_RESERVATION or lost <= 0 or kept == row.slots:
            return False
        seen = pool.snapshot(broker, session, residents=True)
        whole = pool.of_row(row, seen.index)
        others = [one for one in seen.reserved if one.id != row.id]
        mine = replace(whole, slots={seen.index[host_id]: number for host_id, number in kept.items()})
        book = Book(
            seen.table,
            seen.residents,
            [*others, mine],
            seen.now,
            suspend_s=seen.suspend_s,
            suspends=seen.suspends,
        )
        missing = replace(whole, count=lost, slots={}, start=max(whole.start, seen.now))
        slots = book.room(missing, pool.eligible_for(seen, row))
        if slots is None:
            _say_once(broker, session, row, lost)
            return False
        for host, number in slots.items():
            host_id = seen.hosts[host].id
            kept[host_id] = kept.get(host_id, 0) + number
        row.slots = kept
        pool.claim(session, seen, {seen.hosts[host].id for host in slots})
        event.record(
            broker,
            session,
            "reservation.moved",
            row.id,
            f"room of {row.name} for {lost} x {row.flavor} is kept on other hosts now",
            project_id=row.project_id,
        )
    return True


def _say_once(broker: Broker, session: Session, row: ReservationRow, lost: int) -> None:
    told = select(EventRow.seq).where(EventRow.kind == "reservation.at_risk", EventRow.target == row.id)
    if session.scalar(told.limit(1)) is None:
        event.record(
            broker,
            session,
            "reservation.at_risk",
            row.id,
            f"hosts that {row.name} has room on are away, and there is no other for {lost} x {row.flavor}",
            project_id=row.project_id,
        )


def _check_times(now: datetime, start: datetime, end: datetime) -> None:
    for word, time in (("start", start), ("end", end)):
        if time.tzinfo is None:
            raise InvalidRequest(f"the {word} has no time zone", hint="such as 2026-12-24T18:00:00+01:00")
    if start < now - timedelta(seconds=5):
        raise InvalidRequest(f"{_time(start)} is over", hint="leave the start out to begin now")
    if end <= start:
        raise InvalidRequest(f"it ends at {_time(end)} and starts at {_time(start)}", hint="move the end")
    if end - start > _LONGEST:
        raise InvalidRequest("a reservation may last 366 days", hint="reserve again when it ends")


def _reserved(session: Session, owner: ProjectRow) -> Amounts:
    """What a project's reservations that hold room come to."""
    sums = {"vms": ReservationRow.count} | {
        name: ReservationRow.count * getattr(ReservationRow, name) for name in DIMENSIONS
    }
    held = session.execute(
        select(*(func.coalesce(func.sum(amount), 0).label(name) for name, amount in sums.items())).where(
            ReservationRow.project_id == owner.id, ReservationRow.state.in_(LIVE_RESERVATION)
        )
    ).one()
    return Amounts.of(held)


def _no_room(row: ReservationRow, earliest: float | None) -> NoRoom:
    wanted = f"{row.count} x {row.flavor} from {_time(row.start_at)} to {_time(row.end_at)}"
    if earliest is None:
        return NoRoom(
            f"the hosts have no room that is sure for {wanted}",
            hint="VMs that are not preemptible and say no runtime stay for ever, as far as anybody knows: "
            "ask for less, or have them created with --preemptible or --runtime",
        )
    when = datetime.fromtimestamp(earliest, UTC)
    return NoRoom(
        f"the hosts have no room that is sure for {wanted}",
        hint=f"there is room for as long from {_time(when)}",
        details={"earliest": when.isoformat()},
    )


def _time(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"
