"""Rebalancing: which running VMs to migrate so that hosts are emptied, or loaded evenly.

Pure: a pool in, a plan out. Every move of a plan is one that the match itself would make: requirement, room, affinity and
reservations hold after each of them. No move counts on room that another one frees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from placement import round as rounds
from placement.affinity import Affinity
from placement.column import Bools, Floats
from placement.language import ExpressionError
from placement.lease import Book
from placement.match import feasible
from placement.policy import Policy
from placement.pool import Pool, Reserved, Resident, Waiting
from placement.table import HostTable

Goal = Literal["pack", "balance", "drain"]

_TIGHTEST = "-(cpu_free / cpu_total)"
_EMPTIEST = "min(cpu_free / cpu_total, mem_free_mb / mem_total_mb)"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a plan may cost. ``max_cost_s``: seconds of copying in all; ``rest_s``: a VM that was placed or moved less long
    ago is left where it is, so that none goes to and fro; ``min_gain``: how much more even, as a fraction of a host, the
    loads of two hosts must get for a move (``balance``)."""

    max_moves: int = 20
    max_cost_s: float = 3600.0
    rest_s: float = 600.0
    min_gain: float = 0.05
    mb_per_s: float = 100.0
    """What the network copies, to tell costs."""


@dataclass(frozen=True, slots=True)
class Move:
    """One live migration. ``cost_s``: seconds of copying its memory and what it may have written to its disk."""

    id: str
    source: int
    target: int
    cost_s: float


@dataclass(slots=True)
class Plan:
    """Moves, and who could not be moved and why. ``before`` and ``after``: hosts in use, and the spread
    (standard deviation) of the loads of those that are up."""

    moves: list[Move] = field(default_factory=list)
    stuck: list[tuple[str, str]] = field(default_factory=list)
    resting: int = 0
    """How many VMs stay only because they were placed or moved just now."""
    hosts_before: int = 0
    hosts_after: int = 0
    spread_before: float = 0.0
    spread_after: float = 0.0


Open = Callable[[Resident], Bools]
"""The hosts that a resident may be migrated to, as far as the caller knows: those of its site that are up."""


def only(
    pool: Pool,
    resident: Resident,
    now: float,
    open_to: Open,
    limits: Limits,
    policy: Policy | None = None,
) -> Plan:
    """Move one VM to the best host for it."""
    planner = _Planner(pool, now, open_to, limits, policy)
    why = planner.move(resident, None, rest=False)
    if why:
        planner.plan.stuck.append((resident.id, why))
    return planner.done()


def drain(
    pool: Pool, host: int, now: float, open_to: Open, limits: Limits, policy: Policy | None = None
) -> Plan:
    """Empty a host: each VM goes where its own rank says. Who cannot move is ``stuck``, with the reason."""
    planner = _Planner(pool, now, open_to, limits, policy)
    for resident in sorted(planner.on(host), key=lambda one: (-one.cpu, -one.mem_mb, one.id)):
        why = planner.move(resident, None, rest=False)
        if why:
            planner.plan.stuck.append((resident.id, why))
    return planner.done()


def pack(pool: Pool, now: float, open_to: Open, limits: Limits, policy: Policy | None = None) -> Plan:
    """Empty as many hosts as may be, the least loaded first, on to fuller ones. A host is emptied whole or left alone."""
    planner = _Planner(pool, now, open_to, limits, policy)
    emptied: set[int] = set()
    for host in planner.by_load():
        here = planner.on(host)
        if not here or any(not one.movable for one in here):
            continue
        mark = planner.mark()
        used = np.array([bool(planner.on(index)) for index in range(len(pool.table))])
        used[list({host, *emptied})] = False
        if all(not planner.move(one, _TIGHTEST, among=used) for one in here):
            emptied.add(host)
        else:
            planner.back_to(mark)
    return planner.done()


