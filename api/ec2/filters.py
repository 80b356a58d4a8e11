"""Filters of Describe calls: AND over filters, OR over a filter's values, ``*``, ``?`` and ``\\`` in values.

Source: "Filtering the results of a request" in the EC2 Developer Guide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import EllipsisType
from typing import Any, TypeVar

from api.ec2.fault import Fault

T = TypeVar("T")
Fields = Mapping[str, Callable[[T], Iterable[str]]]
"""Filter name -> an item's values of it."""

LIMIT = 200
"""Values in all the filters of one request."""


_ONE = None
"""``?`` in a pattern."""
_RUN = ...
"""``*`` in a pattern."""
Pattern = tuple[str | EllipsisType | None, ...]


def pattern(value: str) -> Pattern:
    """A filter's value as a pattern. A backslash takes the next character for itself."""
    parts: list[str | EllipsisType | None] = []
    characters = iter(value)
    for character in characters:
        if character == "\\":
            parts.append(next(characters, "\\"))
        elif character == "*":
            parts.append(_RUN)
        elif character == "?":
            parts.append(_ONE)
        else:
            parts.append(character)
    return tuple(parts)


def matches(pattern: Pattern, text: str) -> bool:
    """Whether the whole text matches; case counts.

    In time |pattern| * |text| at most, which a regular expression with many stars is not.
    """
    at = star = 0
    resume = -1  # where in the text to go on when the last star has to take one character more
    here = 0
    while here < len(text):
        if at < len(pattern) and pattern[at] is _RUN:
            star, resume = at, here
            at += 1
        elif at < len(pattern) and (pattern[at] is _ONE or pattern[at] == text[here]):
            at += 1
            here += 1
        elif resume >= 0:
            resume += 1
            at, here = star + 1, resume
        else:
            return False
    return all(part is _RUN for part in pattern[at:])


def matcher(
    filters: Sequence[Mapping[str, Any]],
    fields: Fields[T],
    tags: Callable[[T], Mapping[str, str]] | None = None,
) -> Callable[[T], bool]:
    """A test for the items that all the filters admit. Raises Fault for a filter that is not known or has no value.

    ``tags``, where the items have any, adds ``tag:KEY``, ``tag-key`` and ``tag-value``.
    """
    tests: list[tuple[Callable[[T], Iterable[str]], list[Pattern]]] = []
    if sum(len(given.get("Values", ())) for given in filters) > LIMIT:
        raise Fault(
            "FilterLimitExceeded",
            f"The maximum number of filter values specified on a single call is {LIMIT}",
        )
    for given in filters:
        name = str(given.get("Name", ""))
        values = given.get("Values")
        if not values:
            raise Fault("InvalidParameterValue", f"The filter '{name}' must have a value")
        tests.append((_values_of(name, fields, tags), [pattern(value) for value in values]))

    def admits(item: T) -> bool:
        return all(
            any(matches(wanted, value) for value in values_of(item) for wanted in patterns)
            for values_of, patterns in tests
        )

    return admits


def _values_of(
    name: str, fields: Fields[T], tags: Callable[[T], Mapping[str, str]] | None
) -> Callable[[T], Iterable[str]]:
    if name in fields:
        return fields[name]
    if tags is not None:
        of = tags
        if name.startswith("tag:"):
            key = name.removeprefix("tag:")
            return lambda item: [value for tag, value in of(item).items() if tag == key]
        if name == "tag-key":
            return lambda item: of(item).keys()
        if name == "tag-value":
            return lambda item: of(item).values()
    raise Fault("InvalidParameterValue", f"The filter '{name}' is invalid")


def exact(filters: Sequence[Mapping[str, Any]], name: str) -> list[str] | None:
    """The values of a filter when each stands for itself alone: what a query may look up. None else, or without it."""
    for given in filters:
        if given.get("Name") == name and given.get("Values"):
            found = [pattern(str(value)) for value in given["Values"]]
            if all(isinstance(part, str) for parts in found for part in parts):
                return ["".join(map(str, parts)) for parts in found]
            return None
    return None


def labels(filters: Sequence[Mapping[str, Any]]) -> dict[str, list[str] | None]:
    """What the filters ask of tags, as far as a query can look it up: key -> its values, None for any.

    Not ``Name``, which a thing has by its name as well.
    """
    wanted: dict[str, list[str] | None] = {}
    for given in filters:
        name = str(given.get("Name", ""))
        if name.startswith("tag:"):
            wanted[name.removeprefix("tag:")] = exact(filters, name)
    keys = exact(filters, "tag-key")
    if keys is not None and len(keys) == 1:
        wanted.setdefault(keys[0], None)
    wanted.pop("Name", None)
    return wanted
