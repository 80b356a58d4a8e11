"""A requirement or a rank, looked at before it is used."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from isthmus.schema._base import Answer, Request


class ExpressionCheck(Request):
    """``dialect``: ``isthmus``, or ``opennebula`` for SCHED_REQUIREMENTS, SCHED_RANK and its rank policies by name."""

    text: str = Field(max_length=8192)
    kind: Literal["requirement", "rank"] = "requirement"
    dialect: Literal["isthmus", "opennebula"] = "isthmus"


class HostWorth(Answer):
    """What it is worth on one host: 1 or 0 for a requirement, a number for a rank; None where it is undefined."""

    host: str
    value: float | None = None


class Expression(Answer):
    """``text``: the same in the language of Isthmus. ``hosts``: what it is worth on each of them now, best first."""

    text: str
    warnings: list[str] = Field(default_factory=list)
    hosts: list[HostWorth] = Field(default_factory=list)
