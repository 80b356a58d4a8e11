"""Leases: room that is kept for a time, and who may use it until then.

The words are Haizea's (Sotomayor et al., "Combining Batch Execution and Leasing Using Virtual Machines", HPDC 2008). A
*best-effort* lease is a VM that waits for room; an *immediate* one is refused when there is none; an *advance
reservation* is room from one time to another; a *deadline* lease is a VM with a runtime and a time by which it must have
run. *Backfilling* lets a VM start in room that somebody else waits for, as long as that one is not delayed.

The invariant: no reservation that was accepted is late because of somebody who was let in before it. It rests on what may
be taken from whom. A VM is *removable* at a time when it is preemptible, when it said how long it runs and that time is
over, or when it is in a reservation that has ended: it may then be suspended. All others stay for ever as far as this
book knows. So a VM may start on a host only when at each later start of a reservation there, and at each time until
the VM is removable itself, there is room for all that are not removable then, and for what is reserved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from placement.column import Floats
from placement.policy import Backfill
from placement.policy.duration import show_duration
from placement.pool import Reserved, Resident, Waiting
from placement.size import CAPACITY, Size, amounts
from placement.table import HostTable

Reasons = NDArray[np.object_]

_DISK = CAPACITY.index("disk_free_gb")
_ALWAYS_THERE = ("cpu_free", "mem_free_mb", "disk_free_gb")
"""What every host has, reported or not; of the rest a host has none that it does not report."""

SUSPEND_S = 60.0
"""How long before a reservation starts its room is made free."""


@dataclass(frozen=True, slots=True)
class Victim:
    """A VM to suspend, and the reservation that it is suspended for."""

    resident: Resident
    reserved: Reserved


@dataclass(frozen=True, slots=True)
class Planned:
    """When and where a VM that waits will find room at the latest, as far as its neighbours said how long they run."""

    start: float
    host: int


@dataclass(slots=True)
class _Commitment:
    """Room on one host from one time to another. ``hard``: a reservation's, which may have others suspended."""

    id: str
    host: int
    count: float
    need: Floats
    start: float
    end: float
    why: str


