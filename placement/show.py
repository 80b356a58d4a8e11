"""An expression's tree as text in the language of ``placement/language.py``: what a dialect said, in our own words."""

from __future__ import annotations

from placement import tree
from placement.node import Node

_CHOOSE, _OR, _AND, _EQUALITY, _COMPARE, _SUM, _PRODUCT, _UNARY, _ATOM = range(9)
_OPERATORS = {
    "==": _EQUALITY,
    "!=": _EQUALITY,
    "<": _COMPARE,
    "<=": _COMPARE,
    ">": _COMPARE,
    ">=": _COMPARE,
    "+": _SUM,
    "-": _SUM,
    "*": _PRODUCT,
    "/": _PRODUCT,
    "%": _PRODUCT,
}


def show(node: Node) -> str:
    """The text of a tree; parsed again it means the same."""
    return _show(node)[0]


def _show(node: Node) -> tuple[str, int]:
    """The text, and how tightly its outermost operator binds."""
    match node:
        case tree.Constant(constant_value=value):
            return (_quoted(value), _ATOM) if isinstance(value, str) else _number(value)
        case tree.HostName(name=name):
            return name, _ATOM
        case tree.VMName(name=name, key=key):
            return (f"vm.{name}" if key is None else f"vm.{name}[{_quoted(key)}]"), _ATOM
        case tree.And(children=children):
            return " && ".join(_inside(child, _EQUALITY) for child in children), _AND
        case tree.Or(children=children):
            return " || ".join(_inside(child, _AND) for child in children), _OR
        case tree.Not(children=(child,)):
            return f"!{_inside(child, _UNARY)}", _UNARY
        case tree.Arithmetic(operator="-", children=(tree.Constant(constant_value=0.0) as zero, child)) if (
            zero.start == zero.end
        ):
            return f"-{_inside(child, _UNARY)}", _UNARY
        case tree.Compare(operator=operator, children=(left, right)):
            level = _OPERATORS[operator]
            return f"{_inside(left, level + 1)} {operator} {_inside(right, level + 1)}", level
        case tree.Arithmetic(operator=operator, children=(left, right)):
            level = _OPERATORS[operator]
            return f"{_inside(left, level)} {operator} {_inside(right, level + 1)}", level
        case tree.Member(children=(item, whole)):
            return f"{_inside(item, _SUM)} in {_inside(whole, _SUM)}", _COMPARE
        case tree.Glob(children=(subject, pattern)):
            return f"{_inside(subject, _SUM)} ~ {_inside(pattern, _SUM)}", _COMPARE
        case tree.Choose(children=(condition, first, second)):
            return f"{_inside(condition, _OR)} ? {_show(first)[0]} : {_show(second)[0]}", _CHOOSE
        case tree.Defined(children=(child,)):
            return f"defined({_show(child)[0]})", _ATOM
        case tree.Size(children=(child,)):
            return f"size({_show(child)[0]})", _ATOM
        case tree.Call(function=function, children=children):
            return f"{function}({', '.join(_show(child)[0] for child in children)})", _ATOM
    raise TypeError(f"{type(node).__name__} has no text")


def _inside(node: Node, least: int) -> str:
    text, level = _show(node)
    return text if level >= least else f"({text})"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _number(value: float) -> tuple[str, int]:
    text = f"{value:.17g}" if float(f"{value:g}") != value else f"{value:g}"
    return (text, _ATOM) if value >= 0 else (f"-{text[1:]}", _UNARY)
