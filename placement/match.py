"""The match: each VM, in the given order, onto the feasible host of highest rank.

Sequential semantics: every placement sees the ones before it. Every host is considered. Ties go to the lowest
index, so that equal input gives equal output. A pure function of its arguments, but for the table, which it
consumes: pass ``table.copy()``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from placement.column import Bools, Floats
from placement.language import Expression, ExpressionError, parse
from placement.table import HostTable
from placement.tree import CONSUMED

CAPACITY = ("cpu_free", "mem_free_mb", "disk_free_gb", "gpu_free")
"""What a VM takes of a host."""

LIMITS = {"cpu_free": "vm_cpu_max", "mem_free_mb": "vm_mem_max_mb"}
"""Optional host attributes with the largest VM that fits at all: a cloud's instance type is smaller than the
quota that is free. Undefined is no limit."""


@dataclass(frozen=True, slots=True)
class Request:
    """A VM that looks for a host.

    ``cpu`` in cores, ``mem_mb`` in MiB, ``disk_gb`` in GiB. ``requirement`` and ``rank`` are expressions;
    without a rank all hosts are equal. ``attributes`` are what expressions read as ``vm.*``.
    """

    id: str
    cpu: float
    mem_mb: float
    disk_gb: float = 0.0
    gpus: float = 0.0
    requirement: str | None = None
    rank: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def needs(self) -> tuple[tuple[str, float], ...]:
        """The capacity it takes: (host attribute, amount)."""
        return tuple(zip(CAPACITY, (self.cpu, self.mem_mb, self.disk_gb, self.gpus), strict=True))


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a VM goes. ``host`` and ``runner_up`` are rows of the table, None when there is none.

    Ranks are None where undefined or not asked for. ``error`` says why a request could not be judged at all
    (an expression that does not parse); it never keeps other requests from being placed.
    """

    request_id: str
    host: int | None
    rank: float | None = None
    runner_up: int | None = None
    runner_up_rank: float | None = None
    error: str = ""


Eligible = Callable[[Request], Bools | None] | Bools | None
"""Which hosts may be looked at: a mask, a mask per request, or None for all."""


def match(table: HostTable, requests: Sequence[Request], *, eligible: Eligible = None) -> list[Decision]:
    """Decide for each request in turn. Consumes ``table``; one Decision per request, in their order."""
    matcher = Matcher(table)
    decisions = []
    for request in requests:
        mask = eligible(request) if callable(eligible) else eligible
        decisions.append(matcher.place(request, mask))
    return decisions


def feasible(table: HostTable, request: Request) -> Bools:
    """Which hosts have the capacity and satisfy the requirement now. Raises ExpressionError."""
    return _Judgement(table, request).feasible(table)


class _Judgement:
    """What equal requests share: the part of the answer that no placement changes, and the rest as code."""

    __slots__ = ("attributes", "changing", "needs", "rank", "still", "still_score")

    def __init__(self, table: HostTable, request: Request) -> None:
        self.attributes = request.attributes
        self.needs: list[tuple[Floats, float]] = []
        self.changing: list[Expression] = []
        self.still: Bools = np.ones(len(table), dtype=np.bool_)
        for name, amount in request.needs():
            if amount <= 0:
                continue
            numbers = table.numbers(name)
            if numbers is None:
                self.still = np.zeros(len(table), dtype=np.bool_)  # a capacity nobody reports is nowhere
            else:
                self.needs.append((numbers, amount))
            limit = table.numbers(LIMITS[name]) if name in LIMITS else None
            if limit is not None:
                self.still &= ~(limit < amount)
        for term in parse(request.requirement).conjuncts() if request.requirement else ():
            if term.host_names & CONSUMED:
                self.changing.append(term)
            else:
                self.still &= term.truth(table, request.attributes)
        self.rank = parse(request.rank) if request.rank else None
        self.still_score: Floats | None = None
        if self.rank is None:
            self.still_score = np.zeros(len(table))
        elif not self.rank.host_names & CONSUMED:
            self.still_score = _lowest_for_undefined(self.rank.score(table, request.attributes))

    def feasible(self, table: HostTable) -> Bools:
        mask = self.still.copy()
        for numbers, amount in self.needs:
            mask &= numbers >= amount  # NaN, undefined, is never enough
        for term in self.changing:
            mask &= term.truth(table, self.attributes)
        return mask

    def score(self, table: HostTable) -> Floats:
        if self.still_score is not None:
            return self.still_score
        assert self.rank is not None  # noqa: S101 - no rank is a score that stands still
        return _lowest_for_undefined(self.rank.score(table, self.attributes))


class Matcher:
    """A round over one table, for callers that must act between two requests (``match`` for all others).

    Keeps what equal requests share, so that a queue of many VMs of few kinds costs little. Consumes ``table``.
    """

    def __init__(self, table: HostTable) -> None:
        self.table = table
        self.judgements: dict[object, _Judgement] = {}
        self.vm_names: dict[tuple[str | None, str | None], frozenset[str]] = {}
        self.keep = max(64, 256_000_000 // max(1, 9 * len(table)))

    def place(self, request: Request, eligible: Bools | None = None) -> Decision:
        """Decide for one request. ``eligible``: which hosts may be looked at, None for all."""
        if not len(self.table):
            return Decision(request.id, None)
        try:
            judgement = self._judgement(request)
        except ExpressionError as error:
            return Decision(request.id, None, error=str(error))
        candidates = judgement.feasible(self.table)
        if eligible is not None:
            candidates &= eligible
        score = judgement.score(self.table)
        ordered = np.where(candidates, score, -np.inf)
        host = _best(ordered, candidates)
        if host is None:
            return Decision(request.id, None)
        ordered[host] = -np.inf
        candidates[host] = False
        runner_up = _best(ordered, candidates)
        ranks = [_rank(score, index) if request.rank else None for index in (host, runner_up)]
        self.table.take(host, request)
        return Decision(request.id, host, ranks[0], runner_up, ranks[1])

    def _judgement(self, request: Request) -> _Judgement:
        texts = (request.requirement, request.rank)
        names = self.vm_names.get(texts)
        if names is None:
            expressions = [parse(text) for text in texts if text]
            names = self.vm_names[texts] = frozenset().union(*(found.vm_names for found in expressions))
        read = tuple((name, _frozen(request.attributes.get(name))) for name in names)
        key = (request.cpu, request.mem_mb, request.disk_gb, request.gpus, texts, read)
        found = self.judgements.get(key)
        if found is None:
            if len(self.judgements) >= self.keep:
                self.judgements.clear()
            found = self.judgements[key] = _Judgement(self.table, request)
        return found


def _best(ordered: Floats, candidates: Bools) -> int | None:
    """The lowest index of the highest score among the candidates; others have minus infinity."""
    index = int(ordered.argmax())
    if candidates[index]:
        return index
    # A candidate may itself score minus infinity (undefined); then the first of them wins.
    index = int(candidates.argmax())
    return index if candidates[index] else None


def _rank(score: Floats, index: int | None) -> float | None:
    if index is None or score[index] == -np.inf:
        return None
    return float(score[index])


def _lowest_for_undefined(score: Floats) -> Floats:
    return np.where(np.isnan(score), -np.inf, score)


def _frozen(value: object) -> object:
    """A VM attribute as a dictionary key."""
    if isinstance(value, Mapping):
        return tuple(sorted((str(key), _frozen(entry)) for key, entry in value.items()))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(map(str, value))
    return value
