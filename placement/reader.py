"""What the two dialects of the language have in common: how a text is read, and what is said about mistakes in it."""

from __future__ import annotations

import re
from collections.abc import Collection
from copy import copy
from difflib import get_close_matches
from typing import Any

from lark import Lark, Token, UnexpectedInput
from lark.exceptions import VisitError

from placement.node import Node

MAX_LENGTH = 8192
"""The longest expression, in characters."""

MAX_DEPTH = 100
"""How deep an expression may nest; ``&&`` and ``||`` chains do not count. Keeps recursion far from its limit."""

_SHOWN = 100
"""How much of a long line an error shows around its place."""

TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|[\w.]+|&&|\|\||[=!<>]=|\S', re.DOTALL)
"""The words of an expression, quoted texts in one piece; for finding slips, not for parsing."""


class ExpressionError(ValueError):
    """A mistake in an expression.

    ``line`` and ``column`` count from 1, ``offset`` from 0 in ``text``; ``mend`` says what to write instead,
    empty when there is no good guess. ``str()`` shows all of it, with a caret below the place.
    """

    def __init__(self, message: str, offset: int, text: str, mend: str = "") -> None:
        self.message = message
        self.offset = min(offset, len(text))
        self.text = text
        self.mend = mend
        before = text[: self.offset]
        self.line = before.count("\n") + 1
        self.column = self.offset - (before.rfind("\n") + 1) + 1
        super().__init__(message)

    def __str__(self) -> str:
        shown, place = self.text.split("\n")[self.line - 1].replace("\t", " "), self.column - 1
        if len(shown) > _SHOWN:
            first = max(0, place - _SHOWN // 2)
            shown, place = shown[first : first + _SHOWN], place - first
        caret = " " * place + "^"
        lines = [f"line {self.line}, column {self.column}: {self.message}", f"  {shown}", f"  {caret}"]
        return "\n".join([*lines, self.mend] if self.mend else lines)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.offset, self.text, self.mend)


def build(parser: Lark, text: str) -> Node:
    """The tree of ``text``, with mistakes as ExpressionError. Raises ExpressionError."""
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"longer than {MAX_LENGTH} characters", MAX_LENGTH, text)
    try:
        root = parser.parse(text)
    except UnexpectedInput as error:
        token = getattr(error, "token", None)
        at_end = isinstance(token, Token) and token.type == "$END"
        offset = len(text) if at_end or error.pos_in_stream is None else error.pos_in_stream
        raise _diagnose(text, offset) from None
    except VisitError as error:
        if isinstance(error.orig_exc, Mistake):
            mistake = error.orig_exc
            raise ExpressionError(mistake.message, mistake.offset, text, mistake.mend) from None
        raise
    except Mistake as mistake:
        raise ExpressionError(mistake.message, mistake.offset, text, mistake.mend) from None
    assert isinstance(root, Node)  # noqa: S101 - the transformer makes nothing else
    return root


