"""What is over goes, as the settings of ``retention`` say: history is bounded, and no list grows with the past.

Each kind of row is looked for in a snapshot, some at a time, and deleted by key in a transaction of its own: nobody waits
long for one. What is over stays so, hence it does not matter when another broker does the same at the same time, and a
broker that ends in the middle leaves nothing undone that the next one does not find.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, delete, exists, func, or_, select, tuple_
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from broker import access, event, label, usage
from broker.actor import Actor
from broker.broker import Broker
from broker.states import LIVE_PEER, LIVE_RESERVATION, ImageState, OperationState, VMState
from broker.store import (
    EventRow,
    ImageRow,
    Labelled,
    MetaRow,
    NICRow,
    OperationRow,
    PeerRow,
    RequestRow,
    ReservationRow,
    UsageRow,
    VMRow,
)

DUTY = "retention"
"""The duty's name, and the signal that wakes it."""

BATCH = 200
"""Rows that go in one transaction, which takes well under 100 ms."""

_MOST_BATCHES = 250
"""Of one kind in a row: then the duty looks first whether it is still this broker's, and goes on."""

_PRUNED = "pruned"


@dataclass(frozen=True)
class _Kind:
    """Rows that may go. ``query``: those that are over since before a time, and that nothing living refers to; ``key`` is
    their primary key, ``order`` what they are looked for by: the next batch begins where the one before ended.
    """

    word: str
    setting: str
    key: Sequence[InstrumentedAttribute[Any]]
    order: InstrumentedAttribute[Any]
    query: Callable[[Any], Select[Any]]
    bound: Callable[[Session, datetime], Any] = lambda session, until: until
    """What ``query`` is asked with, looked up once; None when nothing may go."""
    before: Callable[[Session, Sequence[Any]], None] = lambda session, keys: None
    """Removes what belongs to them, in the same transaction."""


def tick(broker: Broker) -> None:
    """The duty."""
    prune(broker)


def prune(broker: Broker) -> dict[str, int]:
    """Let go what is over for longer than it is kept. Kind -> how many rows went. Again changes nothing."""
    settings, now = broker.settings.retention, broker.clock.now()
    gone: dict[str, int] = {}
    more = False
    if settings.usage_days:
        months = usage.roll_up(broker, now - timedelta(days=settings.usage_days))
        gone["months"] = months
    for kind in _KINDS:
        days = getattr(settings, kind.setting)
        if days:
            gone[kind.word], left = _prune(broker, kind, now - timedelta(days=days))
            more = more or left
    gone = {word: count for word, count in gone.items() if count}
    if gone:
        with broker.store.transaction() as session:
            _count(session, gone)
            told = ", ".join(f"{count} {word}" for word, count in gone.items())
            event.record(broker, session, "retention.pruned", DUTY, f"kept long enough: {told}", rows=gone)
    if more:
        broker.signals.set(DUTY)
    return gone


def totals(broker: Broker, actor: Actor) -> Mapping[str, int]:
    """Kind -> how many rows have gone since the database was made."""
    access.require(actor, "retention.totals")
    with broker.store.reading() as session:
        row = session.get(MetaRow, _PRUNED)
    return dict.fromkeys(KINDS, 0) | (json.loads(row.value) if row is not None else {})


def _prune(broker: Broker, kind: _Kind, until: datetime) -> tuple[int, bool]:
    """How many rows went, and whether there may be more of them."""
    gone = 0
    last: tuple[Any, ...] | None = None
    place = (kind.order, *kind.key)
    with broker.store.reading() as session:
        bound = kind.bound(session, until)
    for _ in range(_MOST_BATCHES if bound is not None else 0):
        query = kind.query(bound).with_only_columns(*place).order_by(*place).limit(BATCH)
        if last is not None:
            # The first comparison alone can use an index.
            query = query.where(
                kind.order >= last[0], or_(kind.order > last[0], tuple_(*kind.key) > last[1:])
            )
        with broker.store.reading() as session:
            found = session.execute(query).all()
        if found:
            last = tuple(found[-1])
            keys = [tuple(row)[1:] for row in found]
            with broker.store.transaction() as session:
                kind.before(session, keys)
                gone += _delete(session, kind, keys)
        if len(found) < BATCH:
            return gone, False
    return gone, bound is not None


def _delete(session: Session, kind: _Kind, keys: Sequence[tuple[Any, ...]]) -> int:
    these = kind.key[0].in_([key[0] for key in keys]) if len(kind.key) == 1 else tuple_(*kind.key).in_(keys)
    kept: Any = kind.key[0].class_
    if issubclass(kept, Labelled):
        label.remove(session, [key[0] for key in keys])
    # What is over holds no room: the pools that brokers keep do not change.
    options = {"synchronize_session": False, "changes": ()}
    done = session.execute(delete(kept).where(these), execution_options=options)
    return int(done.rowcount)  # type: ignore[attr-defined]


def _count(session: Session, gone: Mapping[str, int]) -> None:
    if session.get(MetaRow, _PRUNED) is None:
        with suppress(IntegrityError), session.begin_nested():  # another broker may write the first as well
            session.add(MetaRow(key=_PRUNED, value="{}"))
    row = session.get_one(MetaRow, _PRUNED, with_for_update=True, populate_existing=True)
    known: dict[str, int] = json.loads(row.value)
    row.value = json.dumps(known | {word: known.get(word, 0) + count for word, count in gone.items()})


