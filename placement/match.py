"""The match: each VM, in the given order, onto the feasible host of highest rank.

Sequential semantics: every placement sees the ones before it. Every host is considered. Ties go to the lowest
index, so that equal input gives equal output. A pure function of its arguments, but for the table, which it
consumes: pass ``table.copy()``.

How it is fast: equal requests share the hosts that can still come into question, and one invariant: *every feasible
host is among them*. It holds without any care for what other kinds of requests do, because during a round hosts only
get fuller. ``placement.kernel`` looks at them in compiled code; ``_Kind`` does the same in numpy, where there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableSequence, Sequence
from typing import Any, cast

import numpy as np

from placement.column import Bools, Floats
from placement.kernel import KERNEL, NOWHERE, Candidates, Choice, Columns, Kernel
from placement.kernel import Bound as Compiled
from placement.language import ExpressionError, Shape, Term, parse
from placement.program import Bound, Indices
from placement.request import Decision, Request
from placement.size import CAPACITY, LIMITS, TOTALS, amounts
from placement.table import HostTable
from placement.tree import every

Eligible = Callable[[Request], Bools | None] | Bools | None
"""Which hosts may be looked at: a mask, a mask per request, or None for all."""


def match(
    table: HostTable,
    requests: Sequence[Request],
    *,
    eligible: Eligible = None,
    runners_up: bool = True,
    kernel: Kernel | None = KERNEL,
) -> list[Decision]:
    """Decide for each request in turn. Consumes ``table``; one Decision per request, in their order.

    ``runners_up=False`` does not look for the second best; ``kernel=None`` decides in numpy.
    """
    matcher = Matcher(table, runners_up=runners_up, kernel=kernel)
    if callable(eligible):
        return [matcher.place(request, eligible(request)) for request in requests]
    return matcher.place_all(requests, eligible)


def feasible(table: HostTable, request: Request) -> Bools:
    """Which hosts have the capacity and satisfy the requirement now. Raises ExpressionError."""
    wish = _Wish(request)
    mask = _Room(table, {}, [amount for _, amount in request.needs()]).mask
    with np.errstate(all="ignore"):
        for term in (*wish.still, *wish.changing):
            mask = mask & term.shape.truth.whole(table, term.literals, request.attributes)
    return mask


def could_ever(table: HostTable, request: Request, eligible: Bools) -> bool:
    """Whether one of these hosts could take it if it were empty. Terms that read what placements change are left out;
    a requirement that cannot be read admits nothing."""
    limits = _large_enough(table, amounts(request))
    mask = eligible if limits is None else eligible & limits
    for name, amount in request.needs():
        if amount <= 0:
            continue
        free, total = table.numbers(name), table.numbers(TOTALS[name])
        if free is None:
            return False
        # Without a total nobody knows how much there is, but that there is some.
        mask = mask & (~np.isnan(free) if total is None else np.fmax(free, total) >= amount)
    try:
        wish = _Wish(request)
    except ExpressionError:
        return False
    with np.errstate(all="ignore"):
        for term in wish.still:
            mask = mask & term.shape.truth.whole(table, term.literals, request.attributes)
    return bool(mask.any())


class Matcher:
    """A round over one table, for callers that must act between two requests (``match`` for all others).

    Keeps what equal requests share, so that a queue of many VMs of few kinds costs little. Consumes ``table``; nobody
    else may make its hosts emptier meanwhile. ``runners_up=False`` does not look for the second best; ``kernel=None``
    decides in numpy.
    """

    def __init__(self, table: HostTable, *, runners_up: bool = True, kernel: Kernel | None = KERNEL) -> None:
        self.table = table
        self.runners_up = runners_up
        self._kernel = kernel
        self._columns = Columns(table)
        names = (*CAPACITY, "running_vms")
        self._cells = {
            name: _cells(numbers) for name in names if (numbers := table.numbers(name)) is not None
        }
        self._wishes: dict[tuple[str | None, str | None], _Wish] = {}
        self._kinds: dict[object, _Kind | Candidates | None] = {}
        self._held = 0
        self._rooms: dict[tuple[float, ...], _Room] = {}
        self._limits: dict[tuple[float, ...], Bools | None] = {}
        self._placed = 0

    def compile(self, request: Request) -> None:
        """Read and compile its expressions ahead of its turn. Raises ExpressionError."""
        self._wish(request)

    def place(self, request: Request, eligible: Bools | None = None) -> Decision:
        """Decide for one request. ``eligible``: which hosts may be looked at, None for all."""
        with np.errstate(all="ignore"):
            return self._place(request, eligible)

    def place_all(self, requests: Sequence[Request], eligible: Bools | None = None) -> list[Decision]:
        """Decide for each in turn."""
        with np.errstate(all="ignore"):
            return [self._place(request, eligible) for request in requests]

    def _place(self, request: Request, eligible: Bools | None) -> Decision:
        try:
            kind = self._kind(request)
        except ExpressionError as error:
            return Decision(request.id, None, error=str(error))
        host, rank, second, second_rank = kind.place(eligible)
        if host is None:
            return Decision(request.id, None)
        self._placed += 1
        if not request.rank:
            rank = second_rank = None
        return Decision(request.id, host, rank, second, second_rank)

    def _wish(self, request: Request) -> _Wish:
        texts = (request.requirement, request.rank)
        found = self._wishes.get(texts)
        if found is None:
            found = self._wishes[texts] = _Wish(request)
            if self._kernel is not None and not found.vm_names:
                found.compiled = found.bind(self._kernel, self.table, {})
        return found

    def _kind(self, request: Request) -> _Kind | Candidates:
        size = amounts(request)
        key: tuple[object, ...] = (request.requirement, request.rank, size)
        kind = self._kinds.get(key)
        if kind is not None:
            return kind
        wish = self._wish(request)
        if wish.vm_names:
            key = (*key, *[_frozen(request.attributes.get(name)) for name in wish.vm_names])
            kind = self._kinds.get(key)
            if kind is not None:
                return kind
        # Who comes for the first time is not kept: most expressions of somebody's own do not come again.
        again = key in self._kinds
        compiled = wish.compiled
        if compiled is None and wish.vm_names and self._kernel is not None:
            compiled = wish.bind(self._kernel, self.table, request.attributes)
        if compiled is None:
            kind = _Kind(self.table, wish, request, self._room(size), runner_up=self.runners_up)
        else:
            rows, limits = len(self.table), self._limit(size)
            kind = Candidates(
                self._columns, rows, size, limits, compiled, runner_up=self.runners_up, again=again
            )
        self._kinds[key] = kind if again else None
        if again:
            self._held += kind.size
            if self._held > _MOST_HELD:
                self._kinds.clear()
                self._held = 0
        return kind

    def _room(self, size: tuple[float, ...]) -> _Room:
        room = self._rooms.get(size)
        if room is None:
            if len(self._rooms) >= _MOST_ROOMS:
                self._rooms.clear()
            room = self._rooms[size] = _Room(self.table, self._cells, size)
        if room.looked + _ROOM_AGE < self._placed:
            room.look()
            room.looked = self._placed
        return room

    def _limit(self, size: tuple[float, ...]) -> Bools | None:
        try:
            return self._limits[size]
        except KeyError:
            pass
        if len(self._limits) >= _MOST_ROOMS:
            self._limits.clear()
        return self._limits.setdefault(size, _large_enough(self.table, size))


_MOST_HELD = 64_000_000
"""How many numbers the kinds of a round may hold in all."""

_MOST_ROOMS = 1000

_ROOM_AGE = 128
"""After so many placements it is worth looking again who has room."""

_MOST_FULL = 8
"""After so many rows that turned out too full, it is worth dropping all that are."""

Cells = MutableSequence[float]
"""A column for reading and writing single cells, which is three times as fast as through numpy."""


class _Wish:
    """A requirement and a rank, read: the terms that stand still, and those that placements change.

    ``compiled``: the same for the kernel and one table; None when it cannot be, or the VM's attributes go in.
    """

    __slots__ = ("changing", "compiled", "rank", "still", "vm_names")

    def __init__(self, request: Request) -> None:
        requirement = parse(request.requirement) if request.requirement else None
        rank = parse(request.rank) if request.rank else None
        terms = requirement.terms if requirement else ()
        self.still = tuple(term for term in terms if not term.shape.truth.changes)
        self.changing = tuple(term for term in terms if term.shape.truth.changes)
        self.rank: Term | None = None
        if rank:
            self.rank = rank.terms[0] if len(rank.terms) == 1 else Term(Shape(rank.root))
            _ = self.rank.shape.number  # compiled now, not when somebody waits
        read = [expression.vm_names for expression in (requirement, rank) if expression]
        self.vm_names = tuple(sorted(frozenset[str]().union(*read)))
        self.compiled: Compiled | None = None

    def bind(self, kernel: Kernel, table: HostTable, vm: Mapping[str, Any]) -> Compiled | None:
        """All of it for the kernel; None when it has no code for a part of it."""
        changing = [(term.shape.truth, term.literals) for term in self.changing]
        still = [(term.shape.truth, term.literals) for term in self.still]
        rank = None if self.rank is None else (self.rank.shape.number, self.rank.literals)
        with np.errstate(all="ignore"):
            return kernel.bind(table, vm, changing, rank, still)


class _Room:
    """The hosts with room for certain amounts. ``mask`` is as of ``looked`` placements; no other host has room now."""

    __slots__ = ("_limits", "_needs", "looked", "mask", "needs", "takes")

    def __init__(self, table: HostTable, cells: Mapping[str, Cells], size: Sequence[float]) -> None:
        asked = tuple(zip(CAPACITY, size, strict=True))
        takes = ((name, amount) for name, amount in (*asked, ("running_vms", -1.0)) if amount)
        self.takes = [(cells[name], amount) for name, amount in takes if name in cells]
        self.needs = [(column, amount) for column, amount in self.takes if amount > 0]
        self._needs: list[tuple[Floats, float]] = []
        limits = _large_enough(table, size)
        self._limits = np.ones(len(table), dtype=np.bool_) if limits is None else limits
        self.looked = 0
        for name, amount in asked:
            if amount <= 0:
                continue
            numbers = table.numbers(name)
            if numbers is None:
                self._limits = np.zeros(len(table), dtype=np.bool_)  # a capacity nobody reports is nowhere
            else:
                self._needs.append((numbers, amount))
        self.look()

    def look(self) -> None:
        """See who has room now."""
        self.mask = self._limits
        for numbers, amount in self._needs:
            self.mask = self.mask & (numbers >= amount)  # NaN, undefined, is never enough

    def at(self, rows: Indices) -> Bools:
        """Which of these hosts, that once had room, have it now."""
        mask = np.ones(rows.size, dtype=np.bool_)
        for numbers, amount in self._needs:
            mask &= numbers.take(rows) >= amount
        return mask


def _large_enough(table: HostTable, size: Sequence[float]) -> Bools | None:
    """The hosts on which such a VM fits at all; None when that is all of them."""
    mask: Bools | None = None
    for name, amount in zip(CAPACITY, size, strict=True):
        limit = table.numbers(LIMITS[name]) if amount > 0 and name in LIMITS else None
        if limit is not None:
            fits = ~(limit < amount)
            mask = fits if mask is None else mask & fits
    return mask


class _Kind:
    """What equal requests share in numpy: the hosts in question, and what of the rank stands still on them. A row may
    be there in vain; so the best one is looked at once more before it is taken, and dropped when it has become too full.

    ``rows``: every host that could be chosen is among them, lowest index first.
    """

    __slots__ = ("_changing", "_full", "_rank", "_ranked", "_room", "_runner_up", "_stale", "_values", "rows")

    def __init__(
        self, table: HostTable, wish: _Wish, request: Request, room: _Room, *, runner_up: bool
    ) -> None:
        vm = request.attributes
        mask = room.mask
        for term in wish.still:
            mask = mask & term.shape.truth.whole(table, term.literals, vm)
        self.rows: Indices = mask.nonzero()[0]
        self._full: list[int] = []
        self._stale = False
        self._room = room
        self._runner_up = runner_up
        self._changing: list[Bound] = []
        self._rank: Bound | None = None
        self._values: Floats | None = None
        self._ranked = False
        if not self.rows.size:
            return
        for term in wish.changing:
            self._changing.append(term.shape.truth.bind(table, term.literals, vm, self.rows))
        if wish.rank is None:
            self._values = np.zeros(self.rows.size)
            self._ranked = True
            return
        number = wish.rank.shape.number
        self._rank = number.bind(table, wish.rank.literals, vm, self.rows)
        if not number.changes:
            # Its own copy, as rows are written off in it.
            self._values, self._rank = np.array(self._ranks()), None
            self._ranked = bool(self._values.min() > -np.inf)

    @property
    def size(self) -> int:
        """About how many numbers it holds."""
        return self.rows.size * (4 + 2 * len(self._changing))

    def place(self, eligible: Bools | None) -> Choice:
        """Choose, and place the VM. ``eligible``: which hosts may be chosen this time, None for all."""
        if self._stale or len(self._full) >= _MOST_FULL:
            self._refresh()
        if not self.rows.size:
            return NOWHERE
        values = self._values_now(eligible)
        at = self._best(values)
        if at is None:
            # Nobody is left whose rank is more than minus infinity. Who has none comes last, but comes.
            host = self._unranked(eligible)
            if host is None:
                return NOWHERE
            second = self._unranked(eligible, but=host) if self._runner_up else None
            self._take(host)
            return host, None, second, None
        host, rank = self.rows.item(at), values.item(at)
        second = second_rank = None
        if self._runner_up:
            values[at] = -np.inf
            next_at = self._best(values)
            if next_at is not None:
                second, second_rank = self.rows.item(next_at), values.item(next_at)
            else:
                second = self._unranked(eligible, but=host)
            values[at] = rank
        self._take(host)
        return host, rank, second, second_rank

    def _refresh(self) -> None:
        """Drop the rows that have become too full."""
        self._full, self._stale = [], False
        which = self._room.at(self.rows).nonzero()[0]
        self.rows = self.rows.take(which)
        self._changing = [truth.narrow(which) for truth in self._changing]
        if self._rank is not None:
            self._rank = self._rank.narrow(which)
        if self._values is not None:
            self._values = self._values.take(which)

    def _values_now(self, eligible: Bools | None) -> Floats:
        """The rank of each row now; minus infinity for those that are out of the question, NaN where undefined."""
        values = self._ranks() if self._values is None else self._values
        allowed = [truth.now() for truth in self._changing]
        if eligible is not None:
            allowed.append(eligible.take(self.rows))
        if allowed:
            values = np.where(every(allowed), values, -np.inf)
        if self._full and values is not self._values:
            values[self._full] = -np.inf
        return values

    def _best(self, values: Floats) -> int | None:
        """Which row has the highest rank and room; None when none has more than minus infinity.

        Rows that are found out to be without rank or room are written off in ``values``.
        """
        needs = self._room.needs
        while True:
            at = int(values.argmax())
            value = values.item(at)
            if value == -np.inf:
                return None
            if value != value:
                values[np.isnan(values)] = -np.inf
                continue
            host = self.rows.item(at)
            for cells, amount in needs:
                if not cells[host] >= amount:
                    break
            else:
                return at
            values[at] = -np.inf
            self._room.mask[host] = False
            self._full.append(at)

    def _unranked(self, eligible: Bools | None, but: int | None = None) -> int | None:
        """The first host that could be chosen if ranks did not matter."""
        if not self._changing and eligible is None:
            self._stale = True  # it is room that they lack, and that for good
        if self._ranked if self._values is not None else self._ranks().min() > -np.inf:
            return None
        which = self._room.at(self.rows)
        for truth in self._changing:
            which &= truth.now()
        if eligible is not None:
            which &= eligible.take(self.rows)
        if but is not None:
            which &= self.rows != but
        at = int(which.argmax())
        return self.rows.item(at) if which[at] else None

    def _ranks(self) -> Floats:
        assert self._rank is not None  # noqa: S101 - without a rank the values stand still
        ranks = self._rank.now()
        return ranks if isinstance(ranks, np.ndarray) else np.full(self.rows.size, ranks, dtype=np.float64)

    def _take(self, host: int) -> None:
        """Place a VM."""
        for cells, amount in self._room.takes:
            cells[host] -= amount


def _cells(numbers: Floats) -> Cells:
    return cast(Cells, memoryview(numbers))  # type: ignore[arg-type]


def _frozen(value: object) -> object:
    """A VM attribute as a dictionary key."""
    if isinstance(value, Mapping):
        return tuple(sorted((str(key), _frozen(entry)) for key, entry in value.items()))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(map(str, value))
    return value
