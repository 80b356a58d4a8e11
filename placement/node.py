"""What every node of an expression's tree has: its place, its names, and what it is evaluated with.

Truth over a table is kept as two masks, where a node is certainly true and where it is certainly false; it is
undefined where neither holds. Each mask is computed only when somebody asks for it, so a requirement without
``!`` never computes the second one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from placement.column import Column, Floats, Mask, Values, numbers_of
from placement.size import CAPACITY
from placement.value import Value

CONSUMED = frozenset({*CAPACITY, "running_vms"})
"""The host attributes that change when a VM is placed. All others are the same for a whole round."""


Kept = dict[tuple[object, ...], tuple[object, Any]]
"""Results by the identity of what computed them, what was asked of it, and the literals in it; each with that whose
identity it is."""


class Columns(Protocol):
    """What a tree needs of a host table."""

    @property
    def rows(self) -> int:
        """How many hosts there are."""

    def column(self, name: str) -> Column | None:
        """An attribute of all hosts, None when no host has it."""

    @property
    def kept(self) -> Kept:
        """Results that hold as long as the table's unconsumed attributes do."""


class Scope:
    """The hosts, the VM and the literals that an expression is evaluated for."""

    __slots__ = ("_found", "keep", "literals", "table", "vm")

    def __init__(
        self,
        table: Columns,
        vm: Mapping[str, Any],
        *,
        literals: Sequence[float | str] = (),
        keep: bool = True,
    ) -> None:
        self.table = table
        self.vm = vm
        self.literals = literals
        self.keep = keep
        self._found: dict[tuple[Node, str], Any] = {}

    def once(self, node: Node, meaning: str, compute: Callable[[Scope], Any]) -> Any:
        """The result of a node, computed once for this scope."""
        key = (node, meaning)
        if key not in self._found:
            self._found[key] = compute(self)
        return self._found[key]

    def kept(self, node: Node, meaning: str, compute: Callable[[Scope], Any]) -> Any:
        """The result of a node that nothing consumed or of the VM goes into: computed once per table."""
        key = (id(node), meaning, *[self.literals[index] for index in node.literals])
        found = self.table.kept.get(key)
        if found is None:
            alone = Scope(self.table, self.vm, literals=self.literals, keep=False)
            return keep(self.table, key, node, compute(alone))
        return found[1]


_SHALLOW = 6
"""Nodes above more levels than this are evaluated once only in a scope: a condition is asked both where it is true
and where it is false, and so is each condition in it; without an end to that, the time doubles with every level."""


def keep(table: Columns, key: tuple[object, ...], owner: object, result: Any) -> Any:
    """Keep a result whose key begins with the id of ``owner``, which is kept along with it: so nobody else gets that
    id meanwhile. Answers the result."""
    if len(table.kept) >= max(64, 32_000_000 // max(1, table.rows)):
        table.kept.clear()
    table.kept[key] = (owner, result)
    return result


class Node:
    """A part of an expression; ``start`` and ``end`` are its place in the text.

    Subclasses define ``interpret`` and either ``_value`` (numbers, texts) or ``_true``/``_false`` (truths).
    """

    __slots__ = ("children", "depth", "end", "hosts", "literals", "start", "static", "vms")
    constant: ClassVar[bool] = False

    def __init__(self, start: int, end: int, children: Iterable[Node] = ()) -> None:
        self.start = start
        self.end = end
        self.children = tuple(children)
        self.hosts: frozenset[str] = frozenset().union(*(child.hosts for child in self.children))
        self.vms: frozenset[str] = frozenset().union(*(child.vms for child in self.children))
        self.literals: tuple[int, ...] = tuple(index for child in self.children for index in child.literals)
        self.depth: int = 1 + max((child.depth for child in self.children), default=0)
        self.static = bool(self.children and self.hosts) and not self.vms and not self.hosts & CONSUMED

    def walk(self) -> Iterator[Node]:
        """This node and all below it, in the order of the text."""
        yield self
        for child in self.children:
            yield from child.walk()

    def interpret(self, host: Mapping[str, Any], vm: Mapping[str, Any]) -> Value:
        """The value on one host, by plain Python."""
        raise NotImplementedError

    def true(self, scope: Scope) -> Mask:
        """Where this is certainly true."""
        if self.static and scope.keep:
            return scope.kept(self, "true", self._true)  # type: ignore[no-any-return]
        if self.depth > _SHALLOW:
            return scope.once(self, "true", self._true)  # type: ignore[no-any-return]
        return self._true(scope)

    def false(self, scope: Scope) -> Mask:
        """Where this is certainly false."""
        if self.static and scope.keep:
            return scope.kept(self, "false", self._false)  # type: ignore[no-any-return]
        if self.depth > _SHALLOW:
            return scope.once(self, "false", self._false)  # type: ignore[no-any-return]
        return self._false(scope)

    def value(self, scope: Scope) -> Values:
        """The value on each host."""
        if self.static and scope.keep:
            return scope.kept(self, "value", self._value)  # type: ignore[no-any-return]
        if self.depth > _SHALLOW:
            return scope.once(self, "value", self._value)  # type: ignore[no-any-return]
        return self._value(scope)

    def numbers(self, scope: Scope) -> Floats | float:
        """The number on each host, NaN where there is none."""
        return numbers_of(self.value(scope))

    def _value(self, scope: Scope) -> Values:
        raise NotImplementedError

    def _true(self, scope: Scope) -> Mask:
        numbers = self.numbers(scope)
        return (numbers < 0) | (numbers > 0)  # not != 0, which NaN is too

    def _false(self, scope: Scope) -> Mask:
        return self.numbers(scope) == 0


class Truth(Node):
    """A node that is true, false or undefined."""

    __slots__ = ()

    def _value(self, scope: Scope) -> Values:
        true, false = self.true(scope), self.false(scope)
        if isinstance(true, bool) and isinstance(false, bool):
            return 1.0 if true else 0.0 if false else None
        return Column(numbers=np.where(true, 1.0, np.where(false, 0.0, np.nan)))

    def _true(self, scope: Scope) -> Mask:
        raise NotImplementedError

    def _false(self, scope: Scope) -> Mask:
        raise NotImplementedError
