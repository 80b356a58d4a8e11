"""Expressions as numpy code: a tree in, functions over whole columns out.

A tree is split once by how often its parts change. *Atoms* read neither a number of the text nor anything that
placements consume: the tree evaluates them once per table, which keeps them. ``_fold`` is everything above them
that does not change while VMs are placed; its results are the *leaves* of ``_run``, which reads the consumed columns
and is all that is left to do when the same question is asked again.

Invariant: for any hosts, the numbers and truths are those of ``placement.tree``, bit by bit. What this module cannot
say in numpy it leaves to the tree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from placement import tree
from placement.column import Column, Floats, Mask
from placement.tree import CONSUMED, Columns, Kept, Node, Scope, keep

Indices = NDArray[np.intp]
Result = Any
"""An array with one entry per host, or one number or truth for all of them."""

Meaning = Literal["number", "divisor", "true", "false"]
"""What is asked of a node. A divisor is its number with 0 as NaN: dividing by zero is undefined."""

Literals = tuple[float | str, ...]
VM = Mapping[str, Any]

_Part = tuple[Node, Meaning]


class Program:
    """A node compiled for one meaning. ``changes``: it reads what placements consume."""

    __slots__ = ("_asked", "_atoms", "_consumed", "_fold", "_repeats", "_run", "changes", "meaning", "node")

    def __init__(self, node: Node, meaning: Meaning) -> None:
        self.node = node
        self.meaning = meaning
        self.changes = bool(node.hosts & CONSUMED)
        self._repeats = not node.vms and all(
            not part.numeric for part in node.walk() if isinstance(part, tree.Literal)
        )
        leaves: list[_Part]
        try:
            if self.changes:
                above = _Writer(lambda part: not part.hosts & CONSUMED, "leaf")
                source = above.write(node, meaning)
                self._consumed = tuple(above.consumed)
                arguments = [f"x{number}" for number in range(len(self._consumed))]
                arguments += [f"leaf{number}" for number in range(len(above.parts))]
                self._run: Callable[..., Result] | None = _function(arguments, source)
                leaves = above.parts
            else:
                self._consumed, self._run, leaves = (), None, [(node, meaning)]
            below = _Writer(_is_atom, "atom")
            sources = [below.write(*leaf) for leaf in leaves]
            fixed = [not part.literals and not part.vms for part, _ in below.parts]
            numbers = sorted(range(len(fixed)), key=lambda number: not fixed[number])
            arguments = ["p", *(f"atom{number}" for number in numbers)]
            self._fold: Callable[..., list[Result]] | None = _function(arguments, f"[{', '.join(sources)}]")
            self._atoms = [part for part, same in zip(below.parts, fixed, strict=True) if same]
            self._asked = [part for part, same in zip(below.parts, fixed, strict=True) if not same]
        except _Unfit:
            self._fold = self._run = None
            self._consumed, self._atoms, self._asked = (), [], []

    def bind(self, table: Columns, literals: Literals, vm: VM, rows: Indices | None = None) -> Bound:
        """Ready to be asked, for all hosts or for some rows of them."""
        if self._fold is None:
            return _Walk(self, Scope(table, vm, literals=literals), rows)
        consumed = [_numbers(table, name) for name in self._consumed]
        return Bound(
            self._run, consumed, self._fold(literals, *self._columns(table, literals, vm, rows)), rows
        )

    def whole(self, table: Columns, literals: Literals, vm: VM) -> Result:
        """The result for all hosts as they are now. It may be kept: do not write to it."""
        if self.changes or self._fold is None:
            return self.bind(table, literals, vm).now()
        if not self._repeats:
            return self._fold(literals, *self._columns(table, literals, vm, None))[0]
        key = (id(self), literals)
        found = table.kept.get(key)
        if found is not None:
            return found[1]
        result = self._fold(literals, *self._columns(table, literals, vm, None))[0]
        return keep(table, key, self, result)

    def _columns(self, table: Columns, literals: Literals, vm: VM, rows: Indices | None) -> list[Result]:
        found = table.kept.get((id(self),))
        if found is None:
            scope = Scope(table, {})
            atoms = [_atom(node, meaning, scope) for node, meaning in self._atoms]
            columns = [atom if isinstance(atom, np.ndarray) else np.full(table.rows, atom) for atom in atoms]
            keep(table, (id(self),), self, columns)
        else:
            columns = found[1]
        if rows is not None:
            columns = [column.take(rows) for column in columns]
        if self._asked:
            scope = Scope(table, vm, literals=literals)
            atoms = [_atom(node, meaning, scope) for node, meaning in self._asked]
            if rows is not None:
                atoms = [atom.take(rows) if isinstance(atom, np.ndarray) else atom for atom in atoms]
            columns = [*columns, *atoms]
        return columns


class Bound:
    """A program and the hosts it is asked about: what stands still is computed, what is consumed is read anew."""

    __slots__ = ("_consumed", "_leaves", "_rows", "_run")

    def __init__(
        self,
        run: Callable[..., Result] | None,
        consumed: list[Floats],
        leaves: list[Result],
        rows: Indices | None,
    ) -> None:
        self._run = run
        self._consumed = consumed
        self._leaves = leaves
        self._rows = rows

    def now(self) -> Result:
        """The result as the hosts are now. It may be kept: do not write to it."""
        if self._run is None:
            return self._leaves[0]
        if self._rows is None:
            return self._run(*self._consumed, *self._leaves)
        return self._run(*[numbers.take(self._rows) for numbers in self._consumed], *self._leaves)

    def narrow(self, which: Indices) -> Bound:
        """The same for some of its rows only."""
        leaves = [leaf.take(which) if isinstance(leaf, np.ndarray) else leaf for leaf in self._leaves]
        return Bound(self._run, self._consumed, leaves, _narrow(self._rows, which))


class _Walk(Bound):
    """What no program can say: the tree is walked anew each time."""

    __slots__ = ("program", "scope")

    def __init__(self, program: Program, scope: Scope, rows: Indices | None) -> None:
        super().__init__(None, [], [], rows)
        self.program = program
        self.scope = scope

    def now(self) -> Result:
        """The result as the hosts are now."""
        table = self.scope.table if self._rows is None else Rows(self.scope.table, self._rows)
        scope = Scope(table, self.scope.vm, literals=self.scope.literals, keep=self._rows is None)
        return _asked(self.program.node, self.program.meaning, scope)

    def narrow(self, which: Indices) -> Bound:
        """The same for some of its rows only."""
        return _Walk(self.program, self.scope, _narrow(self._rows, which))


def _narrow(rows: Indices | None, which: Indices) -> Indices:
    return which if rows is None else rows.take(which)


def _numbers(table: Columns, name: str) -> Floats:
    column = table.column(name)
    return np.full(table.rows, np.nan) if column is None or column.numbers is None else column.numbers


class Rows:
    """Some rows of a table, as a table of their own."""

    def __init__(self, table: Columns, rows: Indices) -> None:
        self._table = table
        self._rows = rows
        self.rows = len(rows)
        self.kept: Kept = {}

    def column(self, name: str) -> Column | None:
        """An attribute of these hosts, None when no host has it."""
        column = self._table.column(name)
        if column is None:
            return None
        return Column(
            None if column.numbers is None else column.numbers[self._rows],
            None if column.codes is None else column.codes[self._rows],
            column.values,
        )


_DEEPEST = 40
"""Python reads no more than 200 parentheses in each other."""

_LONGEST = 1000
"""How many parts of a tree a program is written for."""


class _Unfit(Exception):
    """The tree says something that has no numpy code here."""


class _Writer:
    """Writes numpy code for a tree down to the parts that ``stops`` picks; ``parts`` are those, by their number."""

    def __init__(self, stops: Callable[[Node], bool], name: str) -> None:
        self.stops = stops
        self.name = name
        self.parts: list[_Part] = []
        self.consumed: list[str] = []
        self.written = 0

    def write(self, node: Node, meaning: Meaning) -> str:
        """The code of a node."""
        # A condition is written for true and for false, and so is what it is made of.
        self.written += 1
        if node.depth > _DEEPEST or self.written > _LONGEST:
            raise _Unfit
        if self.stops(node):
            part = (node, meaning)
            if part not in self.parts:
                self.parts.append(part)
            return f"{self.name}{self.parts.index(part)}"
        if meaning == "divisor":
            return self._divisor(node)
        return self._number(node) if meaning == "number" else self._truth(node, meaning == "true")

    def _divisor(self, node: Node) -> str:
        if isinstance(node, tree.Literal) and node.numeric:
            return f"(p[{node.index}] or nan)"
        return f"nonzero({self._number(node)})"

    def _number(self, node: Node) -> str:
        if isinstance(node, tree.Literal) and node.numeric:
            return f"p[{node.index}]"
        if isinstance(node, tree.HostName) and node.name in CONSUMED:
            if node.name not in self.consumed:
                self.consumed.append(node.name)
            return f"x{self.consumed.index(node.name)}"
        if isinstance(node, tree.Arithmetic):
            left, right = node.children
            divides = node.operator in "/%"
            second = self.write(right, "divisor" if divides else "number")
            if node.operator == "%":
                return f"mod({self.write(left, 'number')}, {second})"
            return f"({self.write(left, 'number')} {node.operator} {second})"
        if isinstance(node, tree.Call):
            first, *others = [self.write(child, "number") for child in node.children]
            if not others:
                return first if node.function in ("min", "max") else f"{node.function}({first})"
            for other in others:
                first = f"{node.function}({first}, {other})"
            return first
        if isinstance(node, tree.Choose):
            condition, yes, no = node.children
            true, false = self.write(condition, "true"), self.write(condition, "false")
            yes_code, no_code = self.write(yes, "number"), self.write(no, "number")
            return f"where({true}, {yes_code}, where({false}, {no_code}, nan))"
        if isinstance(node, tree.Truth):
            true, false = self.write(node, "true"), self.write(node, "false")
            return f"where({true}, 1.0, where({false}, 0.0, nan))"
        raise _Unfit

    def _truth(self, node: Node, wanted: bool) -> str:
        meaning: Meaning = "true" if wanted else "false"
        if isinstance(node, tree.And | tree.Or):
            parts = [self.write(child, meaning) for child in node.children]
            return "(" + (" & " if isinstance(node, tree.And) is wanted else " | ").join(parts) + ")"
        if isinstance(node, tree.Not):
            return self.write(node.children[0], "false" if wanted else "true")
        if isinstance(node, tree.Compare):
            if not any(_is_number(child) for child in node.children):
                raise _Unfit  # texts may be compared
            left, right = (self.write(child, "number") for child in node.children)
            operator = node.operator if wanted else tree.OPPOSITE[node.operator]
            if operator == "!=":  # which NaN is too
                return f"(({left} < {right}) | ({left} > {right}))"
            return f"({left} {operator} {right})"
        if isinstance(node, tree.Choose):
            condition, yes, no = node.children
            true, false = self.write(condition, "true"), self.write(condition, "false")
            return f"(({true} & {self.write(yes, meaning)}) | ({false} & {self.write(no, meaning)}))"
        if isinstance(node, tree.Truth) or not (_is_number(node) or isinstance(node, tree.HostName)):
            raise _Unfit
        number = self._number(node)
        return f"(({number} < 0) | ({number} > 0))" if wanted else f"({number} == 0)"


def _is_atom(node: Node) -> bool:
    """Whether the result is worth keeping: no number of the text goes in, of which there may be many, and no
    combination of terms."""
    if isinstance(node, tree.Literal):
        return not node.numeric
    return not isinstance(node, tree.And | tree.Or | tree.Not) and all(map(_is_atom, node.children))


def _is_number(node: Node) -> bool:
    """Whether the value is a number on every host where it is defined."""
    if isinstance(node, tree.Literal):
        return node.numeric
    if isinstance(node, tree.Constant):
        return isinstance(node.constant_value, float)
    if isinstance(node, tree.HostName):
        return node.name in CONSUMED
    if isinstance(node, tree.Choose):
        return all(_is_number(child) for child in node.children[1:])
    return isinstance(node, tree.Arithmetic | tree.Call | tree.Size | tree.Truth)


def _atom(node: Node, meaning: Meaning, scope: Scope) -> Result:
    if meaning == "divisor":
        if node.vms or not node.hosts:
            return _nonzero(node.numbers(scope))
        return scope.kept(node, meaning, lambda scope: _nonzero(node.numbers(scope)))
    return _asked(node, meaning, scope)


def _asked(node: Node, meaning: Meaning, scope: Scope) -> Result:
    if meaning == "true":
        return node.true(scope)
    return node.false(scope) if meaning == "false" else node.numbers(scope)


def _nonzero(numbers: Result) -> Result:
    if isinstance(numbers, np.ndarray):
        return numbers if numbers.all() else np.where(numbers == 0, np.nan, numbers)
    return numbers or np.nan


def _where(condition: Result, first: Result, second: Result) -> Result:
    chosen: Any = np.where(condition, first, second)
    return chosen if chosen.ndim else float(chosen)


_NAMES: dict[str, Any] = {
    "__builtins__": {},
    "nan": np.nan,
    "where": _where,
    "mod": np.mod,
    "min": np.minimum,
    "max": np.maximum,
    "abs": np.abs,
    "floor": np.floor,
    "ceil": np.ceil,
    "nonzero": _nonzero,
}


def _function(arguments: list[str], source: str) -> Callable[..., Any]:
    # The source is made of the names and operators above; no text of a user goes into it.
    code = compile(f"lambda {', '.join(arguments)}: {source}", "<expression>", "eval")
    made: Callable[..., Any] = eval(code, _NAMES)  # noqa: S307
    return made


def spread(result: Mask, rows: int) -> NDArray[np.bool_]:
    """One truth per host."""
    return result if isinstance(result, np.ndarray) else np.full(rows, result, dtype=np.bool_)
