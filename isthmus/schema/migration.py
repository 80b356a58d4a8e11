"""Live migrations: moves of running VMs between hosts of one site."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from isthmus.schema._base import Answer, Request


class Move(Answer):
    """One migration. ``cost_s``: seconds of copying; ``operation``: what does it, None in a plan that was not applied."""

    vm: str
    source: str
    target: str
    cost_s: float
    operation: str | None = None


class Stuck(Answer):
    """A VM that should move and cannot."""

    vm: str
    reason: str


class MigrationPlan(Answer):
    """Moves, and what they are good for. ``spread_*``: the standard deviation of the hosts' loads, from 0 to 1."""

    goal: str
    moves: list[Move] = Field(default_factory=list)
    stuck: list[Stuck] = Field(default_factory=list)
    resting: int = Field(
        default=0, description="VMs that stay only because they were placed or moved just now (`rest_s`)."
    )
    hosts_before: int = 0
    hosts_after: int = 0
    spread_before: float = 0.0
    spread_after: float = 0.0


class MigrationCreate(Request):
    """``pack``: use fewer hosts; ``balance``: load them evenly; ``drain``: empty ``host``, which goes into maintenance.

    Without ``apply`` the plan is only told. The limits hold for pack and balance. ``rest_s``: VMs that were placed or moved
    less long ago stay; ``min_gain``: the fraction of a host by which a move must even loads out.
    """

    goal: Literal["pack", "balance", "drain"]
    host: str | None = None
    apply: bool = False
    max_moves: int = Field(default=20, ge=1, le=10_000)
    max_cost_s: float = Field(default=3600.0, gt=0)
    rest_s: float = Field(default=600.0, ge=0)
    min_gain: float = Field(default=0.05, gt=0, le=1)
