"""The tree of a parsed expression and its two meanings: on one host, and on all hosts of a table at once.

``interpret`` is the definition: plain Python on single values. ``true``, ``false`` and ``value`` say the same
over the columns of a table with numpy, and are what decisions use; tests hold the two together.

Truth over a table is kept as two masks, where a node is certainly true and where it is certainly false; it is
undefined where neither holds. Each mask is computed only when somebody asks for it, so a requirement without
``!`` never computes the second one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from placement.column import Column, Floats, Mask, Values, choose, numbers_of, pairwise
from placement.size import CAPACITY
from placement.value import Value, arithmetic, compare, glob, member, normal, number_of, truth_of

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


class Constant(Node):
    """A number or a text."""

    __slots__ = ("constant_value",)
    constant = True

    def __init__(self, start: int, end: int, value: float | str) -> None:
        super().__init__(start, end)
        self.constant_value = value

    def interpret(self, host: Mapping[str, Any], vm: Mapping[str, Any]) -> Value:
        return self.constant_value

    def _value(self, scope: Scope) -> Values:
        return self.constant_value


class Literal(Node):
    """The place of a number or a text in a tree that many texts share; the scope says which one stands there."""

    __slots__ = ("index", "numeric")

    def __init__(self, start: int, end: int, index: int, *, numeric: bool) -> None:
        super().__init__(start, end)
        self.index = index
        self.numeric = numeric
        self.literals = (index,)

    def _value(self, scope: Scope) -> Values:
        return scope.literals[self.index]


class HostName(Node):
    """An attribute of the host."""

    __slots__ = ("name",)

    def __init__(self, start: int, end: int, name: str) -> None:
        super().__init__(start, end)
        self.name = name
        self.hosts = frozenset({name})

    def interpret(self, host: Mapping[str, Any], vm: Mapping[str, Any]) -> Value:
        return normal(host.get(self.name))

    def _value(self, scope: Scope) -> Values:
        return scope.table.column(self.name)


class VMName(Node):
    """An attribute of the VM, or one entry of it (``vm.labels["k"]``)."""

    __slots__ = ("key", "name")

    def __init__(self, start: int, end: int, name: str, key: str | None = None) -> None:
        super().__init__(start, end)
        self.name = name
        self.key = key
        self.vms = frozenset({name})

    def interpret(self, host: Mapping[str, Any], vm: Mapping[str, Any]) -> Value:
        value = vm.get(self.name)
        if self.key is not None:
            value = value.get(self.key) if isinstance(value, Mapping) else None
        return normal(value)

    def _value(self, scope: Scope) -> Values:
        return self.interpret({}, scope.vm)


class And(Truth):
    """``&&``: false as soon as one is false, even where another is undefined."""

    __slots__ = ()

    def interpret(self, host: Mapping[str, Any], vm: Mapping[str, Any]) -> Value:
        truths = {truth_of(child.interpret(host, vm)) for child in self.children}
        return number_of(False if False in truths else None if None in truths else True)

    def _true(self, scope: Scope) -> Mask:
        return every(child.true(scope) for child in self.children)

    def _false(self, scope: Scope) -> Mask:
        return some(child.false(scope) for child in self.children)


class Or(Truth):
    """``||``: true as soon as one is true, even where another is undefined."""

    __slots__ = ()

    def interpret(self, host: Mapping[str, Any], vm: Mapping[str, Any]) -> Value:
        truths = {truth_of(child.interpret(host, vm)) for child in self.children}
        return number_of(True if True in truths else None if None in truths else False)

    def _true(self, scope: Scope) -> Mask:
        return some(child.true(scope) for child in self.children)

    def _false(self, scope: Scope) -> Mask:
        return every(child.false(scope) for child in self.children)


class Not(Truth):
    """``!``: undefined stays undefined."""

    __slots__ = ()

    def interpret(self, host: Mapping[str, Any], vm: Mapping[str, Any]) -> Value:
        truth = truth_of(self.children[0].interpret(host, vm))
        return number_of(None if truth is None else not truth)

    def _true(self, scope: Scope) -> Mask:
        return self.children[0].false(scope)

    def _false(self, scope: Scope) -> Mask:
        return self.children[0].true(scope)


_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": lambda a, b: a == b,
    # NaN differs from everything, itself included, so that != has to be asked in a way that NaN fails.
    "!=": lambda a, b: (a < b) | (a > b),
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
OPPOSITE = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}


class Compare(Truth):
    """``== != < <= > >=``."""

    __slots__ = ("operator",)

    def __init__(self, start: int, end: int, operator: str, left: Node, right: Node) -> None:
        super().__init__(start, end, (left, right))
        self.operator = operator

    def interpret(self, host: Mapping[str, Any], vm: Mapping[str, Any]) -> Value:
        left, right = self.children
        return number_of(compare(self.operator, left.interpret(host, vm), right.interpret(host, vm)))

    def _true(self, scope: Scope) -> Mask:
        return self._where(scope, self.operator)

    def _false(self, scope: Scope) -> Mask:
        return self._where(scope, OPPOSITE[self.operator])

    def _where(self, scope: Scope, operator: str) -> Mask:
        left, right = (child.value(scope) for child in self.children)
        if not isinstance(left, Column) and not isinstance(right, Column):
            return compare(operator, left, right) is True
        mask: Mask = _COMPARE[operator](numbers_of(left), numbers_of(right))
        if operator == "==" and isinstance(left, Column) and isinstance(right, str | tuple):
            code = left.code_of(right)
            return mask if code is None or left.codes is None else mask | (left.codes == code)
        return mask | pairwise(lambda a, b: compare(operator, a, b), left, right, True)


class Member(Truth):
    """``text in list``."""

    __slots__ = ()

    def interpret(self, host: Mapping[str, Any], vm: Mapping[str, Any]) -> Value:
        item, whole = self.children
        return number_of(member(item.interpret(host, vm), whole.interpret(host, vm)))

    def _true(self, scope: Scope) -> Mask:
        return pairwise(member, self.children[0].value(scope), self.children[1].value(scope), True)

    def _false(self, scope: Scope) -> Mask:
        return pairwise(member, self.children[0].value(scope), self.children[1].value(scope), False)


class Glob(Truth):
    """``text ~ "pattern-*"``."""

    __slots__ = ()

    def interpret(self, host: Mapping[str, Any], vm: Mapping[str, Any]) -> Value:
        subject, pattern = self.children
        return number_of(glob(subject.interpret(host, vm), pattern.interpret(host, vm)))

    def _true(self, scope: Scope) -> Mask:
        return pairwise(glob, self.children[0].value(scope), self.children[1].value(scope), True)

    def _false(self, scope: Scope) -> Mask:
        return pairwise(glob, self.children[0].value(scope), self.children[1].value(scope), False)


class Defined(Truth):
    """``defined(x)``: never undefined itself."""

    __slots__ = ()

    def interpret(self, host: Mapping[str, Any], vm: Mapping[str, Any]) -> Value:
        return number_of(self.children[0].interpret(host, vm) is not None)

    def _true(self, scope: Scope) -> Mask:
        value = self.children[0].value(scope)
        return value.defined() if isinstance(value, Column) else value is not None

    def _false(self, scope: Scope) -> Mask:
        return _inverse(self._true(scope))


class Choose(Node):
    """``condition ? a : b``; undefined where the condition is."""

    __slots__ = ()

    def interpret(self, host: Mapping[str, Any], vm: Mapping[str, Any]) -> Value:
        condition, first, second = self.children
        truth = truth_of(condition.interpret(host, vm))
        return None if truth is None else (first if truth else second).interpret(host, vm)

    def _value(self, scope: Scope) -> Values:
        condition, first, second = self.children
        masks = (condition.true(scope), condition.false(scope))
        return choose(masks, first.value(scope), second.value(scope), scope.table.rows)

    def _true(self, scope: Scope) -> Mask:
        condition, first, second = self.children
        return (condition.true(scope) & first.true(scope)) | (condition.false(scope) & second.true(scope))

    def _false(self, scope: Scope) -> Mask:
        condition, first, second = self.children
        return (condition.true(scope) & first.false(scope)) | (condition.false(scope) & second.false(scope))


_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: np.where(b == 0, np.nan, np.divide(a, b)),
    "%": lambda a, b: np.where(b == 0, np.nan, np.mod(a, b)),
}


class Arithmetic(Node):
    """``+ - * / %``; unary minus is ``0 - x``."""

    __slots__ = ("operator",)

    def __init__(self, start: int, end: int, operator: str, left: Node, right: Node) -> None:
        super().__init__(start, end, (left, right))
        self.operator = operator

    def interpret(self, host: Mapping[str, Any], vm: Mapping[str, Any]) -> Value:
        left, right = self.children
        return arithmetic(self.operator, left.interpret(host, vm), right.interpret(host, vm))

    def _value(self, scope: Scope) -> Values:
        left, right = (child.value(scope) for child in self.children)
        if not isinstance(left, Column) and not isinstance(right, Column):
            return arithmetic(self.operator, left, right)
        return _column(_ARITHMETIC[self.operator](numbers_of(left), numbers_of(right)), scope)


class Call(Node):
    """A function of numbers: ``min max abs floor ceil``. Undefined when an argument is."""

    __slots__ = ("function",)

    PLAIN: ClassVar[dict[str, Callable[..., float]]] = {
        "min": min,
        "max": max,
        "abs": abs,
        "floor": lambda x: float(math.floor(x)) if math.isfinite(x) else x,
        "ceil": lambda x: float(math.ceil(x)) if math.isfinite(x) else x,
    }
    COLUMNS: ClassVar[dict[str, Callable[..., Any]]] = {
        "min": np.minimum,
        "max": np.maximum,
        "abs": np.abs,
        "floor": np.floor,
        "ceil": np.ceil,
    }

    def __init__(self, start: int, end: int, function: str, arguments: Iterable[Node]) -> None:
        super().__init__(start, end, arguments)
        self.function = function

    def interpret(self, host: Mapping[str, Any], vm: Mapping[str, Any]) -> Value:
        numbers = [child.interpret(host, vm) for child in self.children]
        if not all(isinstance(number, float) for number in numbers):
            return None
        return self.PLAIN[self.function](
            *numbers if len(numbers) > 1 or self.function in _UNARY else (numbers * 2)
        )

    def _value(self, scope: Scope) -> Values:
        numbers = [child.numbers(scope) for child in self.children]
        function = self.COLUMNS[self.function]
        if self.function in _UNARY:
            return _column(function(numbers[0]), scope)
        result: Any = numbers[0]
        for number in numbers[1:]:
            result = function(result, number)
        return _column(result, scope)


_UNARY = {"abs", "floor", "ceil"}


class Size(Node):
    """``size(x)``: how many texts a list has, or characters a text."""

    __slots__ = ()

    def interpret(self, host: Mapping[str, Any], vm: Mapping[str, Any]) -> Value:
        value = self.children[0].interpret(host, vm)
        return float(len(value)) if isinstance(value, str | tuple) else None

    def _value(self, scope: Scope) -> Values:
        value = self.children[0].value(scope)
        if not isinstance(value, Column):
            return float(len(value)) if isinstance(value, str | tuple) else None
        if value.codes is None:
            return None
        return Column(numbers=np.array([*map(len, value.values), np.nan], dtype=np.float64)[value.codes])


def _column(numbers: Any, scope: Scope) -> Values:
    """A result of numpy as a value: a scalar when it is the same for all hosts."""
    if isinstance(numbers, np.ndarray) and numbers.ndim:
        return Column(numbers=numbers)
    number = float(numbers)
    return None if math.isnan(number) else number


def every(masks: Iterable[Mask]) -> Mask:
    """Where all of them hold."""
    result: Mask = True
    for mask in masks:
        if mask is False:
            return False
        result = mask if result is True else result & mask
    return result


def some(masks: Iterable[Mask]) -> Mask:
    """Where at least one of them holds."""
    result: Mask = False
    for mask in masks:
        if mask is True:
            return True
        result = mask if result is False else result | mask
    return result


def _inverse(mask: Mask) -> Mask:
    return not mask if isinstance(mask, bool) else ~mask
