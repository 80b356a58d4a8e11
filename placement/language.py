"""The expression language of requirements, ranks and burst conditions: text in, a compiled ``Expression`` out.

``docs/reference/expressions.md`` describes it to users; ``placement/grammar.lark`` is the grammar,
``placement/tree.py`` the meaning.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from copy import copy
from difflib import get_close_matches
from functools import cached_property, lru_cache
from importlib import resources
from threading import Lock
from typing import Any, Literal, NamedTuple

import numpy as np
from lark import Lark, Token, Transformer, UnexpectedInput, v_args
from lark.exceptions import VisitError

from placement import tree
from placement.column import Bools, Floats, Mask
from placement.program import Program, spread
from placement.tree import Columns, Node, Scope
from placement.value import Value

Dialect = Literal["isthmus", "opennebula"]

MAX_LENGTH = 8192
"""The longest expression, in characters."""

_SHORT = 256
"""Expressions up to so many characters, as people write them, are remembered in larger numbers than longer ones."""

_SHAPES_LENGTH = 500_000
"""How many characters of shapes are remembered in all."""

_SHOWN = 100
"""How much of a long line an error shows around its place."""

MAX_DEPTH = 100
"""How deep an expression may nest; ``&&`` and ``||`` chains do not count. Keeps recursion far from its limit."""

_ARITY: dict[str, tuple[int, int | None]] = {
    "min": (1, None),
    "max": (1, None),
    "abs": (1, 1),
    "floor": (1, 1),
    "ceil": (1, 1),
    "size": (1, 1),
    "has": (2, 2),
    "defined": (1, 1),
}
FUNCTIONS = frozenset(_ARITY)


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


class Shape:
    """What texts have in common that differ in their literals only, parsed and compiled once for all of them."""

    def __init__(self, root: Node) -> None:
        self.root = root

    @cached_property
    def truth(self) -> Program:
        """Where it is true."""
        return Program(self.root, "true")

    @cached_property
    def number(self) -> Program:
        """The number it is worth."""
        return Program(self.root, "number")


class Term(NamedTuple):
    """One term of a top-level ``&&``: its shape, and the literals that stand in it."""

    shape: Shape
    literals: tuple[float | str, ...] = ()

    def scope(self, table: Columns, vm: Mapping[str, Any]) -> Scope:
        """What its nodes and programs are evaluated with."""
        return Scope(table, vm, literals=self.literals)


class Expression:
    """A parsed expression. Immutable; ``parse`` answers the same one for the same text.

    ``terms`` are what decisions use. ``root``, the tree with its places in the text, is for those who explain; it is
    parsed when somebody asks for it, as most texts only differ in their literals from one that was parsed before.
    """

    def __init__(
        self, root: Node | None, source: str, text: str | None = None, terms: tuple[Term, ...] = ()
    ) -> None:
        if root is not None:
            self.root = root
            terms = (Term(Shape(root)),)
        self.source = source
        self.text = source if text is None else text
        self.terms = terms

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expression) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    @cached_property
    def root(self) -> Node:
        """The whole tree."""
        return _grammar().tree(self.source)

    @cached_property
    def host_names(self) -> frozenset[str]:
        """The host attributes (or metrics) that are read."""
        return frozenset().union(*(term.shape.root.hosts for term in self.terms))

    @cached_property
    def vm_names(self) -> frozenset[str]:
        """The VM attributes that are read, without ``vm.``."""
        return frozenset().union(*(term.shape.root.vms for term in self.terms))

    @cached_property
    def left(self) -> Expression | None:
        """The left side of a comparison, None when this is none."""
        if not isinstance(self.root, tree.Compare | tree.Glob):
            return None
        return self._part(self.root.children[0])

    def conjuncts(self) -> tuple[Expression, ...]:
        """The terms of the top-level ``&&``, each with its own text; the expression itself when there is none."""
        return self._conjuncts

    @cached_property
    def _conjuncts(self) -> tuple[Expression, ...]:
        if len(self.terms) > 1 and "root" not in self.__dict__:
            pieces = [piece.strip() for piece in _pieces(self.source)]
            if not any(piece.startswith("(") and "&&" in piece for piece in pieces):
                # They are read by their shapes, as the whole was: no tree is parsed for that.
                return tuple(map(parse, pieces))
        if not isinstance(self.root, tree.And):
            return (self,)
        return tuple(self._part(child) for child in self.root.children)

    def truth(self, table: Columns, vm: Mapping[str, Any]) -> Bools:
        """Where this is true; neither false nor undefined is. Do not write to the result: it may be kept."""
        with np.errstate(all="ignore"):
            return spread(self._true(table, vm), table.rows)

    def undefined(self, table: Columns, vm: Mapping[str, Any]) -> Bools:
        """Where this is undefined: an attribute it needs is missing, or of another kind."""
        with np.errstate(all="ignore"):
            true, false = self._true(table, vm), self._false(table, vm)
            return ~(spread(true, table.rows) | spread(false, table.rows))

    def score(self, table: Columns, vm: Mapping[str, Any]) -> Floats:
        """The number on each host, NaN where undefined. Do not write to the result: it may be kept."""
        with np.errstate(all="ignore"):
            if len(self.terms) > 1:
                true, false = (
                    spread(mask, table.rows) for mask in (self._true(table, vm), self._false(table, vm))
                )
                return np.where(true, 1.0, np.where(false, 0.0, np.nan))
            (term,) = self.terms
            numbers = term.shape.root.numbers(term.scope(table, vm))
        return numbers if isinstance(numbers, np.ndarray) else np.full(table.rows, numbers)

    def _true(self, table: Columns, vm: Mapping[str, Any]) -> Mask:
        return tree.every(term.shape.root.true(term.scope(table, vm)) for term in self.terms)

    def _false(self, table: Columns, vm: Mapping[str, Any]) -> Mask:
        return tree.some(term.shape.root.false(term.scope(table, vm)) for term in self.terms)

    def interpret(self, host: Mapping[str, Any], vm: Mapping[str, Any]) -> Value:
        """The value on one host: float, text, tuple of texts, or None for undefined. Truths are 1.0 and 0.0."""
        return self.root.interpret(host, vm)

    def _part(self, node: Node) -> Expression:
        return Expression(node, self.source, self.source[node.start : node.end])


def parse(text: str, dialect: Dialect = "isthmus") -> Expression:
    """Parse an expression. Raises ExpressionError.

    ``dialect="opennebula"`` reads the text of ``SCHED_REQUIREMENTS`` and ``SCHED_RANK`` (``placement/opennebula.py``).
    """
    return (_parse_short if len(text) <= _SHORT else _parse_long)(text, dialect)


def _parse(text: str, dialect: Dialect) -> Expression:
    if dialect == "opennebula":
        from placement import opennebula  # it builds on this module

        return Expression(opennebula.parse(text), text)
    terms = _terms(text)
    # What does not come apart is parsed as a whole, mistakes among it: then their places are right.
    return Expression(None if terms else _grammar().tree(text), text, terms=terms or ())


# Some 200 bytes are kept for each character. Who sends ever new expressions must not fill our memory with them: each
# of the two keeps 200 MB at most, and shapes take another 100 MB.
_parse_short = lru_cache(maxsize=4096)(_parse)
_parse_long = lru_cache(maxsize=128)(_parse)


def unknown_names(
    expression: Expression, known: Collection[str], vm_known: Collection[str] | None = None
) -> list[ExpressionError]:
    """One warning per place that reads a name which is not ``known``, with the nearest known one.

    Not raised: a site may report an attribute tomorrow that it does not report today. ``vm_known`` are the
    names allowed after ``vm.``; None does not check them.
    """
    warnings = []
    for node in expression.root.walk():
        if isinstance(node, tree.HostName) and node.name not in known:
            mend = nearest(node.name, known)
            warnings.append(
                ExpressionError(f'unknown name "{node.name}"', node.start, expression.source, mend)
            )
        elif isinstance(node, tree.VMName) and vm_known is not None and node.name not in vm_known:
            mend = nearest(f"vm.{node.name}", [f"vm.{name}" for name in vm_known])
            message = f'a VM has no attribute "{node.name}"'
            warnings.append(ExpressionError(message, node.start, expression.source, mend))
    return sorted(_once(warnings), key=lambda warning: warning.offset)


def nearest(word: str, known: Collection[str]) -> str:
    """``did you mean "x"?`` for the known word that looks most like ``word``; empty when none does."""
    found = get_close_matches(word, known, n=1, cutoff=0.6) or get_close_matches(word.lower(), known, n=1)
    return f'did you mean "{found[0]}"?' if found else ""


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
        if isinstance(error.orig_exc, _Mistake):
            mistake = error.orig_exc
            raise ExpressionError(mistake.message, mistake.offset, text, mistake.mend) from None
        raise
    except _Mistake as mistake:
        raise ExpressionError(mistake.message, mistake.offset, text, mistake.mend) from None
    assert isinstance(root, Node)  # noqa: S101 - the transformer makes nothing else
    return root


class _Grammar:
    """One parser for trees and for shapes, since it takes a while to make. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._builder = _ShapeBuilder()
        grammar = resources.files("placement").joinpath("grammar.lark").read_text(encoding="utf-8")
        self._parser = Lark(grammar, parser="lalr", transformer=self._builder, maybe_placeholders=False)

    def tree(self, text: str) -> Node:
        """The tree of a text. Raises ExpressionError."""
        with self._lock:
            self._builder.literals = None
            return build(self._parser, text)

    def shape(self, text: str) -> tuple[Node, int]:
        """The tree of a text with places for its literals, and how many there are. Raises ExpressionError."""
        with self._lock:
            self._builder.literals = 0
            root = build(self._parser, text)
            return root, self._builder.literals


