"""An advance reservation: room that is kept for a time."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import Field

from isthmus.schema._base import Name, NewLabels, Request
from isthmus.schema.size import Size


class ReservationState(StrEnum):
    """Where a reservation stands."""

    SCHEDULED = "scheduled"
    ACTIVE = "active"
    ENDED = "ended"
    CANCELLED = "cancelled"


class Reservation(Size):
    """Room for ``count`` VMs of one flavor. ``hosts``: ``site/host`` -> how many of them; ``vms``: how many stand in it, or
    wait for it."""

    id: str
    name: str
    project: str
    state: ReservationState
    flavor: str
    count: int
    requirements: str | None = None
    start_at: datetime
    end_at: datetime
    hosts: dict[str, int] = Field(default_factory=dict)
    vms: int = 0
    labels: dict[str, str] = Field(default_factory=dict)
    created_at: datetime


class ReservationCreate(Request):
    """Without ``start_at`` it begins now. ``requirements``: what its hosts must be."""

    name: Name
    flavor: str
    count: int = Field(default=1, ge=1, le=10_000)
    start_at: datetime | None = None
    end_at: datetime
    requirements: str | None = Field(default=None, max_length=4096)
    labels: NewLabels = Field(default_factory=dict)
