"""A page of a list."""

from __future__ import annotations

from typing import Generic, TypeVar

from isthmus.schema._base import Answer

T = TypeVar("T")


class Page(Answer, Generic[T]):
    """``items`` in a stable order; ``next`` is the token of the following page, None on the last."""

    items: list[T]
    next: str | None = None
