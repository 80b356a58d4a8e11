"""Moves one operation on: look at reality, do one idempotent action, write what came of it, until it has to wait.

Every write is guarded by the claim that was taken before the action: a driver that was frozen and thawed
finds its claim gone and writes nothing. A claim is kept from phase to phase and renewed while an action runs
(``Claims``); it runs out by itself when its process dies.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, cast

import structlog
from sqlalchemy import Table, bindparam, select, update
from sqlalchemy.orm import Session

from broker import event
from broker.broker import Broker
from broker.engine.declaration import (
    SETTLE,
    Done,
    Fail,
    GiveUp,
    Next,
    Settled,
    Step,
    Superseded,
    Wait,
)
from broker.engine.registry import OPERATIONS
from broker.engine.slots import Slots
from broker.sealing import SealError
from broker.states import OperationState
from broker.store import DutyRow, OperationRow, Row
from broker.store.base import UtcDateTime
from providers.port import ProviderError

log = structlog.get_logger()

CLAIM_S = 9.0
"""How long a claim outlives its process, in seconds."""

_BACKOFF_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
_OPERATION = cast("Table", OperationRow.__table__)
_LOOK_AGAIN_S = 1.0
"""A phase that took longer than this has the target read anew for the next one."""
_UNKNOWN_S = 60.0


@dataclass(frozen=True)
class Pause:
    """What ``advance`` leaves to its driver: call again after ``seconds``, or when a signal is set. None: when it is
    submitted again."""

    seconds: float | None
    signals: Mapping[str, int]


@dataclass
class Held:
    """An operation that this process has claimed."""

    step: Step[Row]
    token: str
    next_at: datetime | None
    """When it was due as it was claimed: somebody who moves it meanwhile changes that."""


class Claims:
    """The claims that this process holds on operations and duties: renewed from one thread, until they are given back."""

    def __init__(self, broker: Broker, holder: str = "local") -> None:
        self.holder = holder
        self._broker = broker
        self._lock = threading.Lock()
        self._held: dict[str, str] = {}
        self._duties: dict[str, datetime] = {}
        """Duties that are held, and until when as far as was written."""
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self.slots = Slots()
        """Who drives an operation holds one of them, but not while a provider is asked."""

    def take(self, operation_id: str) -> Held | Pause | None:
        """Claim a running operation that nobody drives now; when it may not begin yet, how long to wait for that."""
        broker = self._broker
        token = secrets.token_hex(8)
        now = broker.clock.now()
        with broker.store.transaction() as session:
            row = session.scalar(
                update(OperationRow)
                .where(OperationRow.id == operation_id, OperationRow.state == OperationState.RUNNING)
                .where((OperationRow.claim_until.is_(None)) | (OperationRow.claim_until < now))
                .values(claim_token=token, claim_until=now + timedelta(seconds=CLAIM_S))
                .returning(OperationRow)
            )
            if row is None:
                return None
            declaration = OPERATIONS.get(row.kind)
            if declaration is None:
                # A newer broker of the same store may, or this one after its upgrade.
                return self._leave(
                    row, "this version of the broker does not know such operations", _UNKNOWN_S
                )
            target = session.get(declaration.target, row.target)
            if target is None:
                self._end_without_target(session, row)
                return None
            if row.phase == SETTLE:
                if self._unsettled(session, row):
                    signals = {f"{row.target}.seen": broker.signals.count(f"{row.target}.seen")}
                    return self._leave(row, "waiting for an earlier step to end", 1.0, signals)
                row.phase, row.phase_at = declaration.phases[0].word, now
        held = Held(Step(broker, declaration, row, target), token, row.next_at)
        self._keep(operation_id, token)
        return held

    def _end_without_target(self, session: Session, row: OperationRow) -> None:
        # An id is never given twice, and a target is written together with its operation: it does not come back.
        outcome = Fail("its target is gone")
        row.claim_token = row.claim_until = row.next_at = None
        row.state, row.ended_at = OperationState.FAILED, self._broker.clock.now()
        row.error = row.message = outcome.error
        _tell(self._broker, session, row, outcome)

    def _leave(
        self, row: OperationRow, message: str, seconds: float, signals: Mapping[str, int] | None = None
    ) -> Pause:
        row.claim_token = row.claim_until = None
        row.message, row.next_at = message, self._broker.clock.now() + timedelta(seconds=seconds)
        return Pause(seconds, {row.id: self._broker.signals.count(row.id), **(signals or {})})

    def _unsettled(self, session: Session, row: OperationRow) -> bool:
        """Whether a driver of an earlier operation on the target may still be in the middle of a call to a provider."""
        others = select(OperationRow.id).where(
            OperationRow.target == row.target,
            OperationRow.id != row.id,
            OperationRow.claim_until > self._broker.clock.now(),
        )
        return session.scalar(others.limit(1)) is not None

    def _keep(self, operation_id: str, token: str) -> None:
        with self._lock:
            self._held[operation_id] = token
        self._begin_renewing()

    def give_back(self, operation_id: str) -> None:
        """Stop renewing."""
        with self._lock:
            self._held.pop(operation_id, None)

    def on_duty(self, name: str) -> bool:
        """Take a periodic duty, when no other broker has it; it is kept until ``stop``."""
        now = self._broker.clock.now()
        with self._lock:
            held = self._duties.get(name)
        if held is not None and held - now > timedelta(seconds=CLAIM_S / 3):
            return True  # renewed just now: nobody can have taken it
        with self._broker.store.transaction() as session:
            row = session.get(DutyRow, name, with_for_update=True)
            if row is None:
                row = DutyRow(name=name, holder=self.holder, until=now)
                session.add(row)
            elif row.holder != self.holder and row.until > now:
                with self._lock:
                    self._duties.pop(name, None)
                return False
            row.holder, row.until = self.holder, now + timedelta(seconds=CLAIM_S)
            until = row.until
        with self._lock:
            self._duties[name] = until
        self._begin_renewing()
        return True

    def take_turn(self, name: str, rest_s: float) -> bool:
        """Take a duty for one time, unless another broker has it or it was done less than ``rest_s`` seconds ago."""
        now = self._broker.clock.now()
        with self._broker.store.transaction() as session:
            row = session.get(DutyRow, name, with_for_update=True)
            if row is None:
                row = DutyRow(name=name, holder=self.holder, until=now)
                session.add(row)
            elif (row.until > now and row.holder != self.holder) or (
                now - row.until < timedelta(seconds=rest_s)
            ):
                return False
            row.holder, row.until = self.holder, now + timedelta(seconds=CLAIM_S)
            until = row.until
        with self._lock:
            self._duties[name] = until
        self._begin_renewing()
        return True

    def end_turn(self, name: str) -> None:
        """Say that a duty was done, for this time."""
        with self._lock:
            self._duties.pop(name, None)
        with self._broker.store.transaction() as session:
            session.execute(
                update(DutyRow)
                .where(DutyRow.name == name, DutyRow.holder == self.holder)
                .values(until=self._broker.clock.now())
            )

    def stop(self) -> None:
        """End the thread and give the duties up; claims on operations that are held run out."""
        self._wake.set()
        with self._lock:
            duties, self._duties = list(self._duties), {}
        if duties:
            with suppress(Exception), self._broker.store.transaction() as session:
                session.execute(
                    update(DutyRow)
                    .where(DutyRow.name.in_(duties), DutyRow.holder == self.holder)
                    .values(until=self._broker.clock.now())
                )

    def _begin_renewing(self) -> None:
        with self._lock:
            if self._thread is None and not self._wake.is_set():
                self._thread = threading.Thread(target=self._renew, name="isthmus-claims", daemon=True)
                self._thread.start()

    def _renew(self) -> None:
        while not self._wake.wait(CLAIM_S / 3):
            with self._lock:
                held, duties = dict(self._held), list(self._duties)
            if not held and not duties:
                continue
            until = self._broker.clock.now() + timedelta(seconds=CLAIM_S)
            try:
                with self._broker.store.transaction() as session:
                    for operation_id, token in held.items():
                        session.execute(
                            update(OperationRow)
                            .where(OperationRow.id == operation_id, OperationRow.claim_token == token)
                            .values(claim_until=until)
                        )
                    kept = (
                        session.scalars(
                            update(DutyRow)
                            .where(DutyRow.name.in_(duties), DutyRow.holder == self.holder)
                            .values(until=until)
                            .returning(DutyRow.name)
                        ).all()
                        if duties
                        else []
                    )
                with self._lock:
                    for name in duties:
                        if name in self._duties and name in kept:
                            self._duties[name] = until
                        elif name not in kept:
                            self._duties.pop(name, None)
            except Exception:
                log.exception("claims.renew_failed")


def advance(broker: Broker, claims: Claims, operation_id: str, *, most: int = 1) -> Pause | None:
    """Move an operation on by at most so many phases. None when it is over (or is no more ours to drive), else when to
    call again."""
    held = claims.take(operation_id)
    if held is None:
        return _when_free(broker, operation_id)
    if isinstance(held, Pause):
        return held
    step, done, left = held.step, False, most
    try:
        while True:
            left -= 1
            counts = {name: broker.signals.count(name) for name in _signal_names(step.operation)}
            began = time.monotonic()
            outcome = _act(step, claims.slots)
            broker.trace(operation_id, step.operation.phase, "after")
            written = _write(
                held, outcome, counts, keep=left > 0, fresh=time.monotonic() - began > _LOOK_AGAIN_S
            )
            if not isinstance(written, Row):
                done = True
                return written
            step = held.step = replace(step, target=written)
    except Superseded:
        return None
    finally:
        claims.give_back(operation_id)
        if not done:
            with suppress(Exception):
                _release(broker, operation_id, held.token)


def _act(step: Step[Any], slots: Slots) -> Settled:
    row = step.operation
    step.broker.trace(row.id, row.phase, "before")
    again_s = _BACKOFF_S[min(row.attempt, len(_BACKOFF_S) - 1)]
    try:
        phase = step.declaration.phase(row.phase)
        with slots.lent() if phase.calls else nullcontext():
            outcome = phase.run(step)
        if isinstance(outcome, GiveUp):
            return _give_up(step, outcome.why, again_s)
        if isinstance(outcome, Next):
            step.declaration.after(row.phase, outcome.to)
        return outcome
    except ProviderError as error:
        if error.retryable:
            return Wait(again_s, str(error), retry=True)
        return _give_up(step, str(error), again_s)
    except SealError as error:
        return Wait(30.0, str(error), retry=True)
    except Superseded:
        raise
    except Exception as error:
        log.exception("operation.step_failed", operation=row.id, phase=row.phase)
        return Wait(again_s, f"internal error, trying again: {type(error).__name__}: {error}", retry=True)


def _give_up(step: Step[Any], why: str, again_s: float) -> Settled:
    # A kind that can be abandoned has something to put right first. In that phase itself there is only patience.
    abandon = step.declaration.abandon
    if abandon is None or abandon.word == step.operation.phase:
        return Wait(again_s, why, retry=True)
    return Next(abandon.run, why, params={"why": why})


def _signal_names(row: OperationRow) -> tuple[str, ...]:
    # Counted before the phase looks at anything: a signal that comes while it works is then not slept over.
    return (row.id, f"{row.target}.peer", "applied", f"{row.target}.seen")


# Made once: to put a statement together takes longer than to execute it.
_GUARDED = update(_OPERATION).where(
    _OPERATION.c.id == bindparam("of"),
    _OPERATION.c.claim_token == bindparam("token"),
    _OPERATION.c.state == OperationState.RUNNING,
)
_UNMOVED = _GUARDED.where(_OPERATION.c.next_at.is_not_distinct_from(bindparam("was", type_=UtcDateTime())))


def _write(
    held: Held, outcome: Settled, counts: Mapping[str, int], *, keep: bool, fresh: bool
) -> Row | Pause | None:
    """Write an outcome: the target for the next phase when it goes on at once (``keep``), else when to call again.

    Raises Superseded, and LookupError for a successor that was not declared.
    """
    step, row, broker = held.step, held.step.operation, held.step.broker
    now = broker.clock.now()
    over = isinstance(outcome, Done | Fail)
    goes_on = isinstance(outcome, Next) and keep
    values = _values(step, outcome, now)
    if goes_on:
        values["claim_until"] = now + timedelta(seconds=CLAIM_S)
    else:
        values |= {"claim_token": None, "claim_until": None}
    target = step.target
    mine = {"of": row.id, "token": held.token}
    with broker.store.transaction() as session:
        if outcome.write is not None or over or fresh or (isinstance(outcome, Wait) and outcome.retry):
            target = step.own(session)
        if outcome.write is not None:
            outcome.write(session, target)
            if goes_on:
                # The next phase sees what was written, with what belongs to it now.
                session.flush()
                session.refresh(target)
        parks = isinstance(outcome, Wait) and outcome.seconds is None
        if parks:
            # Whoever it waits for may have moved it while it looked: then it looks again at once.
            unmoved = session.connection().execute(_UNMOVED, mine | {"was": held.next_at} | values)
            if unmoved.rowcount != 1:
                parks, values["next_at"] = False, now
        if not parks and session.connection().execute(_GUARDED, mine | values).rowcount != 1:
            raise Superseded
        if isinstance(outcome, Wait) and outcome.retry and hasattr(target, "status_reason"):
            target.status_reason = outcome.message
        if isinstance(outcome, Done | Fail):
            _tell(broker, session, row, outcome)
    if over:
        broker.signals.set(f"{row.id}.over")
        return None
    for name, value in values.items():
        setattr(row, name, value)
    if goes_on:
        return target
    if isinstance(outcome, Wait):
        names = {name: counts.get(name, 0) for name in (*outcome.signals, row.id)}
        return Pause(None if parks else outcome.seconds or 0.0, names)
    return Pause(0.0, {})


def _values(step: Step[Any], outcome: Settled, now: datetime) -> dict[str, Any]:
    """The columns of the operation that an outcome changes."""
    row = step.operation
    if isinstance(outcome, Done):
        return {"state": OperationState.DONE, "message": outcome.message, "ended_at": now, "next_at": None}
    if isinstance(outcome, Fail):
        failed = {"state": OperationState.FAILED, "error": outcome.error, "message": outcome.error}
        return {**failed, "ended_at": now, "next_at": None}
    values: dict[str, Any] = {"message": outcome.message}
    if outcome.params:
        values["params"] = {**row.params, **outcome.params}
    if isinstance(outcome, Next):
        word = step.declaration.after(row.phase, outcome.to).word
        return {**values, "phase": word, "phase_at": now, "attempt": 0, "next_at": now}
    due = None if outcome.seconds is None else now + timedelta(seconds=outcome.seconds)
    return {**values, "attempt": row.attempt + 1 if outcome.retry else row.attempt, "next_at": due}


def _tell(broker: Broker, session: Session, row: OperationRow, outcome: Done | Fail) -> None:
    kind, said = ("failed", outcome.error) if isinstance(outcome, Fail) else ("done", outcome.message)
    event.record(
        broker,
        session,
        f"{row.kind}.{kind}",
        row.target,
        said or f"{row.kind} {kind}",
        project_id=row.project_id,
        operation=row.id,
    )


def _release(broker: Broker, operation_id: str, token: str) -> None:
    """Give the claim back also on a cancelled operation: the delete that cancelled it waits for that."""
    with broker.store.transaction() as session:
        released = session.execute(
            update(OperationRow)
            .where(OperationRow.id == operation_id, OperationRow.claim_token == token)
            .values(claim_token=None, claim_until=None)
        )
        gave = released.rowcount == 1  # type: ignore[attr-defined]
        row = session.get(OperationRow, operation_id) if gave else None
    if row is not None and row.state == OperationState.CANCELLED:
        broker.signals.set(f"{row.target}.seen")


def _when_free(broker: Broker, operation_id: str) -> Pause | None:
    with broker.store.reading() as session:
        row = session.scalar(select(OperationRow).where(OperationRow.id == operation_id))
    if row is None or row.state != OperationState.RUNNING:
        return None
    if row.claim_until is None:
        return Pause(0.05, {})
    left = (row.claim_until - broker.clock.now()).total_seconds()
    return Pause(min(max(left, 0.05), 2.0), {})
