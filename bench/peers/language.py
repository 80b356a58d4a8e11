"""The expressions of the bench format, read by recursive descent: for the peers and the replay check.

Written apart from ``placement/`` on purpose, so that one engine's misreading cannot hide in the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

Tree = tuple[Any, ...]
"""``("number", 1.0)``, ``("text", "kvm")``, ``("name", "cpu_free")``, ``("has", "cpu_flags", "avx2")``, or an
operator and its operands: ``("?", condition, first, second)``, ``("!", x)``, ``("neg", x)``, ``("&&", x, y)``, ..."""

_TOKEN = re.compile(
    r'\s*(?:(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)|"([^"]*)"|([A-Za-z_]\w*)|(&&|\|\||[=!<>]=|[-+*/<>!?:(),]))'
)
_LEVELS = (("||",), ("&&",), ("==", "!="), ("<", "<=", ">", ">="), ("+", "-"), ("*", "/"))


@cache
def read(text: str) -> Tree:
    """The tree of an expression. Raises ValueError."""
    tokens: list[Tree] = []
    place = 0
    text = text.rstrip()
    while place < len(text):
        found = _TOKEN.match(text, place)
        if found is None:
            raise ValueError(f"cannot read {text[place:]!r}")
        number, string, name, symbol = found.groups()
        if number is not None:
            tokens.append(("number", float(number)))
        elif string is not None:
            tokens.append(("text", string))
        else:
            tokens.append(("name", name) if name is not None else ("symbol", symbol))
        place = found.end()
    reader = _Reader(tokens)
    tree = reader.choice()
    if reader.tokens:
        raise ValueError(f"left over in {text!r}: {reader.tokens[-1]}")
    return tree


class _Reader:
    def __init__(self, tokens: list[Tree]) -> None:
        self.tokens = tokens[::-1]

    def skip(self, *symbols: str) -> str | None:
        """The next symbol if it is one of these, taken off."""
        if self.tokens and self.tokens[-1][0] == "symbol" and self.tokens[-1][1] in symbols:
            return str(self.tokens.pop()[1])
        return None

    def need(self, symbol: str) -> None:
        if self.skip(symbol) is None:
            raise ValueError(f"{symbol} is missing")

    def choice(self) -> Tree:
        condition = self.level(0)
        if self.skip("?") is None:
            return condition
        first = self.choice()
        self.need(":")
        return ("?", condition, first, self.choice())

    def level(self, depth: int) -> Tree:
        below: Callable[[], Tree] = self.unary if depth + 1 == len(_LEVELS) else lambda: self.level(depth + 1)
        left = below()
        while (symbol := self.skip(*_LEVELS[depth])) is not None:
            left = (symbol, left, below())
        return left

    def unary(self) -> Tree:
        symbol = self.skip("!", "-")
        if symbol is not None:
            return ("!" if symbol == "!" else "neg", self.unary())
        if self.skip("("):
            inner = self.choice()
            self.need(")")
            return inner
        if not self.tokens:
            raise ValueError("an operand is missing")
        token = self.tokens.pop()
        if token == ("name", "has"):
            self.need("(")
            attribute = self.tokens.pop()[1]
            self.need(",")
            item = self.tokens.pop()[1]
            self.need(")")
            return ("has", attribute, item)
        if token[0] == "symbol":
            raise ValueError(f"{token[1]} cannot stand here")
        return token


def is_text(tree: Tree, texts: frozenset[str]) -> bool:
    """Whether a tree is a text: a quoted one, or an attribute that holds texts."""
    return tree[0] == "text" or (tree[0] == "name" and tree[1] in texts)
