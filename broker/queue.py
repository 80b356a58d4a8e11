"""The queue of VMs that wait for a host, and the round that places them.

One round takes a snapshot of all hosts, has ``placement`` match the whole queue against it in order of age,
and writes each claim with a check of its host's generation: of two matchmakers at once, one finds the
generation changed and tries again, so no host is ever over-committed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import structlog
from sqlalchemy import bindparam, or_, select, update
from sqlalchemy.orm import Session, lazyload

from broker import address, event, host, pool, reservation, usage, vm
from broker.broker import Broker
from broker.kept_pool import Reasons
from broker.states import OperationState, VMState
from broker.store import (
    OperationRow,
    VMRow,
)
from placement import round as rounds
from placement.pool import Waiting
from placement.request import Decision
from placement.why import Explainer
from vpn.address import AddressError

log = structlog.get_logger()


_TRIES = 3
_EXPLAINED = 50
"""How many waiting VMs are told why in one round, oldest first; the others keep what they were told."""
_SAME_ROUND_S = 5.0
_REST_FACTOR = 3.0
"""How long rounds rest after one, in times of what it took; at most ``_MOST_REST_S`` seconds."""
_MOST_REST_S = 1.0
MOST_WAITING = 2_000
"""Waiting VMs that one round decides on."""
_LOOK_ANEW_S = 60.0
"""How long it is believed that nothing has changed: avoided hosts and policies have times of their own."""


class Matchmaker:
    """What the matchmaker of a process remembers of its rounds."""

    def __init__(self, _broker: Broker) -> None:
        self.lock = threading.Lock()
        self.last_round = (-1, 0.0)
        """The count of the signal ``place`` before it, and when it was."""
        self.rests_until = 0.0
        self.after: pool.Place | None = None
        """Where in the queue the next round begins; None at its head."""
        self.in_vain = True
        """Whether nothing has come of the rounds since the head of the queue."""
        self.settled: tuple[int, int, float] | None = None
        """The pool, the signals and the time at which all had been looked at in vain; None when there is something to do."""


def place_pending(broker: Broker) -> None:
    """Run rounds until all that wait were looked at, or some time has passed; none when one ran just now and nothing
    was signalled since, or when nothing has changed since all were looked at in vain. One at a time in a process."""
    seen = broker.signals.count("place")
    mine = broker.part(Matchmaker)
    with mine.lock:
        now = broker.clock.now().timestamp()
        last_count, last_at = mine.last_round
        if last_count >= seen and 0 <= now - last_at < _SAME_ROUND_S and mine.after is None:
            return
        if _is_settled(broker, mine, now):
            return
        # A round over thousands of hosts costs about the same for one VM as for fifty: when many come, rounds take a part of
        # the time, and the rest of it collects them. The first one after a rest does not wait.
        time.sleep(max(0.0, min(mine.rests_until - time.monotonic(), _MOST_REST_S)))
        count = broker.signals.count("place")
        version = broker.store.changes.version
        began = time.monotonic()
        tries = 0
        while tries < _TRIES:
            if not _round(broker, mine):
                tries += 1
            elif mine.after is None or time.monotonic() - began > _MOST_REST_S:
                break
        ended = time.monotonic()
        mine.rests_until = ended + _REST_FACTOR * (ended - began)
        mine.last_round = (count, now)
        done = mine.after is None and mine.in_vain
        mine.settled = (version, count, now) if done else None
    if mine.after is not None:
        broker.signals.set("place", tell=False)


def _is_settled(broker: Broker, mine: Matchmaker, now: float) -> bool:
    """Whether all who wait were looked at in vain, and nothing has happened since that could be of use to them."""
    if mine.settled is None or not broker.store.changes.whole:
        return False
    version, count, at = mine.settled
    return (version, count) == (
        broker.store.changes.version,
        broker.signals.count("place"),
    ) and 0 <= now - at < _LOOK_ANEW_S


def decide(broker: Broker, seen: pool.Snapshot) -> tuple[rounds.Round, list[Waiting]]:
    """Decide for all that wait, in the order of ``seen.waiting``. Consumes ``seen``; writes nothing."""
    tasks = {row.id: (row, task) for row, task in seen.waiting}
    queue = [pool.waiting_of(seen, row) for row, _ in seen.waiting]
    decided = rounds.run(
        pool.pool_of(seen),
        queue,
        seen.now,
        policy=seen.policy,
        gate=pool.gate(seen),
        refusals=lambda waiting: pool.refusals(broker, seen, *tasks[waiting.request.id]),
    )
    return decided, queue


def _round(broker: Broker, mine: Matchmaker) -> bool:
    """One round over a part of the queue. False when another matchmaker was faster somewhere and it is worth trying again."""
    if mine.after is None:
        mine.in_vain = True
    with broker.store.reading() as session:
        waits = session.scalar(pool.WAITING.with_only_columns(VMRow.id).limit(1)) is not None
        due = reservation.is_due(broker, session)
        if not waits and not due:
            mine.after = None
            return True
        seen = pool.snapshot(broker, session, after=mine.after, most=MOST_WAITING)
    # A list of thousands is decided on in parts, in order, so that neither time nor memory grows with it.
    more = len(seen.waiting) == MOST_WAITING
    last, _ = seen.waiting[-1] if more else (None, None)
    following = (last.priority, last.created_at, last.id) if last is not None else None
    decided, queue = decide(broker, seen)
    decisions, reasons = decided.decisions, decided.reasons
    placed, lost = _claim(broker, seen, decisions)
    told = _tell_waiting(broker, seen, queue, decisions, reasons)
    if placed or lost or told or due or decided.suspensions:
        mine.in_vain = False
    for task in (*placed, *told, *_suspend(broker, decided.suspensions)):
        broker.submit(task)
    if not lost:
        mine.after = following
    else:
        # Whatever this process knows of these hosts is old.
        broker.store.changes.add(f"host:{host_id}" for host_id in lost)
    return not lost


def _claim(
    broker: Broker, seen: pool.Snapshot, decisions: Sequence[Decision]
) -> tuple[list[OperationRow], set[str]]:
    """Write the round's claims: (operations to wake, hosts on which somebody else was faster)."""
    placed: list[OperationRow] = []
    told: list[tuple[str, str | None, str, dict[str, Any]]] = []
    lost: set[str] = set()
    chosen = {seen.hosts[decision.host].id for decision in decisions if decision.host is not None}
    if not chosen:
        return [], lost
    asked = [
        row.id
        for decision, (row, _) in zip(decisions, seen.waiting, strict=True)
        if decision.host is not None
    ]
    with _leasing(broker), broker.store.transaction() as session, session.no_autoflush:
        fresh = _taken(session, seen, chosen)
        live = _still_waiting(session, asked)
        leases = address.Leases(broker, session, asked)
        usage.end(broker, session, *asked)
        for decision, (_row, task) in zip(decisions, seen.waiting, strict=True):
            if decision.host is None:
                continue
            at = seen.hosts[decision.host]
            if at.id not in fresh:
                lost.add(at.id)
                continue
            target = live.get(task.id)
            if target is None:
                continue
            task.site_id = at.site_id
            if target.state == VMState.SUSPENDED:
                usage.begin(broker, session, target, at, anew=True)
                vm.set_state(broker, target, VMState.PENDING, "resuming")
                placed.append(task)
                continue
            try:
                leases.lease(target, at.site_id)
            except AddressError as error:
                target.status_reason = f"{at.site.name}: {error}"
                continue
            target.host_id, target.site_id, target.elastic = at.id, at.site_id, at.elastic
            target.launch += 1
            target.status_reason = ""
            usage.begin(broker, session, target, at, anew=True)
            rank = "" if decision.rank is None else f", rank {decision.rank:g}"
            second = "" if decision.runner_up is None else seen.hosts[decision.runner_up].name
            text = f"{target.name} placed on {at.site.name}/{at.name}{rank}" + (
                f"; next best {second}" if second else ""
            )
            data = {
                "host": at.name,
                "site": at.site.name,
                "elastic": at.elastic,
                "rank": decision.rank,
                "runner_up": second or None,
                "runner_up_rank": decision.runner_up_rank,
            }
            told.append((target.id, target.project_id, text, data))
            placed.append(task)
        # All at once: a statement for all VMs, instead of some for each.
        event.record_all(broker, session, "vm.placed", told)
        session.flush()
        _wake(broker, session, placed)
    return placed, lost


