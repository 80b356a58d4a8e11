"""The grammar of the language: the words and rules of ``grammar.lark``, each with the node of a tree that it makes."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from threading import Lock

from lark import Lark, Token, Transformer, v_args

from placement import tree
from placement.node import Node
from placement.reader import Mistake, build, checked, end_of, nearest, spanning, start_of, text_of

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


class Grammar:
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
def grammar() -> Grammar:
    """The grammar, made when it is first asked for."""
    return Grammar()


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
            raise Mistake('"vm" alone has no value', start, 'name one of its attributes, as in "vm.vcpus"')
        if name.startswith("vm."):
            return tree.VMName(start, end, str(name)[3:])
        return tree.HostName(start, end, str(name).removeprefix("host."))

    def entry(self, token: Token, key: Token, closing: Token) -> Node:
        if not token.startswith("vm."):
            mend = f"write {key} in {token}, or vm.labels[{key}] for a label of the VM"
            raise Mistake(f'"{token}" has no named entries', start_of(token), mend)
        return tree.VMName(start_of(token), end_of(closing), str(token)[3:], text_of(key))

    def call(self, function: Token, *rest: Node | Token) -> Node:
        arguments = [argument for argument in rest if isinstance(argument, Node)]
        start = start_of(function)
        end = end_of(next(item for item in rest if isinstance(item, Token)))
        if function not in _ARITY:
            mend = nearest(function, FUNCTIONS) or "functions are " + ", ".join(sorted(FUNCTIONS))
            raise Mistake(f'unknown function "{function}"', start, mend)
        least, most = _ARITY[function]
        if len(arguments) < least or (most is not None and len(arguments) > most):
            wants = f"{least} or more arguments" if most is None else f"{least} argument{'s' * (least > 1)}"
            raise Mistake(f"{function}() takes {wants}, not {len(arguments)}", start)
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
