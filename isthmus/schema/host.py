"""A host of a site: a machine, or a cloud's zone and instance type."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from isthmus.schema._base import Answer, Request


class Host(Answer):
    """``state``: ``unreachable``, or else ``maintenance``, or ``up``; ``in_maintenance`` holds while it is unreachable
    too. ``vcpus_*`` and ``mem_*`` count the broker's claims."""

    id: str
    name: str
    site: str
    state: str
    status_reason: str = ""
    in_maintenance: bool = False
    elastic: bool = False
    vcpus_total: float = 0
    vcpus_free: float = 0
    mem_total_mb: float = 0
    mem_free_mb: float = 0
    vms: int = 0
    attributes: dict[str, Any] = Field(default_factory=dict)
    seen_at: datetime | None = None


class HostUpdate(Request):
    """``maintenance``: takes no new VM; what runs there goes on."""

    maintenance: bool
