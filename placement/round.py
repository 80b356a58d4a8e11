"""A round: who of those that wait goes where, now.

Pure. The broker's queue and the simulator both call ``run``, so that what is simulated is what will be done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from placement.burst import Gate
from placement.match import Decision, Matcher
from placement.policy import Policy
from placement.pool import Binding, Pool, Waiting

Reasons = NDArray[np.object_]
"""A text or None per host: why a VM may not go there."""

Refusals = Callable[[Waiting], Reasons]

_NO_GATE = "no policy is in force, so nothing may burst"


@dataclass(frozen=True, slots=True)
class Move:
    """A running VM that gives way to another host of its site. ``reason`` in words."""

    id: str
    source: int
    target: int
    reason: str


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
    in which it was decided. ``bindings``: VM id -> what of its host's hardware it gets."""

    decisions: list[Decision]
    reasons: list[Reasons]
    order: list[int]
    bindings: dict[str, Binding] = field(default_factory=dict)
    moves: list[Move] = field(default_factory=list)
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
    matcher = Matcher(pool.table)
    elastic = _elastic(pool)
    decisions: list[Decision] = []
    reasons: list[Reasons] = []
    for waiting in queue:
        found = (
            refusals(waiting) if refusals is not None else np.full(len(pool.table), None, dtype=np.object_)
        )
        if elastic.any():
            bars = _NO_GATE if gate is None else gate.refusals(waiting, pool.table)
            found = np.where(elastic & (found == None), bars, found)  # noqa: E711 - of each
        decision = matcher.place(waiting.request, found == None)  # noqa: E711 - of each
        if decision.host is not None and elastic[decision.host] and gate is not None:
            gate.take(waiting, pool.table, decision.host)
        decisions.append(decision)
        reasons.append(found)
    return Round(decisions, reasons, list(range(len(queue))))


def _elastic(pool: Pool) -> NDArray[np.bool_]:
    numbers = pool.table.numbers("elastic")
    return np.zeros(len(pool.table), dtype=np.bool_) if numbers is None else numbers == 1