class Mistake(Exception):
    """A mistake that the grammar does not see; ``build`` adds the text."""

    def __init__(self, message: str, offset: int, mend: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset
        self.mend = mend


def checked(node: Node) -> Node:
    """The node, unless it nests too deep."""
    if node.depth > MAX_DEPTH:
        raise Mistake(f"nested deeper than {MAX_DEPTH}", node.start, "split it with && or simplify it")
    return node


def spanning(node: Node, start: int, end: int) -> Node:
    """The same node, reaching over the parentheses around it."""
    wider = copy(node)
    wider.start, wider.end = start, end
    return wider


def text_of(token: str) -> str:
    """What a quoted text stands for."""
    escapes = {"n": "\n", "t": "\t"}
    return re.sub(r"\\(.)", lambda found: escapes.get(found[1], found[1]), str(token)[1:-1], flags=re.DOTALL)


def end_of(token: Token) -> int:
    """Where a token ends."""
    return start_of(token) + len(token)


def start_of(token: Token) -> int:
    """Where a token starts."""
    return token.start_pos or 0


def nearest(word: str, known: Collection[str]) -> str:
    """``did you mean "x"?`` for the known word that looks most like ``word``; empty when none does."""
    found = get_close_matches(word, known, n=1, cutoff=0.6) or get_close_matches(word.lower(), known, n=1)
    return f'did you mean "{found[0]}"?' if found else ""


_WORDS = {
    "and": "&&",
    "or": "||",
    "is": "==",
    "eq": "==",
    "like": "~",
    "matches": "~",
    "contains": 'in, as in "avx2" in cpu_flags',
}
_SLIPS = (
    ("===", "=="),
    ("=~", "~"),
    ("=<", "<="),
    ("=>", ">="),
    ("<>", "!="),
    ("=", "== to compare"),
    ("&", "&&"),
    ("|", "||"),
)


def _diagnose(text: str, offset: int) -> ExpressionError:
    """What is wrong where the parser stopped, in the words of somebody who sees the text."""
    if not text.strip():
        return ExpressionError("the expression is empty", 0, text)
    while offset < len(text) and text[offset].isspace():
        offset += 1
    before = [word for word in TOKEN.finditer(text) if word.end() <= offset]
    previous = before[-1][0] if before else ""
    if offset >= len(text):
        return _ended(text, [(word[0], word.start()) for word in before])
    found = TOKEN.match(text, offset)
    word = found[0] if found else text[offset]

    def error(message: str, mend: str = "", at: int = offset) -> ExpressionError:
        return ExpressionError(message, at, text, mend)

    if word in ('"', "'"):
        return error("this text has no closing quote", f"add {word} at its end")
    if previous == "<" and word == ">":
        return error('unknown operator "<>"', "write !=", at=offset - 1)
    if previous in ("==", "!=") and text[offset] == "=":
        return error(f'unknown operator "{previous}="', f"write {previous}", at=offset - 2)
    if not _ends_operand(previous):
        if word in ("not", "NOT"):
            return error(f'unknown operator "{word}"', "write !")
        if before and word in (")", "]", ","):
            return error(f'an operand is missing between "{previous}" and "{word}"')
        return error(f'"{word}" cannot stand here', "a name, a number or a text is expected")
    for slip, mend in _SLIPS:
        if text.startswith(slip, offset):
            return error(f'unknown operator "{slip}"', f"write {mend}")
    if word.lower() in _WORDS:
        return error(f'unknown operator "{word}"', f"write {_WORDS[word.lower()]}")
    if word.lower() == "not":
        return error('unknown operator "not"', "write !(...) around the comparison")
    if previous.lower() == "not":
        return error('unknown operator "not"', "write !", at=before[-1].start())
    if word in ("==", "!=", "<", "<=", ">", ">=", "~", "in"):
        return error(
            "comparisons do not chain", f'join two of them with &&, as in "a {word} b && b {word} c"'
        )
    if word in (")", "]"):
        return error(f'"{word}" closes nothing')
    if word == ",":
        return error('"," is only for arguments and lists', "write && to join two terms")
    if word == ":":
        return error('":" without "?"', "write condition ? value : value")
    if word == "[":
        return error('"[" cannot stand here', 'lists stand after "in", as in name in ["a", "b"]')
    if _ends_operand(word) or word in ("(", "!"):
        return error(f'an operator is missing before "{word}"')
    return error(f'unexpected "{word}"')


def _ended(text: str, words: list[tuple[str, int]]) -> ExpressionError:
    """What is missing at the end of the text."""
    end = len(text.rstrip())
    open_ones: list[tuple[str, int]] = []
    for word, start in words:
        if word in ("(", "[", "?"):
            open_ones.append((word, start))
        elif word in (")", "]", ":") and open_ones:
            open_ones.pop()
    if words and not _ends_operand(words[-1][0]):
        return ExpressionError(f'an operand is missing after "{words[-1][0]}"', end, text)
    if open_ones:
        word, start = open_ones[-1]
        if word == "?":
            return ExpressionError('"?" has no ":"', start, text, "write condition ? value : value")
        closing = {"(": ")", "[": "]"}[word]
        return ExpressionError(f'"{word}" is never closed', start, text, f'add "{closing}"')
    return ExpressionError("the expression is not complete", end, text)


def _ends_operand(token: str) -> bool:
    return bool(token) and (
        token in (")", "]") or token[0] in "\"'" or (token[0].isalnum() or token[0] in "_.")
    )
