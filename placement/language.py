"""The expression language of requirements, ranks and burst conditions: text in, a compiled ``Expression`` out.

``docs/reference/expressions.md`` describes it to users. There are two dialects, our own (``placement/grammar.py``) and
OpenNebula's (``placement/opennebula.py``); ``placement/reader.py`` is below both. ``placement/tree.py`` is the meaning.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import cached_property, lru_cache
from threading import Lock
from typing import Any, Literal, NamedTuple

import numpy as np

from placement import opennebula, tree
from placement.column import Bools, Floats, Mask
from placement.grammar import grammar
from placement.node import Columns, Node, Scope
from placement.program import Program, spread
from placement.reader import MAX_DEPTH, MAX_LENGTH, ExpressionError, nearest, text_of
from placement.value import Value

__all__ = ["Dialect", "Expression", "ExpressionError", "Shape", "Term", "parse", "unknown_names"]

Dialect = Literal["isthmus", "opennebula"]

_SHORT = 256
"""Expressions up to so many characters, as people write them, are remembered in larger numbers than longer ones."""

_SHAPES_LENGTH = 500_000
"""How many characters of shapes are remembered in all."""


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
        return grammar().tree(self.source)

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
        return Expression(opennebula.parse(text), text)
    terms = _terms(text)
    # What does not come apart is parsed as a whole, mistakes among it: then their places are right.
    return Expression(None if terms else grammar().tree(text), text, terms=terms or ())


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


def _once(errors: list[ExpressionError]) -> list[ExpressionError]:
    return list({(error.offset, error.message): error for error in errors}.values())


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
                root, places = grammar().shape(piece)
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
