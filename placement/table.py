"""The hosts of a decision, column by column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from placement.column import Column, Floats
from placement.node import CONSUMED, Kept
from placement.request import Request
from placement.value import AttributeValue, Value

__all__ = ["CONSUMED", "AttributeValue", "HostTable"]


class HostTable:
    """A snapshot of hosts: one row per host, one column per attribute.

    The columns of ``CONSUMED`` change as VMs are placed (``take``); all others never do. Units are those of
    the attributes: ``cpu_free`` in cores, ``mem_free_mb`` in MiB, ``disk_free_gb`` in GiB. Not safe to change
    from two threads; give each its own ``copy``.
    """

    def __init__(self, rows: int, columns: Mapping[str, Column]) -> None:
        self._rows = rows
        self._columns = dict(columns)
        self._kept: Kept = {}
        for name in CONSUMED & columns.keys():
            self._columns[name] = Column(numbers=_numbers(columns[name], rows))

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, AttributeValue]]) -> HostTable:
        """A table from one mapping of attributes per host; what a host lacks is undefined on it."""
        names = dict.fromkeys(name for row in rows for name in row)
        return cls(len(rows), {name: Column.of([row.get(name) for row in rows]) for name in names})

    def following(
        self,
        before: Sequence[Mapping[str, AttributeValue]],
        now: Sequence[Mapping[str, AttributeValue]],
        only: Sequence[int] | None = None,
    ) -> HostTable:
        """The table of the same hosts a little later, as ``from_rows(now)`` makes it; ``before`` are the rows of this one.
        ``only``: the rows that may differ; None when any may.

        Columns in which nothing changed are shared, and so is what is kept as long as only consumed ones did.
        """
        changed = {
            name
            for old, new in (
                zip(before, now, strict=True)
                if only is None
                else ((before[number], now[number]) for number in only)
            )
            if old != new
            for name in old.keys() | new.keys()
            if old.get(name) != new.get(name) or (name in old) != (name in new)
        }
        columns = {name: column for name, column in self._columns.items() if name not in changed}
        for name in changed:
            patched = self._patched(name, now, only) if only is not None else None
            if patched is not None:
                columns[name] = patched
            elif any(name in row for row in now):
                columns[name] = Column.of([row.get(name) for row in now])
        twin = HostTable(self._rows, columns)
        for name in CONSUMED & columns.keys() - changed:
            twin._columns[name] = Column(numbers=_numbers(columns[name], self._rows).copy())
        if changed <= CONSUMED:
            twin._kept = self._kept
        return twin

    def _patched(
        self, name: str, now: Sequence[Mapping[str, AttributeValue]], only: Sequence[int]
    ) -> Column | None:
        """A column of numbers with the values of some hosts changed, None when it is more than that."""
        column = self._columns.get(name)
        if column is None or column.numbers is None or column.codes is not None:
            return None
        values = [now[number].get(name) for number in only]
        if not all(type(value) in (int, float) for value in values):
            return None
        numbers = column.numbers.copy()
        try:
            numbers[only] = np.array(values, dtype=np.float64)
        except OverflowError:
            return None
        return Column(numbers=numbers)

    def __len__(self) -> int:
        return self._rows

    @property
    def rows(self) -> int:
        """How many hosts there are."""
        return self._rows

    @property
    def names(self) -> frozenset[str]:
        """The attributes that at least one host was given."""
        return frozenset(self._columns)

    @property
    def kept(self) -> Kept:
        """Results of expressions that only read what never changes; shared by all copies."""
        return self._kept

    def column(self, name: str) -> Column | None:
        """An attribute of all hosts, None when no host has it."""
        return self._columns.get(name)

    def numbers(self, name: str) -> Floats | None:
        """A number attribute of all hosts with NaN for undefined, None when no host has it as a number."""
        column = self._columns.get(name)
        return None if column is None else column.numbers

    def value(self, index: int, name: str) -> Value:
        """One attribute of one host, None when undefined."""
        column = self._columns.get(name)
        return None if column is None else column.at(index)

    def row(self, index: int) -> dict[str, Value]:
        """The attributes of one host as they are now, undefined ones left out."""
        values = ((name, column.at(index)) for name, column in self._columns.items())
        return {name: value for name, value in values if value is not None}

    def __iter__(self) -> Iterator[dict[str, Value]]:
        return (self.row(index) for index in range(self._rows))

    def copy(self) -> HostTable:
        """A table that can be changed without changing this one. Unconsumed columns are shared."""
        twin = HostTable.__new__(HostTable)
        twin._rows = self._rows
        twin._columns = dict(self._columns)
        twin._kept = self._kept
        for name in CONSUMED & self._columns.keys():
            twin._columns[name] = Column(numbers=_numbers(self._columns[name], self._rows).copy())
        return twin

    def take(self, index: int, request: Request) -> None:
        """Place a VM on a host: its free capacity shrinks, ``running_vms`` grows by one.

        Whether it fits is not checked here (``placement.match`` does).
        """
        self._change(index, request, -1.0)

    def give(self, index: int, request: Request) -> None:
        """Take a VM off a host again: what ``take`` took comes back."""
        self._change(index, request, 1.0)

    def _change(self, index: int, request: Request, sign: float) -> None:
        for name, amount in (("running_vms", -1.0), *request.needs()):
            numbers = self.numbers(name)
            if numbers is not None and amount:
                numbers[index] += sign * amount


def _numbers(column: Column, rows: int) -> Floats:
    return np.full(rows, np.nan) if column.numbers is None else np.ascontiguousarray(column.numbers)