class Book:
    """The slot table: what is free on each host now, and at each time when something that is promised begins.

    Times are seconds since the epoch. Placing a VM with ``take`` keeps it up to date; the table itself is not changed.
    ``suspend_s``: how long before its start a reservation's room is made free; ``suspends``: the hosts where a VM can be
    suspended, None for all.
    """

    def __init__(
        self,
        table: HostTable,
        residents: Sequence[Resident] = (),
        reserved: Sequence[Reserved] = (),
        now: float = 0.0,
        *,
        suspend_s: float = SUSPEND_S,
        suspends: NDArray[np.bool_] | None = None,
    ) -> None:
        self.now = now
        self.suspend_s = suspend_s
        self._rows = len(table)
        self._suspends = np.ones(self._rows, dtype=np.bool_) if suspends is None else suspends
        self._residents = list(residents)
        self._reserved = {one.id: one for one in reserved if one.end > now}
        self._free = np.stack([_column(table, name) for name in CAPACITY], axis=1)
        self._gone: list[tuple[float, int, Floats]] = []
        for resident in self._residents:
            when = self._removable_from(resident)
            if when < math.inf:
                self._gone.append((when, resident.host, _given_back(_need(resident))))
        self._commitments: list[_Commitment] = []
        self._at: dict[float, Floats] = {}
        inside: dict[tuple[str, int], int] = {}
        for resident in self._residents:
            # One that is suspended will want its room again.
            if resident.reservation and (resident.cpu or resident.dedicated_cpus):
                key = (resident.reservation, resident.host)
                inside[key] = inside.get(key, 0) + 1
        for one in self._reserved.values():
            for host, count in one.slots.items():
                left = count - inside.get((one.id, host), 0)
                if left > 0:
                    self._promise(
                        _Commitment(
                            one.id, host, left, _need(one), max(one.start, now), _end(one), "reserved"
                        )
                    )

    @property
    def empty(self) -> bool:
        """Whether nothing is promised to anybody: then everybody may go anywhere."""
        return not self._commitments

    def allowed(self, waiting: Waiting) -> Reasons | None:
        """Per host why the VM may not start there now, or None; None at all when nothing is in its way."""
        if waiting.reservation is not None:
            return self._own_slots(waiting)
        if self.empty:
            return None
        found: Reasons = np.full(self._rows, None, dtype=np.object_)
        need = _need(waiting.request)
        gone = self._gone_at(waiting)
        for time in sorted(self._at):
            short = (self._at[time] < need).any(axis=1)
            if time >= gone and time > self.now + self.suspend_s:
                # It can be suspended by then, where its host does that. Its disk stays.
                short &= ~self._suspends | (self._at[time][:, _DISK] < need[_DISK])
            hosts = np.fromiter({one.host for one in self._live(time)}, dtype=np.int64)
            near = np.zeros(self._rows, dtype=np.bool_)
            near[hosts] = True
            why = "it is reserved now" if time <= self.now else f"it is reserved in {_words(time - self.now)}"
            found[short & near & (found == None)] = why  # noqa: E711 - of each element
        return found

    def take(self, waiting: Waiting, host: int) -> None:
        """Note that the VM was placed."""
        need = _need(waiting.request)
        if waiting.reservation is not None:
            for one in self._commitments:
                if one.id == waiting.reservation and one.host == host and one.count > 0:
                    one.count -= 1
                    self._add(one, need, 1.0)
                    if not one.count:
                        self._commitments.remove(one)
                    break
        self._free[host] -= need
        gone = self._gone_at(waiting) if self._suspends[host] else math.inf
        for time, room in self._at.items():
            room[host] -= need
            if gone <= time > self.now:
                room[host] += _given_back(need)
        if gone < math.inf:
            self._gone.append((gone, host, _given_back(need)))

    def plan(self, waiting: Waiting, eligible: NDArray[np.bool_]) -> Planned | None:
        """The earliest time at which a host has room, as far as anybody knows; None when nobody does."""
        need = _need(waiting.request)
        times = {time for time, _, _ in self._gone if time > self.now}
        times |= {one.end for one in self._commitments if one.end < math.inf}
        for time in sorted(times):
            end = math.inf if waiting.runtime_s is None else time + waiting.runtime_s
            fits = self._fits(need, time, end) & eligible
            if fits.any():
                return Planned(time, int(fits.argmax()))
        return None

    def protect(self, waiting: Waiting, planned: Planned) -> None:
        """Promise the VM its planned start, so that nobody who is looked at later delays it."""
        end = math.inf if waiting.runtime_s is None else planned.start + waiting.runtime_s
        need = _need(waiting.request)
        self._promise(_Commitment(waiting.request.id, planned.host, 1, need, planned.start, end, "planned"))

    def room(self, wanted: Reserved, eligible: NDArray[np.bool_]) -> dict[int, int] | None:
        """Host -> how many of the reservation's VMs have room there from its start to its end; None when they have not.

        Hosts where nobody has to be suspended come first, then the lowest index.
        """
        need, end = _need(wanted), _end(wanted)
        free = self._counts(need, wanted.start, end, with_removable=False)
        makeable = free
        if wanted.start >= self.now + self.suspend_s:
            makeable = np.maximum(free, self._counts(need, wanted.start, end, with_removable=True))
        slots: dict[int, int] = {}
        left = wanted.count
        for counts in (free, makeable):
            for host in np.flatnonzero(eligible & (counts > 0)):
                more = min(left, int(counts[host]) - slots.get(int(host), 0))
                if more > 0:
                    slots[int(host)] = slots.get(int(host), 0) + more
                    left -= more
                if not left:
                    return slots
        return None

    def earliest(self, wanted: Reserved, eligible: NDArray[np.bool_]) -> float | None:
        """The first time at which the reservation would have room for as long as it asks; None when never."""
        length = wanted.end - wanted.start
        times = {one.end for one in self._commitments} | {time for time, _, _ in self._gone}
        times |= {self.now + self.suspend_s}
        for time in sorted(time for time in times if wanted.start < time < math.inf):
            if self.room(replace(wanted, start=time, end=time + length), eligible) is not None:
                return time
        return None

    def victims(self) -> list[Victim]:
        """Who has to be suspended now, so that each reservation that starts soon finds its room."""
        found: list[Victim] = []
        gone: set[str] = set()
        soon = sorted(
            (
                one
                for one in self._commitments
                if one.id in self._reserved and one.start <= self.now + self.suspend_s
            ),
            key=lambda one: (one.start, one.id, one.host),
        )
        free = self._free.copy()
        for resident in self._residents:
            if resident.leaving:
                free[resident.host] += _given_back(_need(resident))
        for one in soon:
            free[one.host] -= one.count * one.need
            here = [resident for resident in self._residents if resident.host == one.host]
            here = [resident for resident in here if self._may_suspend(resident, one)]
            here.sort(key=lambda resident: (resident.priority, -resident.since, resident.id))
            for resident in here:
                if (free[one.host] >= 0).all():
                    break
                if resident.id in gone:
                    continue
                free[one.host] += _given_back(_need(resident))
                gone.add(resident.id)
                found.append(Victim(resident, self._reserved[one.id]))
        return found

    # What is promised

    def _promise(self, one: _Commitment) -> None:
        self._commitments.append(one)
        for time, room in self._at.items():
            if one.start <= time < one.end:
                room[one.host] -= one.count * one.need
        for time in (self.now, one.start):
            if time not in self._at:
                self._at[time] = self._room_at(time)

    def _add(self, one: _Commitment, need: Floats, sign: float) -> None:
        for time, room in self._at.items():
            if one.start <= time < one.end:
                room[one.host] += sign * need

    def _live(self, time: float) -> list[_Commitment]:
        return [one for one in self._commitments if one.start <= time < one.end]

    def _room_at(self, time: float, *, with_removable: bool = True) -> Floats:
        """What is free on each host at a time, with all that is promised then taken off."""
        room: Floats = self._free.copy()
        if with_removable and time > self.now:
            for when, host, need in self._gone:
                if when <= time:
                    room[host] += need
        for one in self._live(time):
            room[one.host] -= one.count * one.need
        return room

    def _times(self, start: float, end: float) -> list[float]:
        return [start, *(one.start for one in self._commitments if start < one.start < end)]

    def _fits(self, need: Floats, start: float, end: float) -> NDArray[np.bool_]:
        fits = np.ones(self._rows, dtype=np.bool_)
        for time in self._times(start, end):
            fits &= (self._room_at(time) >= need).all(axis=1)
        return fits

    def _counts(self, need: Floats, start: float, end: float, *, with_removable: bool) -> Floats:
        """How many VMs of a size each host has room for all the time."""
        counts = np.full(self._rows, np.inf)
        wanted = need > 0
        for time in self._times(start, end):
            room = self._room_at(time, with_removable=with_removable)
            counts = np.minimum(
                counts, np.floor(room[:, wanted] / need[wanted] + 1e-9).min(axis=1, initial=np.inf)
            )
        bounded: Floats = np.nan_to_num(counts, nan=0.0, posinf=1e9)
        return bounded

    def _own_slots(self, waiting: Waiting) -> Reasons:
        found: Reasons = np.full(self._rows, "the VM's reservation has no room here", dtype=np.object_)
        reserved = self._reserved.get(waiting.reservation or "")
        if reserved is None:
            found[:] = "the VM's reservation is over"
        elif reserved.start > self.now:
            found[:] = f"the VM's reservation starts in {_words(reserved.start - self.now)}"
        else:
            need = _need(waiting.request)
            for one in self._commitments:
                if one.id != reserved.id or one.count <= 0:
                    continue
                if _stays(reserved):
                    found[one.host] = None  # its room is promised to nobody else, not even afterwards
                    continue
                # Its own room is sure until its end; what is promised to others after that is not for it.
                later = [time for time in self._at if time >= reserved.end]
                if not self._suspends[one.host] and any(
                    (self._at[time][one.host] < need).any() for time in later
                ):
                    found[one.host] = "the host is reserved by others when the VM's reservation ends"
                    continue
                if any(self._at[time][one.host][_DISK] < need[_DISK] for time in later):
                    found[one.host] = "the host's disk is reserved by others when the VM's reservation ends"
                    continue
                found[one.host] = None
        return found

    # Who may be taken away

    def _removable_from(self, resident: Resident) -> float:
        """From when on the VM may be suspended for a reservation; infinity: never."""
        if resident.leaving:
            return self.now
        if not resident.suspendable:
            return math.inf
        if resident.reservation is not None:
            reserved = self._reserved.get(resident.reservation)
            return self.now if reserved is None else reserved.end
        if resident.preemptible:
            return self.now
        return math.inf if resident.runtime_s is None else resident.since + resident.runtime_s

    def _gone_at(self, waiting: Waiting) -> float:
        if _stays(waiting.request):
            return math.inf
        if waiting.reservation is not None:
            reserved = self._reserved.get(waiting.reservation)
            return self.now if reserved is None else reserved.end
        if waiting.preemptible:
            return self.now
        return math.inf if waiting.runtime_s is None else self.now + waiting.runtime_s

    def _may_suspend(self, resident: Resident, one: _Commitment) -> bool:
        return not resident.leaving and self._removable_from(resident) <= max(self.now, one.start)


