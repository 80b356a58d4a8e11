"""One step of one operation: look at reality, do one idempotent action, write what came of it.

Every write is guarded by the claim that was taken before the action: a driver that was frozen and thawed
finds its claim gone and writes nothing. A claim is renewed while its action runs (``Claims``), and runs out
by itself when its process dies.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import select, update

from broker import event
from broker.broker import Broker
from broker.sealing import SealError
from broker.states import OperationState
from broker.store import OperationRow, VMRow
from providers.port import ProviderError

log = structlog.get_logger()

CLAIM_S = 15.0
"""How long a claim outlives its process."""

ABANDON = "abandon"
"""The phase that puts things right after an error that no repetition mends; it ends the operation as failed."""

_BACKOFF_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)


@dataclass(frozen=True)
class Next:
    """Go to another phase at once. ``params`` are merged into the operation's."""

    phase: str
    message: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Wait:
    """Stay in this phase; look again after ``seconds``, or as soon as one of ``signals`` is set."""

    seconds: float
    message: str = ""
    signals: tuple[str, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """The operation is over and did what it should."""

    message: str = ""


@dataclass(frozen=True)
class Fail:
    """The operation is over and did not. The phase has left things as they should be."""

    error: str


Outcome = Next | Wait | Done | Fail


@dataclass(frozen=True)
class Pause:
    """What ``advance`` leaves to its driver: call again after ``seconds``, or when a signal is set."""

    seconds: float
    signals: Mapping[str, int]


@dataclass(frozen=True)
class Step:
    """What a phase works with. ``operation`` and ``vm`` are as they were when the step began."""

    broker: Broker
    operation: OperationRow
    vm: VMRow

    @property
    def age_s(self) -> float:
        """Seconds since this phase began."""
        return (self.broker.clock.now() - self.operation.phase_at).total_seconds()


Phase = Callable[[Step], Outcome]


class Superseded(Exception):
    """The operation was cancelled, or another driver has it: write nothing more."""


class Claims:
    """Renews the claims that this process holds, from one thread, until they are given back."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._lock = threading.Lock()
        self._held: dict[str, str] = {}
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self, operation_id: str) -> tuple[OperationRow, VMRow, str] | None:
        """Claim a running operation that nobody drives now: (operation, VM, token), or None."""
        broker = self._broker
        token = secrets.token_hex(8)
        now = broker.clock.now()
        with broker.store.transaction() as session:
            taken = session.execute(
                update(OperationRow)
                .where(OperationRow.id == operation_id, OperationRow.state == OperationState.RUNNING)
                .where((OperationRow.claim_until.is_(None)) | (OperationRow.claim_until < now))
                .values(claim_token=token, claim_until=now + timedelta(seconds=CLAIM_S))
            )
            if taken.rowcount != 1:  # type: ignore[attr-defined]
                return None
            row = session.get_one(OperationRow, operation_id)
            target = session.get_one(VMRow, row.target)
        with self._lock:
            self._held[operation_id] = token
            if self._thread is None:
                self._thread = threading.Thread(target=self._renew, name="isthmus-claims", daemon=True)
                self._thread.start()
        return row, target, token

    def give_back(self, operation_id: str) -> None:
        """Stop renewing."""
        with self._lock:
            self._held.pop(operation_id, None)

    def stop(self) -> None:
        """End the thread; claims that are held run out."""
        self._wake.set()

    def _renew(self) -> None:
        while not self._wake.wait(CLAIM_S / 3):
            with self._lock:
                held = dict(self._held)
            if not held:
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
            except Exception:
                log.exception("claims.renew_failed")


def advance(
    broker: Broker, claims: Claims, phases: Mapping[str, Mapping[str, Phase]], operation_id: str
) -> Pause | None:
    """Do one step. None when the operation is over (or is no more ours to drive), else when to call again."""
    taken = claims.take(operation_id)
    if taken is None:
        return _when_free(broker, operation_id)
    row, target, token = taken
    written = False
    try:
        counts = {name: broker.signals.count(name) for name in _signal_names(row)}
        outcome = _act(broker, phases, row, target)
        broker.trace(operation_id, row.phase, "after")
        pause = _write(broker, row, token, outcome, counts)
        written = True
        return pause
    except Superseded:
        return None
    finally:
        claims.give_back(operation_id)
        if not written:
            with suppress(Exception):
                _release(broker, operation_id, token)


def _act(
    broker: Broker, phases: Mapping[str, Mapping[str, Phase]], row: OperationRow, target: VMRow
) -> Outcome:
    broker.trace(row.id, row.phase, "before")
    try:
        return phases[row.kind][row.phase](Step(broker, row, target))
    except ProviderError as error:
        if error.retryable:
            return Wait(
                _BACKOFF_S[min(row.attempt, len(_BACKOFF_S) - 1)], str(error), params={"_retry": True}
            )
        return _give_up(phases, row, str(error))
    except SealError as error:
        return Wait(30.0, str(error), params={"_retry": True})
    except Superseded:
        raise
    except Exception as error:
        log.exception("operation.step_failed", operation=row.id, phase=row.phase)
        return Wait(
            _BACKOFF_S[min(row.attempt, len(_BACKOFF_S) - 1)],
            f"internal error, trying again: {type(error).__name__}: {error}",
            params={"_retry": True},
        )


def _give_up(phases: Mapping[str, Mapping[str, Phase]], row: OperationRow, why: str) -> Outcome:
    # A kind with an "abandon" phase has something to put right first. In that phase itself there is only patience.
    if row.phase == ABANDON or ABANDON not in phases[row.kind]:
        return Wait(_BACKOFF_S[min(row.attempt, len(_BACKOFF_S) - 1)], why, params={"_retry": True})
    return Next(ABANDON, why, params={"why": why})


def _signal_names(row: OperationRow) -> tuple[str, ...]:
    # Counted before the phase looks at anything: a signal that comes while it works is then not slept over.
    return (row.id, f"{row.target}.peer", "applied", f"{row.target}.seen")


def _write(
    broker: Broker, row: OperationRow, token: str, outcome: Outcome, counts: Mapping[str, int]
) -> Pause | None:
    now = broker.clock.now()
    over = isinstance(outcome, Done | Fail)
    values: dict[str, Any] = {"claim_token": None, "claim_until": None}
    if isinstance(outcome, Next):
        values |= {
            "phase": outcome.phase,
            "phase_at": now,
            "message": outcome.message,
            "attempt": 0,
            "next_at": now,
        }
        values["params"] = {**row.params, **outcome.params}
    elif isinstance(outcome, Wait):
        params = dict(outcome.params)
        retry = params.pop("_retry", False)
        values |= {
            "message": outcome.message,
            "attempt": row.attempt + 1 if retry else row.attempt,
            "next_at": now + timedelta(seconds=outcome.seconds),
        }
        if params:
            values["params"] = {**row.params, **params}
    elif isinstance(outcome, Done):
        values |= {"state": OperationState.DONE, "message": outcome.message, "ended_at": now}
    else:
        values |= {
            "state": OperationState.FAILED,
            "error": outcome.error,
            "message": outcome.error,
            "ended_at": now,
        }
    with broker.store.transaction() as session:
        written = session.execute(
            update(OperationRow)
            .where(OperationRow.id == row.id, OperationRow.claim_token == token)
            .where(OperationRow.state == OperationState.RUNNING)
            .values(**values)
        )
        if written.rowcount != 1:  # type: ignore[attr-defined]
            raise Superseded
        if isinstance(outcome, Wait) and values["attempt"] > row.attempt:
            target = session.get(VMRow, row.target)
            if target is not None:
                target.status_reason = outcome.message
        if over:
            kind, said = (
                ("failed", outcome.error) if isinstance(outcome, Fail) else ("done", str(values["message"]))
            )
            event.record(
                broker,
                session,
                f"{row.kind}.{kind}",
                row.target,
                said or f"{row.kind} {kind}",
                project_id=row.project_id,
                operation=row.id,
            )
    if over:
        broker.signals.set(f"{row.id}.over")
        return None
    if isinstance(outcome, Wait):
        names = {name: counts.get(name, 0) for name in (*outcome.signals, row.id)}
        return Pause(outcome.seconds, names)
    return Pause(0.0, {})


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
