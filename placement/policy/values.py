"""The kinds of values in a policy file, each read with its mistakes told at their place."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from placement.policy.data import Problem
from placement.policy.duration import duration
from placement.policy.positions import scalar
from placement.reader import nearest

T = TypeVar("T")

_INTEGER, _FLOAT, _NULL = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:null"


class ValueReader:
    """Reads values of one file and collects their problems. What has a problem is read as None."""

    def __init__(self, text: str, filename: str) -> None:
        self.text = text
        self.filename = filename
        self.problems: list[Problem] = []

    def problem(self, node: Node, message: str, mend: str = "") -> None:
        """Tell a mistake where a node begins."""
        mark = node.start_mark
        self.problem_at(mark.line + 1, mark.column + 1, message, mend)

    def problem_at(self, line: int, column: int, message: str, mend: str = "") -> None:
        """Tell a mistake; ``line`` and ``column`` count from 1."""
        self.problems.append(Problem(self.filename, line, column, message, mend))

    def mapping(
        self,
        node: Node,
        what: str,
        readers: Mapping[str, Callable[[Node], Any]],
        *,
        required: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """The values of a mapping's known keys; keys whose value had a problem are left out."""
        if not isinstance(node, MappingNode):
            self.problem(
                node, f"{what} must be a mapping, not {_kind(node)}", "keys are " + ", ".join(readers)
            )
            return {}
        values: dict[str, Any] = {}
        seen: set[str] = set()
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                self.problem(key_node, f"a key of {what} must be a word", "keys are " + ", ".join(readers))
                continue
            key = str(key_node.value)
            if key in seen:
                self.problem(key_node, f'"{key}" is there twice', "keep one")
            elif key in readers:
                value = readers[key](value_node)
                if value is not None:
                    values[key] = value
            else:
                mend = nearest(key, list(readers)) or "keys are " + ", ".join(readers)
                self.problem(key_node, f'unknown key "{key}" in {what}', mend)
            seen.add(key)
        for key, mend in (required or {}).items():
            if key not in seen:
                self.problem(node, f'{what} has no "{key}"', mend)
        return values

    def sequence(self, node: Node, what: str, read: Callable[[Node], T | None]) -> tuple[T, ...] | None:
        """A list whose items all could be read, else None."""
        if not isinstance(node, SequenceNode):
            self.problem(node, f"must be {what}, not {_kind(node)}", "put it in brackets: [...]")
            return None
        items = [read(item) for item in node.value]
        return None if None in items else tuple(item for item in items if item is not None)

    def string(self, node: Node, what: str) -> str | None:
        """A text; ``what`` says what is wanted."""
        if not isinstance(node, ScalarNode) or str(node.tag) == _NULL:
            self.problem(node, f"must be {what}, not {_kind(node)}")
            return None
        return scalar(node)

    def integer(self, node: Node) -> int | None:
        """A whole number."""
        if isinstance(node, ScalarNode) and str(node.tag) == _INTEGER:
            try:
                return int(str(node.value).replace("_", ""), 0)
            except ValueError:
                pass
        self.problem(node, f"must be a whole number, not {_kind(node)}")
        return None

    def count(self, node: Node) -> int | None:
        """A whole number that is not negative."""
        number = self.integer(node)
        if number is not None and number < 0:
            self.problem(node, "must not be negative", "0 allows none; leave it out for no limit")
            return None
        return number

    def amount(self, node: Node) -> float | None:
        """A number that is not negative."""
        if isinstance(node, ScalarNode) and str(node.tag) in (_INTEGER, _FLOAT):
            with contextlib.suppress(ValueError):
                number = float(str(node.value).replace("_", ""))
                if math.isfinite(number) and number >= 0:
                    return number
        self.problem(node, f"must be a number, 0 or more, not {_kind(node)}")
        return None

    def positive(self, node: Node) -> float | None:
        """A number above 0."""
        number = self.amount(node)
        if number == 0:
            self.problem(node, "must be more than 0")
            return None
        return number

    def truth(self, node: Node) -> bool | None:
        """``true`` or ``false``."""
        text = str(node.value).lower() if isinstance(node, ScalarNode) else ""
        if text not in ("true", "false"):
            self.problem(node, f"must be true or false, not {_kind(node)}")
            return None
        return text == "true"

    def word(self, node: Node, words: Sequence[str]) -> str | None:
        """One of some words."""
        word = self.string(node, " or ".join(words))
        if word is not None and word not in words:
            self.problem(
                node, f'"{word}" is not known here', nearest(word, words) or "one of " + ", ".join(words)
            )
            return None
        return word

    def by_name(self, node: Node, what: str, read: Callable[[Node], T | None]) -> dict[str, T] | None:
        """A mapping from names of the user's own."""
        if not isinstance(node, MappingNode):
            self.problem(node, f"{what} must be a mapping, not {_kind(node)}", "write NAME: VALUE")
            return None
        found: dict[str, T] = {}
        for key_node, value_node in node.value:
            name = self.string(key_node, "a name")
            if name is not None and name in found:
                self.problem(key_node, f'"{name}" is there twice', "keep one")
                continue
            value = read(value_node)
            if name is not None and value is not None:
                found[name] = value
        return found

    def duration(self, node: Node) -> float | None:
        """A duration, in seconds."""
        text = str(node.value) if isinstance(node, ScalarNode) else ""
        try:
            return duration(text)
        except ValueError:
            bare = bool(re.fullmatch(r"\d+(\.\d+)?", text))
            what = f'"{text}" is no duration' if text else f"must be a duration, not {_kind(node)}"
            self.problem(
                node, what, f'add a unit, as in "{text}s"' if bare else "write 90s, 15m, 1h30m or 2d"
            )
            return None

    def positive_duration(self, node: Node) -> float | None:
        """A duration of more than 0, in seconds."""
        seconds = self.duration(node)
        if seconds == 0:
            self.problem(node, "must be longer than 0", "clouds bill by 60m or by 60s")
            return None
        return seconds


def _kind(node: Node) -> str:
    if isinstance(node, MappingNode):
        return "a mapping"
    if isinstance(node, SequenceNode):
        return "a list"
    return "nothing" if str(node.tag) == _NULL else f'"{node.value}"'