@contextmanager
def _leasing(broker: Broker) -> Iterator[None]:
    try:
        yield
    except BaseException:
        broker.part(address.FreeAddresses).forget()
        raise


def _wake(broker: Broker, session: Session, tasks: Sequence[OperationRow]) -> None:
    """Make operations due that wait for the matchmaker, in the transaction that decides about them: whoever finds them
    first takes them up, also when this process dies before it submits them."""
    if tasks:
        now = broker.clock.now()
        session.connection().execute(
            _DUE, [{"of": task.id, "at": task.site_id, "now": now} for task in tasks]
        )


def _suspend(broker: Broker, suspensions: Sequence[rounds.Suspend]) -> list[OperationRow]:
    """Begin to suspend those that make room: operations to wake. One that is busy, or gone, is looked at again later."""
    begun: list[OperationRow] = []
    for one in suspensions:
        with broker.store.transaction() as session:
            row = session.get(VMRow, one.id, with_for_update={"of": VMRow})
            if row is None or row.state != VMState.RUNNING or vm.busy(session, row) is not None:
                continue
            begun.append(vm.begin_preempt(broker, session, row, for_id=one.for_id, reason=one.reason))
    return begun


def _taken(session: Session, seen: pool.Snapshot, chosen: set[str]) -> set[str]:
    """Those of the chosen hosts that are as they were in the snapshot, with their generations moved on."""
    hosts = [seen.hosts[seen.index[host_id]] for host_id in chosen]
    # When somebody else burst meanwhile no elastic host is fresh: the policy's limits count all clouds together.
    alone = session.scalar(pool.BURSTING) == seen.bursting
    return host.take_unchanged(session, {row.id: row.generation for row in hosts if alone or not row.elastic})