@lru_cache(maxsize=1)
def _grammar() -> _Grammar:
    return _Grammar()


_TEXT = r'"(?:\\.|[^"\\])*"|' + r"'(?:\\.|[^'\\])*'"
_LITERALS = re.compile(rf"({_TEXT}|(?<![\w.])(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)")
_STRUCTURE = re.compile(rf"{_TEXT}|[][()?]|&&|\|\|")


class _Shapes:
    """The shapes seen last, up to ``_SHAPES_LENGTH`` characters of them. Safe to use from several threads."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, ...], Shape] = {}
        self.length = 0
        self.lock = Lock()

    def of(self, key: tuple[str, ...], piece: str, literals: int) -> Shape | None:
        """The shape of ``piece``; ``key`` is the same for all of its texts. None when it has none of its own."""
        return self.known.get(key) or self._parse(key, piece, literals)

    def _parse(self, key: tuple[str, ...], piece: str, literals: int) -> Shape | None:
        with self.lock:
            if key in self.known:
                return self.known[key]
            try:
                root, places = _grammar().shape(piece)
            except ExpressionError:
                return None
            if places != literals:
                return None  # one of them is no operand, but the key in vm.labels["key"]
            self.known[key] = shape = Shape(root)
            self.length += sum(map(len, key))
            while self.length > _SHAPES_LENGTH:
                oldest = next(iter(self.known))
                self.length -= sum(map(len, oldest))
                del self.known[oldest]
            return shape


_shapes = _Shapes()


def _terms(text: str) -> tuple[Term, ...] | None:
    """The terms of the top-level ``&&``, by shapes; None when this way is not sure to mean what the grammar says."""
    if len(text) > MAX_LENGTH:
        return None
    terms = []
    pieces = [piece.strip() for piece in _pieces(text)]
    for piece in pieces:
        # Texts that are equal but for their literals, one by one of the same kind, have the same tree.
        parts = _LITERALS.split(piece)
        literals = tuple(map(_literal, parts[1::2]))
        parts[1::2] = ["0" if type(literal) is float else '""' for literal in literals]
        key = tuple(parts)
        shape = _shapes.of(key, piece, len(literals)) if len(piece) <= _SHORT else None
        if shape is None or (len(pieces) > 1 and shape.root.depth >= MAX_DEPTH):
            return None
        terms.append(Term(shape, literals))
    return tuple(terms)


def _pieces(text: str) -> list[str]:
    """The text, cut at its top-level ``&&``; in one piece when a weaker operator is at the top."""
    if "&&" not in text:
        return [text]
    pieces, begin, depth = [], 0, 0
    for found in _STRUCTURE.finditer(text):
        word = found[0]
        if word in ("(", "["):
            depth += 1
        elif word in (")", "]"):
            depth -= 1
        elif depth == 0 and word in ("||", "?"):
            return [text]
        elif depth == 0 and word == "&&":
            pieces.append(text[begin : found.start()])
            begin = found.end()
        if depth < 0:
            return [text]
    return [*pieces, text[begin:]]


def _literal(word: str) -> float | str:
    if word[0] not in "\"'":
        return float(word)
    return text_of(word) if "\\" in word else word[1:-1]


class _Mistake(Exception):
    """A mistake that the grammar does not see; ``build`` adds the text."""

    def __init__(self, message: str, offset: int, mend: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset
        self.mend = mend


def checked(node: Node) -> Node:
    """The node, unless it nests too deep."""
    if node.depth > MAX_DEPTH:
        raise _Mistake(f"nested deeper than {MAX_DEPTH}", node.start, "split it with && or simplify it")
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


@v_args(inline=True)
class TreeBuilder(Transformer[Token, Node]):
    """The rules of the grammar, each as the node it makes."""

    def start(self, root: Node) -> Node:
        return root

    def choose(self, condition: Node, first: Node, second: Node) -> Node:
        return checked(tree.Choose(condition.start, second.end, (condition, first, second)))

    def either(self, left: Node, _operator: Token, right: Node) -> Node:
        return checked(_flat(tree.Or, left, right))

    def both(self, left: Node, _operator: Token, right: Node) -> Node:
        return checked(_flat(tree.And, left, right))

    def compare(self, left: Node, operator: Token, right: Node) -> Node:
        return checked(tree.Compare(left.start, right.end, str(operator), left, right))

    def glob(self, left: Node, right: Node) -> Node:
        return checked(tree.Glob(left.start, right.end, (left, right)))

    def member(self, left: Node, right: Node) -> Node:
        return checked(tree.Member(left.start, right.end, (left, right)))

    def in_list(self, left: Node, *rest: Node | Token) -> Node:
        items = [item for item in rest if isinstance(item, Node)]
        end = end_of(next(item for item in rest if isinstance(item, Token)))
        return checked(
            tree.Or(left.start, end, [tree.Compare(left.start, end, "==", left, item) for item in items])
        )

    def arithmetic(self, left: Node, operator: Token, right: Node) -> Node:
        return checked(tree.Arithmetic(left.start, right.end, str(operator), left, right))

    def negate(self, operator: Token, operand: Node) -> Node:
        return checked(tree.Not(start_of(operator), operand.end, (operand,)))

    def minus(self, operator: Token, operand: Node) -> Node:
        start = start_of(operator)
        if isinstance(operand, tree.Constant) and isinstance(operand.constant_value, float):
            return tree.Constant(start, operand.end, -operand.constant_value)
        return checked(tree.Arithmetic(start, operand.end, "-", tree.Constant(start, start, 0.0), operand))

    def number(self, token: Token) -> Node:
        return tree.Constant(start_of(token), end_of(token), float(token))

    def text(self, token: Token) -> Node:
        return tree.Constant(start_of(token), end_of(token), text_of(token))

    def true(self, token: Token) -> Node:
        return tree.Constant(start_of(token), end_of(token), 1.0)

    def false(self, token: Token) -> Node:
        return tree.Constant(start_of(token), end_of(token), 0.0)

    def name(self, name: Token) -> Node:
        start, end = start_of(name), end_of(name)
        if name == "vm":
            raise _Mistake('"vm" alone has no value', start, 'name one of its attributes, as in "vm.vcpus"')
        if name.startswith("vm."):
            return tree.VMName(start, end, str(name)[3:])
        return tree.HostName(start, end, str(name).removeprefix("host."))

    def entry(self, token: Token, key: Token, closing: Token) -> Node:
        if not token.startswith("vm."):
            mend = f"write {key} in {token}, or vm.labels[{key}] for a label of the VM"
            raise _Mistake(f'"{token}" has no named entries', start_of(token), mend)
        return tree.VMName(start_of(token), end_of(closing), str(token)[3:], text_of(key))

    def call(self, function: Token, *rest: Node | Token) -> Node:
        arguments = [argument for argument in rest if isinstance(argument, Node)]
        start = start_of(function)
        end = end_of(next(item for item in rest if isinstance(item, Token)))
        if function not in _ARITY:
            mend = nearest(function, FUNCTIONS) or "functions are " + ", ".join(sorted(FUNCTIONS))
            raise _Mistake(f'unknown function "{function}"', start, mend)
        least, most = _ARITY[function]
        if len(arguments) < least or (most is not None and len(arguments) > most):
            wants = f"{least} or more arguments" if most is None else f"{least} argument{'s' * (least > 1)}"
            raise _Mistake(f"{function}() takes {wants}, not {len(arguments)}", start)
        if function == "has":
            return checked(tree.Member(start, end, reversed(arguments)))
        if function == "defined":
            return checked(tree.Defined(start, end, arguments))
        if function == "size":
            return checked(tree.Size(start, end, arguments))
        return checked(tree.Call(start, end, str(function), arguments))

    def group(self, opening: Token, inner: Node, closing: Token) -> Node:
        return spanning(inner, start_of(opening), end_of(closing))


@v_args(inline=True)
class _ShapeBuilder(TreeBuilder):
    """The same tree; with places for its literals, numbered in the order of the text, if ``literals`` counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.literals: int | None = None

    def number(self, token: Token) -> Node:
        return super().number(token) if self.literals is None else self._place(token, numeric=True)

    def text(self, token: Token) -> Node:
        return super().text(token) if self.literals is None else self._place(token, numeric=False)

    def _place(self, token: Token, *, numeric: bool) -> Node:
        assert self.literals is not None  # noqa: S101 - asked for when they are counted
        index, self.literals = self.literals, self.literals + 1
        return tree.Literal(start_of(token), end_of(token), index, numeric=numeric)


def _flat(kind: type[tree.And] | type[tree.Or], left: Node, right: Node) -> Node:
    parts: list[Node] = []
    for side in (left, right):
        parts.extend(side.children if type(side) is kind and side.children else (side,))
    return kind(left.start, right.end, parts)


def _once(errors: list[ExpressionError]) -> list[ExpressionError]:
    return list({(error.offset, error.message): error for error in errors}.values())


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
