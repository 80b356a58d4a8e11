"""The values of the expression language, and what its operators mean on single values.

There are three kinds of value: a number (a float; a truth value is the number 1 or 0), a text, and a list
of texts. ``None`` is *undefined*: an attribute that is missing, or an operation without meaning (a number
compared with a text, a division by zero). Truth is three-valued (Kleene's strong logic): ``True``, ``False``
or ``None``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import translate
from functools import lru_cache
from re import Pattern
from re import compile as compile_pattern

AttributeValue = float | int | bool | str | Sequence[str] | None
"""What a host or VM attribute may hold; ``None`` is undefined."""

Value = float | str | tuple[str, ...] | None
"""What an expression is worth on one host."""


def normal(value: object) -> Value:
    """An attribute as the language sees it: numbers as floats, lists as tuples of texts, NaN as undefined.

    A mapping (``vm.labels`` without a key) counts as the list of its keys. What is no value of the
    language is undefined.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return tuple(str(key) for key in value)
    if isinstance(value, Sequence | set | frozenset):
        items = sorted(map(str, value)) if isinstance(value, set | frozenset) else map(str, value)
        return tuple(items)
    try:
        number = float(value)  # type: ignore[arg-type]
    except OverflowError:
        return math.inf if value > 0 else -math.inf  # type: ignore[operator]
    except (TypeError, ValueError):
        return None
    return None if math.isnan(number) else number


def truth_of(value: Value) -> bool | None:
    """A number is false when it is 0 and true otherwise; texts and lists have no truth."""
    return value != 0 if isinstance(value, float) else None


def number_of(truth: bool | None) -> float | None:
    """1 for true, 0 for false."""
    return None if truth is None else float(truth)


def compare(operator: str, left: Value, right: Value) -> bool | None:
    """``== != < <= > >=``. Undefined between kinds; lists only know ``==`` and ``!=``.

    Texts are ordered by code point.
    """
    if left is None or right is None or type(left) is not type(right):
        return None
    if operator == "==":
        return left == right
    if operator == "!=":
        return left != right
    if isinstance(left, tuple):
        return None
    if operator == "<":
        return left < right  # type: ignore[operator]
    if operator == "<=":
        return left <= right  # type: ignore[operator]
    if operator == ">":
        return left > right  # type: ignore[operator]
    return left >= right  # type: ignore[operator]


def member(item: Value, whole: Value) -> bool | None:
    """``item in list``: undefined unless a text is looked for in a list."""
    if not isinstance(item, str) or not isinstance(whole, tuple):
        return None
    return item in whole


def glob(subject: Value, pattern: Value) -> bool | None:
    """``subject ~ pattern`` with ``* ? [..]``, case-sensitive; on a list: does any of its texts match?"""
    if not isinstance(pattern, str) or not isinstance(subject, str | tuple):
        return None
    matches = _compiled(pattern).match
    if isinstance(subject, str):
        return matches(subject) is not None
    return any(matches(item) is not None for item in subject)


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> Pattern[str]:
    return compile_pattern(translate(pattern))


def arithmetic(operator: str, left: Value, right: Value) -> float | None:
    """``+ - * / %`` on floats. Division by zero is undefined; ``%`` has the sign of its right side."""
    if not isinstance(left, float) or not isinstance(right, float):
        return None
    if operator == "+":
        result = left + right
    elif operator == "-":
        result = left - right
    elif operator == "*":
        result = left * right
    elif right == 0:
        return None
    elif operator == "/":
        result = left / right
    else:
        result = left % right
    return None if math.isnan(result) else result


def show(value: Value) -> str:
    """A value in words for people: numbers short, texts quoted."""
    if value is None:
        return "undefined"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str):
        return f'"{value}"'
    return "[" + ", ".join(f'"{item}"' for item in value) + "]"
