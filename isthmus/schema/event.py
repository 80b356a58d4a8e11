"""Something that happened, or that the broker decided."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from isthmus.schema._base import Answer


class Event(Answer):
    """``kind`` is noun.past (``vm.placed``, ``policy.opened``); ``seq`` only grows."""

    seq: int
    time: datetime
    kind: str
    project: str | None = None
    target: str
    message: str
    data: dict[str, Any] = Field(default_factory=dict)
