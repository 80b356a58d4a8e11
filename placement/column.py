"""Values of many hosts at once: numbers in a float column, texts and lists as codes into their distinct values.

An operation on texts is computed once per distinct value and spread by the codes, so that 3,000 hosts with
four hypervisors cost four string comparisons.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from placement.value import Value, normal

Floats = NDArray[np.float64]
Codes = NDArray[np.int32]
Bools = NDArray[np.bool_]
Mask = Bools | bool
"""True or false for each host, or the same for all."""

_PLAIN_NUMBERS = {float, int, bool, type(None)}


class Column:
    """One value per host. On each row at most one of the two parts is defined.

    ``numbers``: NaN where the value is not a number; ``codes``: index into ``values``, -1 where the value is
    neither a text nor a list. A part that no row has is None.
    """

    __slots__ = ("_index", "codes", "numbers", "values")

    def __init__(
        self,
        numbers: Floats | None = None,
        codes: Codes | None = None,
        values: Sequence[str | tuple[str, ...]] = (),
    ) -> None:
        self.numbers = numbers
        self.codes = codes
        self.values = values
        self._index: dict[str | tuple[str, ...], int] | None = None

    @classmethod
    def of(cls, cells: Sequence[object]) -> Column:
        """A column from one raw attribute per host."""
        kinds = set(map(type, cells))
        if kinds <= _PLAIN_NUMBERS:
            try:
                return cls(numbers=np.array(cells, dtype=np.float64))
            except OverflowError:
                pass  # an integer beyond the floats: the careful way below makes it infinite
        numbers = np.full(len(cells), np.nan)
        codes = np.full(len(cells), -1, dtype=np.int32)
        index: dict[str | tuple[str, ...], int] = {}
        for row, cell in enumerate(cells):
            value = cell if type(cell) is str else normal(cell)
            if isinstance(value, float):
                numbers[row] = value
            elif value is not None:
                codes[row] = index.setdefault(value, len(index))
        has_numbers = bool(np.any(~np.isnan(numbers)))
        return cls(numbers if has_numbers or not index else None, codes if index else None, tuple(index))

    def code_of(self, value: str | tuple[str, ...]) -> int | None:
        """The code of a value, None when no host has it."""
        if self._index is None:
            self._index = {value: code for code, value in enumerate(self.values)}
        return self._index.get(value)

    def at(self, row: int) -> Value:
        """The value on one host."""
        if self.numbers is not None and not np.isnan(self.numbers[row]):
            return float(self.numbers[row])
        if self.codes is not None and self.codes[row] >= 0:
            value: Value = self.values[self.codes[row]]
            return value
        return None

    def defined(self) -> Mask:
        """Which hosts have a value."""
        mask: Mask = False
        if self.numbers is not None:
            mask = ~np.isnan(self.numbers)
        if self.codes is not None:
            mask = mask | (self.codes >= 0)
        return mask


Values = Column | Value
"""One value per host, or one for all hosts."""


def spread(result: Sequence[bool], codes: Codes) -> Bools:
    """A result per distinct value, spread over the hosts; hosts without a value get False."""
    return np.array([*result, False], dtype=np.bool_)[codes]  # code -1 picks the last one


def coded(values: Values) -> tuple[Codes | None, Sequence[str | tuple[str, ...]]] | None:
    """The text and list part of ``values``: (codes, distinct values), codes None when it is one for all."""
    if isinstance(values, Column):
        return None if values.codes is None else (values.codes, values.values)
    return (None, (values,)) if isinstance(values, str | tuple) else None


def pairwise(
    function: Callable[[Value, Value], bool | None], left: Values, right: Values, wanted: bool
) -> Mask:
    """Where ``function`` of the two text or list parts is ``wanted``; once per distinct pair."""
    a, b = coded(left), coded(right)
    if a is None or b is None:
        return False
    (a_codes, a_values), (b_codes, b_values) = a, b
    if a_codes is None and b_codes is None:
        return function(a_values[0], b_values[0]) is wanted
    if b_codes is None:
        assert a_codes is not None  # noqa: S101 - both None was handled
        return spread([function(value, b_values[0]) is wanted for value in a_values], a_codes)
    if a_codes is None:
        return spread([function(a_values[0], value) is wanted for value in b_values], b_codes)
    pairs = np.where((a_codes < 0) | (b_codes < 0), -1, a_codes.astype(np.int64) * len(b_values) + b_codes)
    distinct, place = np.unique(pairs, return_inverse=True)
    results = [
        pair >= 0 and function(a_values[pair // len(b_values)], b_values[pair % len(b_values)]) is wanted
        for pair in distinct.tolist()
    ]
    return np.array(results, dtype=np.bool_)[place]


def numbers_of(values: Values) -> Floats | float:
    """The number part; NaN where the value is not a number."""
    if isinstance(values, Column):
        return np.nan if values.numbers is None else values.numbers
    return values if isinstance(values, float) else np.nan


def choose(condition: tuple[Mask, Mask], first: Values, second: Values, rows: int) -> Values:
    """``condition ? first : second`` with the condition's (true, false) masks."""
    true, false = condition
    if isinstance(true, bool) and isinstance(false, bool):
        return first if true else second if false else None
    numbers = np.where(true, numbers_of(first), np.where(false, numbers_of(second), np.nan))
    a, b = coded(first), coded(second)
    if a is None and b is None:
        return Column(numbers=numbers)
    index: dict[str | tuple[str, ...], int] = {}
    codes = np.full(rows, -1, dtype=np.int32)
    for part, mask in ((a, true), (b, false)):
        if part is None:
            continue
        part_codes, part_values = part
        moved = np.array(
            [*(index.setdefault(value, len(index)) for value in part_values), -1], dtype=np.int32
        )
        codes = np.where(mask, moved[0] if part_codes is None else moved[part_codes], codes)
    return Column(numbers=numbers, codes=codes, values=tuple(index))
