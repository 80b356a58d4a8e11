"""Writes docs/reference/sdk-calls.md from the collections themselves: ``python -m isthmus.client.reference > FILE``.

A test compares the file with what this says, so that the page cannot fall behind.
"""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from typing import Any

import isthmus
from isthmus.client._resource import Bound
from isthmus.nouns import NOUNS, Noun

_HEAD = """\
# Calls of the Python SDK

Written by `python -m isthmus.client.reference`; edit the collections, not this page.

Each noun is an attribute of the [client](sdk.md) with its calls, and what they answer has verbs of its own:
`client.vms.stop("web")` and `client.vms.get("web").stop()` are the same. Where a call may be given a `ref`, it is a
name or an id.
"""

_COMMON = ("create", "get", "list", "delete", "refresh")
"""These first, in this order; then what is a noun's own."""


def write() -> str:
    """The page."""
    return _HEAD + "".join(_noun(row) for row in NOUNS)


def calls(row: Noun[Any]) -> dict[str, Any]:
    """The public calls of a noun's collection, by name."""
    return _functions(_collection(row))


def verbs(row: Noun[Any]) -> dict[str, dict[str, Any]]:
    """The verbs of the things of a noun, by the things' names."""
    kinds = {name: getattr(isthmus, name) for name in row.exports}
    return {name: _functions(kind) for name, kind in kinds.items() if issubclass(kind, Bound)}


def _collection(row: Noun[Any]) -> type:
    found: type = getattr(import_module(f"isthmus.client.{row.name}"), row.calls)
    return found


def _functions(kind: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for base in reversed([base for base in kind.__mro__ if base.__module__.startswith("isthmus.client.")]):
        found |= {name: value for name, value in vars(base).items() if name[0] != "_"}
    functions = {
        name: value
        for name, value in found.items()
        if (inspect.isfunction(value) or isinstance(value, property)) and name != "model_post_init"
    }
    first = [name for name in _COMMON if name in functions]
    return {name: functions[name] for name in [*first, *(name for name in functions if name not in first)]}


def _noun(row: Noun[Any]) -> str:
    about = (_collection(row).__doc__ or "").partition(". ")[2]
    text = " ".join(f"{row.line} {about}".replace("``", "`").split())
    parts = [f"\n## client.{row.plural}\n\n{text}\n", _table("call", calls(row))]
    parts += [_table(f"of one `{name}`", found) for name, found in verbs(row).items() if found]
    return "".join(parts)


def _table(title: str, functions: dict[str, Any]) -> str:
    rows = "".join(f"| `{_signature(f)}` | {_text(f)} |\n" for f in functions.values())
    return f"\n| {title} | |\n|---|---|\n{rows}"


def _signature(function: Any) -> str:
    if isinstance(function, property):
        return function.fget.__name__ if function.fget else ""
    parameters: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in parameters:
            parameters.append("*")
        default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
        parameters.append(parameter.name + default)
    return f"{function.__name__}({', '.join(parameters)})"


def _text(function: Any) -> str:
    first = (inspect.getdoc(function) or "").partition("\n\n")[0]
    return " ".join(first.replace("``", "`").split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(write())
