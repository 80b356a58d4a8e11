"""The tree of a parsed expression and its two meanings: on one host, and on all hosts of a table at once.

``interpret`` is the definition: plain Python on single values. ``true``, ``false`` and ``value`` say the same
over the columns of a table with numpy, and are what decisions use; tests hold the two together.
``placement/node.py`` has what all nodes share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from placement.column import Column, Mask, Values, choose, numbers_of, pairwise
from placement.node import Node, Scope, Truth
from placement.value import Value, arithmetic, compare, glob, member, normal, number_of, truth_of


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
