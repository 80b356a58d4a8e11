"""A long-running change, which one can wait on."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from isthmus.schema._base import Answer


class OperationState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Operation(Answer):
    """``kind`` is noun.verb (``vm.create``); ``phase`` says where it stands, ``message`` in words."""

    id: str
    kind: str
    target: str
    state: OperationState
    phase: str = ""
    message: str = ""
    attempt: int = 0
    error: str | None = None
    created_at: datetime
    ended_at: datetime | None = None
