"""Expressions as postfix code, and that as numpy code: a tree in, functions over whole columns out. ``placement.kernel``
runs the same postfix code without numpy.

A tree is split once by how often its parts change. *Atoms* read neither a number of the text nor anything that
placements consume: the tree evaluates them once per table, which keeps them. ``_fold`` is everything above them
that does not change while VMs are placed; its results are the *leaves* of ``_run``, which reads the consumed columns
and is all that is left to do when the same question is asked again.

Invariant: for any hosts, the numbers and truths are those of ``placement.tree``, bit by bit. What this module cannot
say in numpy it leaves to the tree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from placement import tree
from placement.column import Column, Floats, Mask
from placement.node import CONSUMED, Columns, Kept, Node, Scope, Truth, keep

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

    __slots__ = (
        "__weakref__",
        "_asked",
        "_atoms",
        "_consumed",
        "_fold",
        "_repeats",
        "_run",
        "changes",
        "meaning",
        "node",
    )

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
                above = Postfix(lambda part: not part.hosts & CONSUMED)
                source = above.source(above.write(node, meaning), "leaf")
                self._consumed = tuple(above.consumed)
                arguments = [f"x{number}" for number in range(len(self._consumed))]
                arguments += [f"leaf{number}" for number in range(len(above.parts))]
                self._run: Callable[..., Result] | None = _function(arguments, source)
                leaves = above.parts
            else:
                self._consumed, self._run, leaves = (), None, [(node, meaning)]
            below = Postfix(is_atom)
            sources = [below.source(below.write(*leaf), "atom") for leaf in leaves]
            fixed = [not part.literals and not part.vms for part, _ in below.parts]
            numbers = sorted(range(len(fixed)), key=lambda number: not fixed[number])
            arguments = ["p", *(f"atom{number}" for number in numbers)]
            self._fold: Callable[..., list[Result]] | None = _function(arguments, f"[{', '.join(sources)}]")
            self._atoms = [part for part, same in zip(below.parts, fixed, strict=True) if same]
            self._asked = [part for part, same in zip(below.parts, fixed, strict=True) if not same]
        except Unfit:
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
            atoms = [evaluated(node, meaning, scope) for node, meaning in self._atoms]
            columns = [atom if isinstance(atom, np.ndarray) else np.full(table.rows, atom) for atom in atoms]
            keep(table, (id(self),), self, columns)
        else:
            columns = found[1]
        if rows is not None:
            columns = [column.take(rows) for column in columns]
        if self._asked:
            scope = Scope(table, vm, literals=literals)
            atoms = [evaluated(node, meaning, scope) for node, meaning in self._asked]
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


class Unfit(Exception):
    """The tree says something that has no code here."""


Operation = tuple[str, int]
"""An operation of postfix code and its number, where it has one: that of a literal, a consumed attribute or a part."""

SOURCE = {
    "nan": "nan",
    "one": "1.0",
    "zero": "0.0",
    "+": "({} + {})",
    "-": "({} - {})",
    "*": "({} * {})",
    "/": "({} / {})",
    "%": "mod({}, {})",
    "min": "min({}, {})",
    "max": "max({}, {})",
    "abs": "abs({})",
    "floor": "floor({})",
    "ceil": "ceil({})",
    "nonzero": "nonzero({})",
    "where": "where({}, {}, {})",
    "<": "({} < {})",
    "<=": "({} <= {})",
    ">": "({} > {})",
    ">=": "({} >= {})",
    "==": "({} == {})",
    "!=": "(({0} < {1}) | ({0} > {1}))",  # and not what NaN is, too
    "&": "({} & {})",
    "|": "({} | {})",
    "true": "(({0} < 0) | ({0} > 0))",
    "false": "({} == 0)",
}
"""What an operation is in numpy; its operands are numbers, but for ``&``, ``|`` and the first of ``where``."""

OPERANDS = {
    operation: 2 if "{1}" in template else 1 if "{0}" in template else template.count("{}")
    for operation, template in SOURCE.items()
}
"""How many operands it takes."""


class Postfix:
    """Postfix code of a tree down to the parts that ``stops`` picks; ``parts`` are those, by their number.

    Its operations are those of ``SOURCE`` and ``literal``, ``divisor`` (a literal to divide by), ``consumed`` and
    ``part``, each with a number.
    """

    def __init__(self, stops: Callable[[Node], bool]) -> None:
        self.stops = stops
        self.parts: list[_Part] = []
        self.consumed: list[str] = []
        self.written = 0

    def source(self, code: Sequence[Operation], name: str) -> str:
        """The same in numpy, with the parts called by this name."""
        names = {"literal": "p[{}]", "divisor": "(p[{}] or nan)", "consumed": "x{}", "part": name + "{}"}
        stack: list[str] = []
        for operation, number in code:
            if operation in names:
                stack.append(names[operation].format(number))
                continue
            template = SOURCE[operation]
            operands = [stack.pop() for _ in range(OPERANDS[operation])]
            stack.append(template.format(*reversed(operands)))
        return stack[0]

    def write(self, node: Node, meaning: Meaning) -> list[Operation]:
        """The code of a node."""
        # A condition is written for true and for false, and so is what it is made of.
        self.written += 1
        if node.depth > _DEEPEST or self.written > _LONGEST:
            raise Unfit
        if self.stops(node):
            part = (node, meaning)
            if part not in self.parts:
                self.parts.append(part)
            return [("part", self.parts.index(part))]
        if meaning == "divisor":
            if isinstance(node, tree.Literal) and node.numeric:
                return [("divisor", node.index)]
            return [*self._number(node), ("nonzero", 0)]
        return self._number(node) if meaning == "number" else self._truth(node, meaning == "true")

    def _number(self, node: Node) -> list[Operation]:
        if isinstance(node, tree.Literal) and node.numeric:
            return [("literal", node.index)]
        if isinstance(node, tree.HostName) and node.name in CONSUMED:
            if node.name not in self.consumed:
                self.consumed.append(node.name)
            return [("consumed", self.consumed.index(node.name))]
        if isinstance(node, tree.Arithmetic):
            left, right = node.children
            second = self.write(right, "divisor" if node.operator in "/%" else "number")
            return [*self.write(left, "number"), *second, (node.operator, 0)]
        if isinstance(node, tree.Call):
            codes = [self.write(child, "number") for child in node.children]
            if node.function in ("min", "max"):
                return _joined(codes, node.function)
            return [*codes[0], (node.function, 0)]
        if isinstance(node, tree.Choose):
            condition, yes, no = node.children
            true, false = self.write(condition, "true"), self.write(condition, "false")
            return _choice(true, self.write(yes, "number"), false, self.write(no, "number"))
        if isinstance(node, Truth):
            return _choice(self.write(node, "true"), [("one", 0)], self.write(node, "false"), [("zero", 0)])
        raise Unfit

    def _truth(self, node: Node, wanted: bool) -> list[Operation]:
        meaning: Meaning = "true" if wanted else "false"
        if isinstance(node, tree.And | tree.Or):
            codes = [self.write(child, meaning) for child in node.children]
            return _joined(codes, "&" if isinstance(node, tree.And) is wanted else "|")
        if isinstance(node, tree.Not):
            return self.write(node.children[0], "false" if wanted else "true")
        if isinstance(node, tree.Compare):
            if not any(_is_number(child) for child in node.children):
                raise Unfit  # texts may be compared
            left, right = (self.write(child, "number") for child in node.children)
            return [*left, *right, (node.operator if wanted else tree.OPPOSITE[node.operator], 0)]
        if isinstance(node, tree.Choose):
            condition, yes, no = node.children
            true, false = self.write(condition, "true"), self.write(condition, "false")
            yes_code, no_code = self.write(yes, meaning), self.write(no, meaning)
            return [*true, *yes_code, ("&", 0), *false, *no_code, ("&", 0), ("|", 0)]
        if isinstance(node, Truth) or not (_is_number(node) or isinstance(node, tree.HostName)):
            raise Unfit
        return [*self._number(node), (meaning, 0)]


def _joined(codes: list[list[Operation]], operation: str) -> list[Operation]:
    """All of them joined by an operation of two, in a tree that is as low as can be."""
    while len(codes) > 1:
        pairs = [
            [*first, *second, (operation, 0)] for first, second in zip(codes[::2], codes[1::2], strict=False)
        ]
        codes = [*pairs, *codes[len(pairs) * 2 :]]
    return codes[0]


def _choice(
    true: list[Operation], yes: list[Operation], false: list[Operation], no: list[Operation]
) -> list[Operation]:
    """One number where this is true, another where that is, and undefined elsewhere."""
    return [*true, *yes, *false, *no, ("nan", 0), ("where", 0), ("where", 0)]


def is_atom(node: Node) -> bool:
    """Whether the result is worth keeping: no number of the text goes in, of which there may be many, and no
    combination of terms."""
    if isinstance(node, tree.Literal):
        return not node.numeric
    return not isinstance(node, tree.And | tree.Or | tree.Not) and all(map(is_atom, node.children))


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
    return isinstance(node, tree.Arithmetic | tree.Call | tree.Size | Truth)


def evaluated(node: Node, meaning: Meaning, scope: Scope) -> Result:
    """The result of a part that is evaluated by its tree."""
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