def balance(pool: Pool, now: float, open_to: Open, limits: Limits, policy: Policy | None = None) -> Plan:
    """Move VMs from the fullest hosts to the emptiest, as long as that makes their loads more even."""
    planner = _Planner(pool, now, open_to, limits, policy)
    stays: set[str] = set()
    while True:
        for host in reversed(planner.by_load()):
            candidates = sorted(
                (one for one in planner.on(host) if one.movable and one.id not in stays),
                key=lambda one: (planner.cost_s(one), one.id),
            )
            for resident in candidates:
                load, need = planner.loads(), planner.share(resident)
                # Less loaded afterwards, by more than it gains itself, than the host that it leaves was.
                among = load + need <= load[host] - limits.min_gain
                if among.any() and not planner.move(resident, _EMPTIEST, among=among):
                    break
                stays.add(resident.id)
            else:
                continue
            break
        else:
            return planner.done()


class _Planner:
    """The pool as it is after the moves so far."""

    def __init__(self, pool: Pool, now: float, open_to: Open, limits: Limits, policy: Policy | None) -> None:
        self._pool = pool
        self._table: HostTable = pool.table
        self._after = pool.table.copy()
        self._residents = {one.id: one for one in pool.residents}
        self._now, self._open_to, self._limits, self._policy = now, open_to, limits, policy
        self._cost_s = 0.0
        self._resting: set[str] = set()
        self._own = np.array(
            [not _is_true(self._table.value(index, "elastic")) for index in range(len(self._table))]
        )
        self.plan = Plan()
        self.plan.hosts_before, self.plan.spread_before = self._measure()

    def done(self) -> Plan:
        """The plan with its measures."""
        self.plan.hosts_after, self.plan.spread_after = self._measure()
        self.plan.resting = len(self._resting)
        return self.plan

    def on(self, host: int) -> list[Resident]:
        """Who is on a host."""
        return [one for one in self._residents.values() if one.host == host]

    def loads(self) -> Floats:
        """Per host the larger of its shares of cores and of memory in use; infinity where there is nothing to share."""
        found = np.zeros(len(self._table))
        for free, total in (("cpu_free", "cpu_total"), ("mem_free_mb", "mem_total_mb")):
            left, all_of_it = self._after.numbers(free), self._after.numbers(total)
            if left is not None and all_of_it is not None:
                with np.errstate(divide="ignore", invalid="ignore"):
                    found = np.maximum(found, np.nan_to_num(1 - left / all_of_it, nan=0.0))
        return np.where(self._own, found, np.inf)

    def share(self, resident: Resident) -> Floats:
        """Per host what the VM would add to its load."""
        found = np.zeros(len(self._table))
        for amount, total in ((resident.cpu, "cpu_total"), (resident.mem_mb, "mem_total_mb")):
            all_of_it = self._table.numbers(total)
            if all_of_it is not None:
                with np.errstate(divide="ignore", invalid="ignore"):
                    found = np.maximum(found, np.nan_to_num(amount / all_of_it, nan=np.inf))
        return found

    def by_load(self) -> list[int]:
        """One's own hosts, the least loaded first."""
        loads = self.loads()
        return [int(index) for index in np.argsort(loads, kind="stable") if self._own[index]]

    def cost_s(self, resident: Resident) -> float:
        """Seconds that moving it takes."""
        return resident.mem_mb / self._limits.mb_per_s

    def move(
        self, resident: Resident, rank: str | None, *, among: Bools | None = None, rest: bool = True
    ) -> str:
        """Move it to the best host for it; why not, or empty."""
        request, limits = resident.request, self._limits
        if not resident.movable or request is None:
            return "it does not run, has GPUs, CPUs or huge pages of its host, or its site cannot migrate it"
        if rest and self._now - resident.since < limits.rest_s:
            self._resting.add(resident.id)
            return "it was placed or moved only just now"
        if len(self.plan.moves) >= limits.max_moves:
            return f"the plan has {limits.max_moves} moves already"
        cost = self.cost_s(resident)
        if self._cost_s + cost > limits.max_cost_s:
            return f"the plan would take more than {limits.max_cost_s:g} s of copying"
        if any(moved.id == resident.id for moved in self.plan.moves):
            return "it is in the plan already"
        mask = self._open_to(resident).copy()
        mask[resident.host] = False
        if among is not None:
            mask &= among
        # Room that the plan frees is not counted on: the moves may be made in any order, and some may fail.
        table = self._table.copy()
        others = [one for one in self._residents.values() if one.id != resident.id]
        waiting = Waiting(
            replace(request, rank=rank or request.rank),
            resident.project,
            resident.since,
            priority=resident.priority,
            preemptible=resident.preemptible,
            runtime_s=resident.runtime_s,
            rules=resident.rules,
        )
        booked = next((one for one in self._pool.reserved if one.id == resident.reservation), None)
        if booked is not None:
            target = self._with_its_room(resident, waiting, booked, others, mask)
        else:
            reasons: rounds.Reasons = np.full(len(table), "it cannot be migrated there", dtype=np.object_)
            reasons[mask] = None
            found = rounds.run(
                replace(self._pool, table=table, residents=others, making_room=frozenset()),
                [waiting],
                self._now,
                policy=self._policy,
                refusals=lambda _: reasons,
            )
            target = found.decisions[0].host
        if target is None:
            return "no other host of its site has room for it and meets what it asks for"
        if booked is not None:
            table.take(target, request)
        self._table, self._after = table, self._after.copy()
        self._after.give(resident.host, request)
        self._after.take(target, request)
        self._cost_s += cost
        self._residents[resident.id] = replace(resident, host=target)
        self.plan.moves.append(Move(resident.id, resident.host, target, cost))
        return ""

    def _with_its_room(
        self,
        resident: Resident,
        waiting: Waiting,
        booked: Reserved,
        others: Sequence[Resident],
        mask: Bools,
    ) -> int | None:
        """The first host that can keep its reservation's room for it to the end; that room goes along."""
        slots = dict(booked.slots)
        slots[resident.host] = slots.get(resident.host, 1) - 1
        rest = replace(booked, slots={host: count for host, count in slots.items() if count > 0})
        reserved = [rest if one.id == booked.id else one for one in self._pool.reserved]
        suspends = self._pool.suspends
        book = Book(
            self._table, others, reserved, self._now, suspend_s=self._pool.suspend_s, suspends=suspends
        )
        try:
            able = mask & feasible(self._table, waiting.request)
        except ExpressionError:
            return None
        judged = Affinity(self._table, others).judge(waiting, able)
        able &= judged.reasons == None  # noqa: E711 - of each
        found = book.room(replace(booked, count=1, slots={}, start=self._now), able)
        if found is None:
            return None
        (target,) = found
        moved = replace(rest, slots={**rest.slots, target: rest.slots.get(target, 0) + 1})
        self._pool = replace(
            self._pool, reserved=[moved if one.id == booked.id else one for one in self._pool.reserved]
        )
        return target

    def mark(self) -> tuple[Pool, HostTable, HostTable, dict[str, Resident], int, float]:
        """Where it stands, to come back to."""
        return (
            self._pool,
            self._table,
            self._after,
            dict(self._residents),
            len(self.plan.moves),
            self._cost_s,
        )

    def back_to(self, mark: tuple[Pool, HostTable, HostTable, dict[str, Resident], int, float]) -> None:
        """Forget the moves since then."""
        self._pool, self._table, self._after, self._residents, count, self._cost_s = mark
        del self.plan.moves[count:]

    def _measure(self) -> tuple[int, float]:
        loads = self.loads()[self._own]
        used = len({one.host for one in self._residents.values() if self._own[one.host]})
        return used, float(np.std(loads)) if len(loads) else 0.0


def _is_true(value: object) -> bool:
    return value is True or value == 1


PLANNERS: dict[str, Callable[[Pool, float, Open, Limits, Policy | None], Plan]] = {
    "pack": pack,
    "balance": balance,
}