# -- what may go -------------------------------------------------------------------------------------------------


def _busy(vm_id: Any) -> Any:
    """Whether an operation is under way on a VM."""
    return exists().where(OperationRow.target == vm_id, OperationRow.state == OperationState.RUNNING)


def _newest_old(session: Session, until: datetime) -> tuple[int, datetime] | None:
    """The number of the newest old event, and the time before which events are old: there is no index by time.

    The newest of all stays, whatever its age: the number of the next is counted from it.
    """
    newest = session.scalar(select(func.max(EventRow.seq)))
    query = select(EventRow.seq).where(EventRow.time < until, EventRow.seq < newest)
    found = session.scalar(query.order_by(EventRow.seq.desc()).limit(1))
    return (found, until) if found is not None else None


def _events(bound: tuple[int, datetime]) -> Select[Any]:
    # `isthmus vm why` tells of a VM where it was placed, and why there.
    living = exists().where(VMRow.id == EventRow.target, VMRow.state != VMState.TERMINATED)
    return select(EventRow).where(
        EventRow.seq <= bound[0], EventRow.time < bound[1], ~((EventRow.kind == "vm.placed") & living)
    )


def _operations(until: datetime) -> Select[Any]:
    # A repeated request is answered with the operation that made the VM.
    of_vm = exists().where(
        VMRow.id == OperationRow.target,
        (VMRow.operation_id == OperationRow.id) | (OperationRow.kind == "vm.create"),
    )
    return select(OperationRow).where(
        OperationRow.ended_at < until, OperationRow.state != OperationState.RUNNING, ~of_vm
    )


def _vms(until: datetime) -> Select[Any]:
    on_a_network = exists().where(NICRow.vm_id == VMRow.id)
    return select(VMRow).where(
        VMRow.terminated_at < until, VMRow.state == VMState.TERMINATED, ~on_a_network, ~_busy(VMRow.id)
    )


def _peers_of(session: Session, keys: Sequence[Any]) -> None:
    session.execute(
        delete(PeerRow).where(PeerRow.vm_id.in_([key[0] for key in keys])),
        execution_options={"synchronize_session": False},
    )


def _peers(until: datetime) -> Select[Any]:
    # A removal that is under way waits for the gateway to drop the newest of them.
    return select(PeerRow).where(
        PeerRow.created_at < until,
        PeerRow.expires_at < until,
        PeerRow.last_handshake_at.is_(None) | (PeerRow.last_handshake_at < until),
        PeerRow.state.not_in(LIVE_PEER),
        ~_busy(PeerRow.vm_id),
    )


def _reservations(until: datetime) -> Select[Any]:
    inside = select(VMRow.reservation_id).where(
        VMRow.reservation_id.is_not(None), VMRow.state != VMState.TERMINATED
    )
    return select(ReservationRow).where(
        ReservationRow.end_at < until,
        ReservationRow.state.not_in(LIVE_RESERVATION),
        ReservationRow.id.not_in(inside),
    )


def _images(until: datetime) -> Select[Any]:
    # Deleted ones were kept for the VMs that were made of them, and the newest of a family for its number.
    used = exists().where(VMRow.image_id == ImageRow.id)
    other = aliased(ImageRow)
    of_family = (other.family == ImageRow.family) & other.project_id.is_not_distinct_from(ImageRow.project_id)
    ended = ~exists().where(of_family, other.state != ImageState.DELETED)
    later = exists().where(of_family, other.version > ImageRow.version)
    return select(ImageRow).where(
        ImageRow.created_at < until, ImageRow.state == ImageState.DELETED, ~used, ended | later
    )


def _keys(until: datetime) -> Select[Any]:
    return select(RequestRow).where(RequestRow.created_at < until)


def _stays(until: datetime) -> Select[Any]:
    return select(UsageRow).where(UsageRow.ended_at <= until)


# VMs before what they refer to.
_KINDS = (
    _Kind("events", "events_days", (EventRow.seq,), EventRow.seq, _events, _newest_old),
    _Kind("vms", "vms_days", (VMRow.id,), VMRow.terminated_at, _vms, before=_peers_of),
    _Kind("operations", "operations_days", (OperationRow.id,), OperationRow.ended_at, _operations),
    _Kind("peers", "peers_days", (PeerRow.id,), PeerRow.created_at, _peers),
    _Kind("images", "vms_days", (ImageRow.id,), ImageRow.created_at, _images),
    _Kind("reservations", "reservations_days", (ReservationRow.id,), ReservationRow.end_at, _reservations),
    _Kind(
        "keys",
        "keys_days",
        (RequestRow.project_id, RequestRow.token),
        RequestRow.created_at,
        _keys,
    ),
    _Kind(
        "stays",
        "usage_days",
        (UsageRow.id,),
        UsageRow.ended_at,
        _stays,
        lambda session, _: usage.kept_since(session),
    ),
)

KINDS = ("months", *(kind.word for kind in _KINDS))
