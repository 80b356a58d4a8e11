"""OpenNebula's scheduler expressions, read as a dialect: ``SCHED_REQUIREMENTS`` and ``SCHED_RANK``.

Kept: ``=`` and ``!=`` with wildcards, ``@>``, one precedence for ``&`` and ``|``, the units of its predefined
names (``FREE_CPU`` in hundredths of a core, ``FREE_MEMORY`` in KiB), the rank policies by name. Different, because
OpenNebula's own meaning surprises: a missing attribute is undefined rather than 0, ranks are floats rather than cut
to integers, numbers are not 32 bits wide.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

from lark import Lark, Token, Transformer, v_args

from placement import tree
from placement.node import Node
from placement.reader import TOKEN, ExpressionError, build, checked, end_of, spanning, start_of

_HUNDREDTHS = 100.0
_KIB = 1024.0

NAMES: dict[str, tuple[str, float]] = {
    "NAME": ("name", 1.0),
    "HYPERVISOR": ("hypervisor", 1.0),
    "ARCH": ("arch", 1.0),
    "RUNNING_VMS": ("running_vms", 1.0),
    "MAX_CPU": ("cpu_total", _HUNDREDTHS),
    "TOTALCPU": ("cpu_total", _HUNDREDTHS),
    "FREE_CPU": ("cpu_free", _HUNDREDTHS),
    "MAX_MEM": ("mem_total_mb", _KIB),
    "TOTALMEMORY": ("mem_total_mb", _KIB),
    "FREE_MEMORY": ("mem_free_mb", _KIB),
}
"""Predefined names: our attribute and what one unit of ours is in theirs. Other names are lower-cased."""

USED: dict[str, tuple[str, str, float]] = {
    "CPU_USAGE": ("cpu_total", "cpu_free", _HUNDREDTHS),
    "USED_CPU": ("cpu_total", "cpu_free", _HUNDREDTHS),
    "MEM_USAGE": ("mem_total_mb", "mem_free_mb", _KIB),
    "USED_MEMORY": ("mem_total_mb", "mem_free_mb", _KIB),
}
"""Predefined names of what is in use: total less free."""


RANKS = {
    "packing": "RUNNING_VMS",
    "striping": "- RUNNING_VMS",
    "load-aware": "FREE_CPU",
    "fixed": "PRIORITY",
}
"""The rank policies of ``DEFAULT_SCHED`` by name (0, 1, 2 and 4; 3 is a rank of one's own)."""

_INT32 = 2**31

_SLIPS = {"&&": "&", "||": "|", "==": "=", ">=": "> with a smaller number", "<=": "< with a larger number"}


def parse(text: str) -> Node:
    """The tree of a requirement or a rank. Raises ExpressionError."""
    text = RANKS.get(text.strip(), text)
    for token in TOKEN.finditer(text):
        if token[0] == "$":
            mend = "write the value itself, or use vm.NAME in the language of Isthmus"
            raise ExpressionError("variables are replaced by OpenNebula, not here", token.start(), text, mend)
        if token[0] == "CURRENT_VMS":
            mend = "`isthmus vm create --affinity GROUP` and `--anti-affinity GROUP` place VMs by others"
            raise ExpressionError("CURRENT_VMS is not known here", token.start(), text, mend)
        if token[0] in _SLIPS:
            mend = f"write {_SLIPS[token[0]]}, as OpenNebula does"
            raise ExpressionError(f'unknown operator "{token[0]}"', token.start(), text, mend)
    return build(_parser(), text)


def warnings(text: str, root: Node, *, rank: bool) -> list[str]:
    """Where the text means something else here than in OpenNebula, in words."""
    text = RANKS.get(text.strip(), text)
    found = []
    kinds = [token[0] for token in TOKEN.finditer(text)]
    if _mixes(kinds):
        found.append(
            "& and | have one precedence and group from the left, as in OpenNebula; the parentheses below show how"
        )
    if any(isinstance(node, tree.Constant) and _is_large(node.constant_value) for node in root.walk()):
        found.append("OpenNebula cuts whole numbers to 32 bits, here they keep their value")
    names = sorted({node.name for node in root.walk() if isinstance(node, tree.HostName)} - _ALWAYS)
    if names:
        there = (
            "takes 0 for it in a rank"
            if rank
            else "takes a comparison with it for false, and its negation for true"
        )
        found.append(
            f"where a host has no {', '.join(names)}, OpenNebula {there}; here the whole is undefined"
            + (", and the host comes last" if rank else ", and the host is not taken")
        )
    if rank:
        found.append("OpenNebula cuts ranks to whole numbers, here they keep their fractions")
        found.append("OpenNebula ranks once for all VMs of a round, here each VM sees those placed before it")
    return found


_ALWAYS = frozenset(
    {"name", "cpu_free", "cpu_total", "mem_free_mb", "mem_total_mb", "running_vms", "hypervisor", "arch"}
)
"""Attributes that every host of one's own has."""


def _mixes(signs: list[str]) -> bool:
    """Whether & and | meet at one level of parentheses."""
    levels: list[set[str]] = [set()]
    for sign in signs:
        if sign == "(":
            levels.append(set())
        elif sign == ")" and len(levels) > 1:
            levels.pop()
        elif sign in "&|":
            levels[-1].add(sign)
            if len(levels[-1]) == 2:
                return True
    return False


def _is_large(value: float | str) -> bool:
    return isinstance(value, float) and abs(value) >= _INT32


@lru_cache(maxsize=1)
def _parser() -> Lark:
    grammar = resources.files("placement").joinpath("opennebula.lark").read_text(encoding="utf-8")
    return Lark(grammar, parser="lalr", transformer=_Builder(), maybe_placeholders=False)


@v_args(inline=True)
class _Builder(Transformer[Token, Node]):
    """The rules of the grammar, each as the node it makes."""

    def start(self, root: Node) -> Node:
        return root

    def label(self, name: Token) -> Node:
        start, end = start_of(name), end_of(name)
        word = name[1:-1] if name.startswith('"') else str(name)
        if word in USED:
            total, free, unit = USED[word]
            used = tree.Arithmetic(
                start, end, "-", tree.HostName(start, end, total), tree.HostName(start, end, free)
            )
            return tree.Arithmetic(start, end, "*", used, tree.Constant(start, end, unit))
        ours, unit = NAMES.get(word, (word.lower().replace("/", "."), 1.0))
        host_name = tree.HostName(start, end, ours)
        if unit == 1.0:
            return host_name
        return tree.Arithmetic(start, end, "*", host_name, tree.Constant(start, end, unit))

    def name(self, label: Node) -> Node:
        return label

    def literal(self, *tokens: Token) -> Node:
        start, end = start_of(tokens[0]), end_of(tokens[-1])
        text = "".join(tokens)
        if tokens[-1].type == "NUMBER":
            return tree.Constant(start, end, float(text))
        return tree.Constant(start, end, text[1:-1] if tokens[0].type == "STRING" else text)

    def compare(self, label: Node, operator: Token, literal: Node) -> Node:
        assert isinstance(literal, tree.Constant)  # noqa: S101 - the grammar allows nothing else
        start, end, value = label.start, literal.end, literal.constant_value
        if operator == "@>":
            return tree.Glob(start, end, (label, tree.Constant(literal.start, end, _text(value))))
        if operator in ("=", "!=") and isinstance(value, str) and set(value) & set("*?["):
            matches = tree.Glob(start, end, (label, literal))
            return matches if operator == "=" else tree.Not(start, end, (matches,))
        return tree.Compare(start, end, "==" if operator == "=" else str(operator), label, literal)

    def join(self, left: Node, operator: Token, right: Node) -> Node:
        kind = tree.And if operator == "&" else tree.Or
        parts = (*left.children, right) if type(left) is kind else (left, right)
        return checked(kind(left.start, right.end, parts))

    def negate(self, operator: Token, operand: Node) -> Node:
        return checked(tree.Not(start_of(operator), operand.end, (operand,)))

    def group(self, opening: Token, inner: Node, closing: Token) -> Node:
        return spanning(inner, start_of(opening), end_of(closing))

    def arithmetic(self, left: Node, operator: Token, right: Node) -> Node:
        return checked(tree.Arithmetic(left.start, right.end, str(operator), left, right))

    def number(self, token: Token) -> Node:
        return tree.Constant(start_of(token), end_of(token), float(token))

    def minus(self, operator: Token, operand: Node) -> Node:
        start = start_of(operator)
        return checked(tree.Arithmetic(start, operand.end, "-", tree.Constant(start, start, 0.0), operand))


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"
