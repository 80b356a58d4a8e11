"""The match of one VM in one pass over the hosts, compiled from ``kernel.c`` when Isthmus is installed.

Without a C compiler there, ``placement.match`` does the same in numpy; so it does for the few expressions that this
module has no code for. The two make the same decisions, to the last bit of a rank.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from placement.column import Bools
from placement.node import CONSUMED, Scope, keep
from placement.program import OPERANDS, VM, Literals, Postfix, Program, Unfit, evaluated, is_atom
from placement.size import CAPACITY
from placement.table import HostTable

LIBRARY = Path(__file__).with_name("_kernel.so")

COLUMNS = (*CAPACITY, "running_vms")
"""The columns that placements change, in the order that ``kernel.c`` has them in."""

_OPERATIONS = (
    *("number", "truth", "consumed", "literal", "divisor", "nan", "one", "zero"),
    *("+", "-", "*", "/", "min", "max", "abs", "floor", "ceil", "nonzero", "where"),
    *("<", "<=", ">", ">=", "==", "!=", "&", "|", "true", "false"),
)
"""In the order of the enumeration in ``kernel.c``."""

_CODES = {operation: code for code, operation in enumerate(_OPERATIONS)}

_DEEPEST = 24
"""How many operands may wait: ``DEPTH`` of ``kernel.c``."""

Choice = tuple[int | None, float | None, int | None, float | None]
"""A host and its rank, the runner-up and its rank; None for no host and no rank."""

Asked = tuple[Program, Literals]

NOWHERE: Choice = (None, None, None, None)


class Kernel:
    """The library, and the code of the programs it was asked to run."""

    def __init__(self, library: ctypes.PyDLL) -> None:
        self.place: Callable[[int, int], int] = library.isthmus_place
        library.isthmus_place.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        library.isthmus_place.restype = ctypes.c_int64
        self._codes: WeakKeyDictionary[Program, Code | None] = WeakKeyDictionary()

    def code(self, program: Program) -> Code | None:
        """What it runs for a program; None when there is no such code."""
        try:
            return self._codes[program]
        except KeyError:
            pass
        try:
            code = Code(program)
        except Unfit:
            code = None
        self._codes[program] = code
        return code

    def bind(
        self, table: HostTable, vm: VM, changing: Sequence[Asked], rank: Asked | None, still: Sequence[Asked]
    ) -> Bound | None:
        """A requirement, in terms that placements change and others, and a rank; None when it cannot run one of them."""
        parts: list[list[_Term]] = []
        for asked in (changing, () if rank is None else (rank,), still):
            parts.append([])
            for program, literals in asked:
                code = self.code(program)
                if code is None:
                    return None
                parts[-1].append(_Term(code, table, literals, vm))
        return Bound(self.place, *parts)


def _load() -> Kernel | None:
    if not LIBRARY.exists():
        return None
    # A call takes microseconds: to give the interpreter's lock away for that would cost more than to keep it.
    return Kernel(ctypes.PyDLL(str(LIBRARY)))


KERNEL = _load()
"""The kernel that was built at installation; None when there is none."""


class Code:
    """A program as the kernel reads it. Raises Unfit when it cannot be."""

    def __init__(self, program: Program) -> None:
        postfix = Postfix(lambda part: is_atom(part) and not part.hosts & CONSUMED)
        written = postfix.write(program.node, program.meaning)
        self.parts = postfix.parts
        self.same = all(not part.literals and not part.vms for part, _ in self.parts)
        self._code = array("i")
        waiting = 0
        for operation, number in written:
            waiting += 1 - OPERANDS.get(operation, 0)
            if waiting > _DEEPEST or (operation not in _CODES and operation != "part"):
                raise Unfit
            self._code.extend(self._encoded(operation, number, postfix))
        self.address, length = self._code.buffer_info()
        self.length = length // 2

    def _encoded(self, operation: str, number: int, postfix: Postfix) -> Sequence[int]:
        if operation == "part":
            _, meaning = self.parts[number]
            return _CODES["truth" if meaning in ("true", "false") else "number"], number
        if operation == "consumed":
            return _CODES[operation], COLUMNS.index(postfix.consumed[number])
        return _CODES[operation], number


class _Term:
    """A code, its literals and its columns of one table; ``words`` is the ``term`` of ``kernel.c``."""

    __slots__ = ("_held", "words")

    def __init__(self, code: Code, table: HostTable, literals: Literals, vm: VM) -> None:
        numbers = array("d", [literal if type(literal) is float else 0.0 for literal in literals])
        if code.same:
            found = table.kept.get((id(code),))
            parts: _Parts = found[1] if found else keep(table, (id(code),), code, _Parts(code, table, (), {}))
        else:
            parts = _Parts(code, table, literals, vm)
        self._held = (code, numbers, parts)
        self.words = (code.address, code.length, numbers.buffer_info()[0], parts.address)


class Bound:
    """A requirement and a rank on one table."""

    __slots__ = ("_held", "place", "words")

    def __init__(
        self,
        place: Callable[[int, int], int],
        changing: Sequence[_Term],
        rank: Sequence[_Term],
        still: Sequence[_Term],
    ) -> None:
        self.place = place
        self._held = (*changing, *rank, *still)
        self.words = [len(changing), len(rank), len(still)]
        for term in self._held:
            self.words += term.words


class _Parts:
    """The columns that a code reads; ``address`` is where ``kernel.c`` finds them."""

    __slots__ = ("_held", "_words", "address")

    def __init__(self, code: Code, table: HostTable, literals: Literals, vm: VM) -> None:
        scope = Scope(table, vm, literals=literals)
        self._held: list[object] = []
        self._words = array("q")
        for node, meaning in code.parts:
            result = evaluated(node, meaning, scope)
            truth = meaning in ("true", "false")
            if isinstance(result, np.ndarray):
                column = np.ascontiguousarray(result, dtype=np.bool_ if truth else np.float64)
                self._words.extend((0, address(column)))
                self._held.append(column)
            else:
                scalar = array("d", [float(result)])
                self._words.extend((1, scalar.buffer_info()[0]))
                self._held.append(scalar)
        self.address = self._words.buffer_info()[0]


class Columns:
    """The columns of a table that placements change."""

    def __init__(self, table: HostTable) -> None:
        self._held = [table.numbers(name) for name in COLUMNS]
        self._words = array("q", [0 if column is None else address(column) for column in self._held])
        self.address = self._words.buffer_info()[0]


class Candidates:
    """What equal requests share: the hosts in question, and the code that says which is the best of them.

    Every host that could be chosen is among them. With ``again`` they are looked for once; else whoever is left of the
    whole table is looked at each time.
    """

    __slots__ = (
        "_address",
        "_again",
        "_found",
        "_found_address",
        "_held",
        "_hosts",
        "_place",
        "_which",
        "_words",
    )

    def __init__(
        self,
        columns: Columns,
        rows: int,
        needs: Sequence[float],
        limits: Bools | None,
        bound: Bound,
        *,
        runner_up: bool,
        again: bool,
    ) -> None:
        """``needs``: an amount for each of ``CAPACITY``. ``limits``: the hosts that are large enough, None for all."""
        amounts = array("d", needs)
        allowed, largest = 0, 0 if limits is None else address(limits)
        words = [
            rows,
            0,
            0,
            largest,
            allowed,
            columns.address,
            amounts.buffer_info()[0],
            runner_up,
            *bound.words,
        ]
        self._place = bound.place
        self._words = array("q", words)
        self._address = self._words.buffer_info()[0]
        self._found = array("d", (0.0, 0.0, 0.0, 0.0))
        self._found_address = self._found.buffer_info()[0]
        self._held = (columns, amounts, limits, bound)
        self._again = again
        self._hosts = rows
        self._which: NDArray[np.int32] | None = None

    @property
    def size(self) -> int:
        """How many numbers it may hold."""
        return len(self._words) + (self._hosts if self._again else 0)

    def place(self, allowed: Bools | None) -> Choice:
        """Choose, and place the VM. ``allowed``: which hosts may be chosen this time, None for all."""
        words = self._words
        if not words[_ROWS]:
            return NOWHERE
        # Looked at before an address of anything stands in ``words`` that does not live as long.
        mask = None if allowed is None else self._checked(allowed)
        words[_ALLOWED] = 0 if mask is None else address(mask)
        if self._again and self._which is None:
            every = np.empty(words[_ROWS], dtype=np.int32)
            words[_KEEP] = address(every)
            kept = self._place(self._address, self._found_address)
            self._which = every[:kept].copy()
            words[_WHICH] = words[_KEEP] = address(self._which)
            words[_STILL] = words[_LIMITS] = 0
            words[_ROWS] = kept
        else:
            kept = self._place(self._address, self._found_address)
            if self._again:
                words[_ROWS] = kept
        host, rank, second, second_rank = self._found
        if host < 0:
            return NOWHERE
        if second < 0:
            return int(host), None if rank != rank else rank, None, None
        return (
            int(host),
            None if rank != rank else rank,
            int(second),
            None if second_rank != second_rank else second_rank,
        )

    def _checked(self, allowed: Bools) -> Bools:
        mask = np.ascontiguousarray(allowed, dtype=np.bool_)
        if mask.shape != (self._hosts,):
            raise ValueError(f"a mask of {mask.size} for {self._hosts} hosts")
        return mask


_ROWS, _WHICH, _KEEP, _LIMITS, _ALLOWED = range(5)
_STILL = 10
"""Where a ``request`` of ``kernel.c`` has them, in words."""


def address(column: NDArray[Any]) -> int:
    """Where the numbers or truths of a contiguous column are."""
    place: int = column.__array_interface__["data"][0]
    return place