def latest_start(waiting: Waiting, boot_s: float) -> float | None:
    """The last moment at which the VM can be launched to be done by its deadline; None without one."""
    if waiting.deadline is None or waiting.runtime_s is None:
        return None
    return waiting.deadline - waiting.runtime_s - boot_s


class Backfilling:
    """Which of those that are looked at later may start, while somebody before them waits for room."""

    def __init__(self, book: Book | None, mode: Backfill) -> None:
        self._book = book
        self._mode = mode
        self._blocked = ""
        self._protected = 0

    def refusal(self) -> str:
        """Why nobody may start any more, or empty."""
        return self._blocked

    def left_behind(self, waiting: Waiting, eligible: NDArray[np.bool_]) -> None:
        """Note that a VM found no room: what is known of when it will is not given to others.

        ``eligible``: the hosts that it could go to if they had room. One that has none is in nobody's way.
        """
        if not eligible.any():
            return
        if self._mode == "none":
            name = waiting.request.attributes.get("name", waiting.request.id)
            self._blocked = f"queue.backfill is none, and {name} waits before it"
        elif self._book is not None and (self._mode == "conservative" or not self._protected):
            planned = self._book.plan(waiting, eligible)
            if planned is not None:
                self._protected += 1
                self._book.protect(waiting, planned)


def _need(size: Size) -> Floats:
    return np.array(amounts(size))


def _stays(size: Size) -> bool:
    """Whether a VM of this size is never suspended: it has something of its host for itself."""
    return any(amounts(size)[_DISK + 1 :])


def _end(one: Reserved) -> float:
    """When a reservation's room is sure to be free for others. VMs that are never suspended may stand there for ever."""
    return math.inf if _stays(one) else one.end


def _given_back(need: Floats) -> Floats:
    """What a suspension gives back: not the disk."""
    back = need.copy()
    back[_DISK] = 0.0
    return back


def _column(table: HostTable, name: str) -> Floats:
    numbers = table.numbers(name)
    unknown = np.inf if name in _ALWAYS_THERE else 0.0
    return np.full(len(table), unknown) if numbers is None else np.nan_to_num(numbers, nan=unknown)


def _words(seconds: float) -> str:
    return show_duration(seconds)
