"""The one shape of every error of the native API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from isthmus.schema._base import NAME_PATTERN, Answer


class ErrorDetail(Answer):
    """``code`` is stable and listed in the docs; ``hint`` says what to do next."""

    code: str
    message: str
    hint: str = ""
    details: dict[str, Any] = Field(default_factory=dict)


class Error(Answer):
    """``{"error": {...}}``."""

    error: ErrorDetail


def problems(errors: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """What pydantic found wrong with a request, as ``details["errors"]`` has it: ``loc`` and ``message``."""
    found = []
    for error in errors:
        loc = [str(part) for part in error["loc"]]
        # A person knows what is a body and what a query.
        named = loc[1:] if loc and loc[0] in ("body", "query", "path", "header") else loc
        found.append({"loc": ".".join(named) or "request", "message": _words(error)})
    return found


def _words(error: Mapping[str, Any]) -> str:
    message: str = error["msg"]
    if error.get("type") == "string_pattern_mismatch" and error.get("ctx", {}).get("pattern") == NAME_PATTERN:
        return "a name is 1 to 63 of a-z, 0-9, dot and hyphen, and begins and ends with a letter or digit"
    if error.get("type") == "extra_forbidden":
        return "there is no such field"
    if error.get("type") == "missing":
        return "this is required"
    return message.removeprefix("Value error, ")