def _still_waiting(session: Session, vm_ids: Sequence[str]) -> dict[str, VMRow]:
    """Operation id -> its VM, locked, where the VM waits still and the operation runs."""
    rows = session.scalars(
        select(VMRow)
        .options(lazyload("*"))
        .join(OperationRow, OperationRow.id == VMRow.operation_id)
        .where(VMRow.id.in_(vm_ids), OperationRow.state == OperationState.RUNNING)
        .where(or_(VMRow.host_id.is_(None), VMRow.state == VMState.SUSPENDED))
        .order_by(VMRow.id)
        .with_for_update(of=VMRow)
    )
    return {str(row.operation_id): row for row in rows}


_DUE = (
    update(OperationRow)
    .where(OperationRow.id == bindparam("of"), OperationRow.state == OperationState.RUNNING)
    .values(next_at=bindparam("now"), site_id=bindparam("at"))
)
_MESSAGE = update(OperationRow).where(OperationRow.id == bindparam("of")).values(message=bindparam("text"))


def _tell_waiting(
    broker: Broker,
    seen: pool.Snapshot,
    queue: Sequence[Waiting],
    decisions: Sequence[Decision],
    reasons: Sequence[Reasons],
) -> list[OperationRow]:
    """Write why who waits still does; the operations of those that do not wait any longer."""
    told: dict[str, tuple[str, bool]] = {}
    explained = 0
    explainer = Explainer(seen.table)
    for waiting, decision, why_not, (row, _task) in zip(queue, decisions, reasons, seen.waiting, strict=True):
        if decision.host is not None:
            continue
        unplaceable = row.unplaceable
        if decision.error:
            text, unplaceable = decision.error, True
        elif explained >= _EXPLAINED:
            text = row.status_reason or "waiting for a host"
        else:
            # Against what this round left: what an earlier VM took is not there for this one.
            explained += 1
            mask, why = pool.none(why_not), why_not.tolist()
            text = explainer.explain(waiting.request, eligible=mask, reasons=why).summary
            unplaceable = not rounds.could_ever(seen.table, waiting, seen.policy, seen.now)
            if row.state == VMState.SUSPENDED:
                text = f"goes on when its host has room: {text}"
        if (text, unplaceable) != (row.status_reason, row.unplaceable):
            told[row.id] = text, unplaceable
    if not told:
        return []
    ending: list[OperationRow] = []
    tasks = {row.id: task for row, task in seen.waiting}
    first_told: list[tuple[str, str | None, str, dict[str, Any]]] = []
    messages: list[dict[str, object]] = []
    with broker.store.transaction() as session:
        query = select(VMRow).options(lazyload("*")).where(VMRow.id.in_(told)).order_by(VMRow.id)
        for target in session.scalars(query):
            if target.state == VMState.SUSPENDED or (
                target.host_id is None and target.state == VMState.PENDING
            ):
                text, target.unplaceable = told[target.id]
                if not target.status_reason:
                    first_told.append((target.id, target.project_id, f"{target.name} waits: {text}", {}))
                target.status_reason = text
                messages.append({"of": target.operation_id, "text": text})
                if target.immediate and not target.interruptions:
                    ending.append(tasks[target.id])
        # One statement for all of each: a hundred thousand may have come to wait.
        event.record_all(broker, session, "vm.waiting", first_told)
        if messages:
            session.connection().execute(_MESSAGE, messages)
        _wake(broker, session, ending)
    return ending
