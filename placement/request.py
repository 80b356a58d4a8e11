"""What the match is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from placement.size import CAPACITY, amounts


@dataclass(frozen=True, slots=True)
class Request:
    """A VM that looks for a host.

    ``cpu`` in cores, ``mem_mb`` and ``hugepages_mb`` in MiB, ``disk_gb`` in GiB. ``requirement`` and ``rank`` are expressions;
    without a rank all hosts are equal. ``attributes`` are what expressions read as ``vm.*``.
    """

    id: str
    cpu: float
    mem_mb: float
    disk_gb: float = 0.0
    gpus: float = 0.0
    requirement: str | None = None
    rank: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    dedicated_cpus: float = 0.0
    hugepages_mb: float = 0.0

    def needs(self) -> tuple[tuple[str, float], ...]:
        """The capacity it takes: (host attribute, amount)."""
        return tuple(zip(CAPACITY, amounts(self), strict=True))


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a VM goes. ``host`` and ``runner_up`` are rows of the table, None when there is none.

    Ranks are None where undefined, minus infinity (which comes last just as well) or not asked for. ``error`` says
    why a request could not be judged at all (an expression that does not parse); it never keeps other requests from being placed.
    """

    request_id: str
    host: int | None
    rank: float | None = None
    runner_up: int | None = None
    runner_up_rank: float | None = None
    error: str = ""
