"""The one shape of every error of the native API."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from isthmus.schema._base import Answer


class ErrorDetail(Answer):
    """``code`` is stable and listed in the docs; ``hint`` says what to do next."""

    code: str
    message: str
    hint: str = ""
    details: dict[str, Any] = Field(default_factory=dict)


class Error(Answer):
    """``{"error": {...}}``."""

    error: ErrorDetail
