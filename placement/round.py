"""A round: who of those that wait goes where, now.

Pure. The broker's queue and the simulator both call ``run``, so that what is simulated is what will be done. A round asks
in this order, and each answer is a reason that ``why`` can show: what the caller knows to be in the way, what may burst,
what is reserved, who may stand near whom; then the match, by requirement, room and rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from placement import match, preempt, repair
from placement.affinity import Affinity
from placement.budget import Ledger
from placement.burst import BurstState, CloudUse, Gate
from placement.column import Bools, Floats
from placement.language import ExpressionError, parse
from placement.lease import Backfilling, Book
from placement.match import Matcher
from placement.order import order
from placement.policy import Policy, Queue
from placement.pool import Pool, Waiting
from placement.request import Decision
from placement.table import HostTable

Reasons = NDArray[np.object_]
"""A text or None per host: why a VM may not go there."""

Refusals = Callable[[Waiting], Reasons]

_NO_GATE = "no policy is in force, so nothing may burst"


@dataclass(frozen=True, slots=True)
class Suspend:
    """A preemptible VM that is suspended to make room for ``for_id`` (a VM or a reservation)."""

    id: str
    host: int
    for_id: str
    reason: str


@dataclass(slots=True)
class Round:
    """What was decided. ``decisions`` and ``reasons`` are in the order of the queue that was given; ``order`` is the one
    in which they were decided."""

    decisions: list[Decision]
    reasons: list[Reasons]
    order: list[int]
    suspensions: list[Suspend] = field(default_factory=list)


def run(
    pool: Pool,
    queue: Sequence[Waiting],
    now: float,
    *,
    policy: Policy | None = None,
    gate: Gate | None = None,
    refusals: Refusals | None = None,
) -> Round:
    """Decide for all that wait. Consumes ``pool.table`` and ``gate``.

    ``refusals``: what the caller knows to be in a VM's way (a host that is down, a network that does not reach there).
    ``gate``: what may burst; without it nothing does.
    """
    rules = Queue() if policy is None else policy.queue
    decider = _Decider(pool, queue, now, rules, gate, refusals)
    found = order(queue, now, rules, pool.usage)
    decisions = [Decision("", None)] * len(queue)
    reasons: list[Reasons] = [_NO_REASONS] * len(queue)
    for index in found:
        decisions[index], reasons[index] = decider.decide(queue[index])
    left = [index for index in found if decisions[index].host is None and not decisions[index].error]
    if left and rules.repair and not decider.leased:
        # Who stands in a relation to others stays where it is; and nobody moves where room is promised for later.
        plain = [
            not (waiting.rules or waiting.reservation or waiting.only_host is not None) for waiting in queue
        ]
        repair.repair(pool.table, queue, decisions, reasons, left, decider.local, plain, rules.repair)
        left = [index for index in left if decisions[index].host is None]
    suspensions = decider.for_reservations()
    if left and rules.preempt:
        leaving = {one.id for one in suspensions}
        stay = [resident for resident in pool.residents if resident.id not in leaving]
        for index in left:
            waiting = queue[index]
            if waiting.preemptible or waiting.request.id in pool.making_room:
                continue
            victims = preempt.victims(pool.table, waiting, stay, decider.open_to(waiting, reasons[index]))
            gone = {victim.id for victim in victims}
            stay = [resident for resident in stay if resident.id not in gone]
            name = waiting.request.attributes.get("name", waiting.request.id)
            suspensions += [
                Suspend(victim.id, victim.host, waiting.request.id, f"to make room for {name}")
                for victim in victims
            ]
    return Round(decisions, reasons, found, suspensions)


def could_ever(table: HostTable, waiting: Waiting, policy: Policy | None, now: float) -> bool:
    """Whether a host could take it if nothing were in use: of one's own, or of a cloud while the policy is open and no
    budget is spent. Who could not is no reason to burst."""
    elastic = _truth(table, "elastic")
    open_to: Bools = ~elastic
    if policy is not None and policy.burst is not None:
        ledger = Ledger(policy.budget, (), now) if policy.budget is not None else None
        gate = Gate(policy, BurstState(True, now), CloudUse(), now, ledger=ledger)
        open_to = open_to | (gate.refusals(waiting, table) == None)  # noqa: E711 - of each
    return match.could_ever(table, waiting.request, open_to)


_NO_REASONS: Reasons = np.full(0, None, dtype=np.object_)


class _Decider:
    """What one round knows, and how it decides for one VM."""

    def __init__(
        self,
        pool: Pool,
        queue: Sequence[Waiting],
        now: float,
        rules: Queue,
        gate: Gate | None,
        refusals: Refusals | None,
    ) -> None:
        self._pool = pool
        self._table = pool.table
        self._matcher = Matcher(pool.table)
        self._gate = gate
        self._refusals = refusals
        self.elastic = _truth(pool.table, "elastic")
        self.local: Bools = ~self.elastic
        self._affinity = (
            Affinity(pool.table, pool.residents) if any(waiting.rules for waiting in queue) else None
        )
        self._book: Book | None = None
        dated = any(resident.runtime_s is not None for resident in pool.residents)
        if pool.reserved or dated or any(waiting.reservation for waiting in queue):
            self._book = Book(
                pool.table,
                pool.residents,
                pool.reserved,
                now,
                suspend_s=pool.suspend_s,
                suspends=pool.suspends,
            )
        self._backfilling = Backfilling(self._book, rules.backfill)

    @property
    def leased(self) -> bool:
        """Whether time matters: something is reserved, or somebody said how long he runs."""
        return self._book is not None

    def decide(self, waiting: Waiting) -> tuple[Decision, Reasons]:
        """The decision, and per host why it was not even looked at."""
        reasons: Reasons = (
            self._refusals(waiting)
            if self._refusals is not None
            else np.full(len(self._table), None, dtype=np.object_)
        )
        if self.elastic.any():
            bars = _NO_GATE if self._gate is None else self._gate.refusals(waiting, self._table)
            reasons = np.where(self.elastic & (reasons == None), bars, reasons)  # noqa: E711 - of each
        if waiting.only_host is not None:
            other = np.arange(len(self._table)) != waiting.only_host
            reasons[other & (reasons == None)] = "it is suspended on another host"  # noqa: E711 - of each
        before = reasons
        blocked = self._backfilling.refusal()
        if blocked:
            reasons = np.where(reasons == None, blocked, reasons)  # noqa: E711 - of each
        reserved = None if self._book is None else self._book.allowed(waiting)
        if reserved is not None:
            reasons = np.where(reasons == None, reserved, reasons)  # noqa: E711 - of each
        broken: Floats | None = None
        if self._affinity is not None and waiting.rules:
            judged = self._affinity.judge(waiting, reasons == None)  # noqa: E711 - of each
            reasons = np.where(reasons == None, judged.reasons, reasons)  # noqa: E711 - of each
            broken = judged.broken
        decision = self._place(waiting, reasons == None, broken)  # noqa: E711 - of each
        if decision.host is not None:
            self._took(waiting, decision.host)
        elif not decision.error and not blocked and waiting.reservation is None and waiting.only_host is None:
            # Who waits for its reservation to begin, or for its own host, keeps nobody from the others.
            self._backfilling.left_behind(waiting, self.open_to(waiting, before))
        return decision, reasons

    def open_to(self, waiting: Waiting, reasons: Reasons) -> Bools:
        """The hosts of our own that it could go to if they had room."""
        mask: Bools = self.local & (reasons == None)  # noqa: E711 - of each
        if waiting.request.requirement:
            try:
                mask = mask & parse(waiting.request.requirement).truth(
                    self._table, waiting.request.attributes
                )
            except ExpressionError:
                mask = np.zeros(len(self._table), dtype=np.bool_)
        return mask

    def for_reservations(self) -> list[Suspend]:
        """Who is suspended for reservations that begin."""
        if self._book is None:
            return []
        return [
            Suspend(victim.resident.id, victim.resident.host, victim.reserved.id, "a reservation begins")
            for victim in self._book.victims()
        ]

    def _place(self, waiting: Waiting, eligible: Bools, broken: Floats | None) -> Decision:
        """The host of highest rank among those that break the fewest soft rules."""
        if broken is None:
            return self._matcher.place(waiting.request, eligible)
        decision = Decision(waiting.request.id, None)
        for level in np.unique(broken[eligible]):
            decision = self._matcher.place(waiting.request, eligible & (broken == level))
            if decision.host is not None or decision.error:
                break
        return decision

    def _took(self, waiting: Waiting, host: int) -> None:
        if self._gate is not None and self.elastic[host]:
            self._gate.take(waiting, self._table, host)
        if self._affinity is not None:
            self._affinity.take(waiting, host)
        if self._book is not None:
            self._book.take(waiting, host)


def _truth(table: HostTable, name: str) -> Bools:
    numbers = table.numbers(name)
    return np.zeros(len(table), dtype=np.bool_) if numbers is None else numbers == 1
