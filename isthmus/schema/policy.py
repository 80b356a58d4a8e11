"""The burst policy: a versioned file and what it says now."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from isthmus.schema._base import Answer, Request


class Clause(Answer):
    """One condition with its value now. ``value`` is None when an attribute in it is undefined."""

    text: str
    holds: bool | None
    value: float | None = None


class Policy(Answer):
    """``burst``: ``open``, ``closed`` or ``off`` (the policy has no burst part)."""

    version: int
    text: str
    applied_by: str
    applied_at: datetime
    burst: str
    burst_since: datetime | None = None
    reason: str = ""
    open: list[Clause] = Field(default_factory=list)
    close: list[Clause] = Field(default_factory=list)
    burst_vms: int = 0
    budget: str = Field(default="", description="What is spent and what will be; empty without a budget.")


class RehearsalStep(Answer):
    """What would become of one VM: ``place`` on a host, ``wait``, or ``leave`` its cloud; and why."""

    vm: str
    action: str
    host: str | None = None
    reason: str = ""


class Rehearsal(Answer):
    """What a policy would do if it were in force now. ``burst`` as in ``Policy``."""

    burst: str
    reason: str = ""
    open: list[Clause] = Field(default_factory=list)
    close: list[Clause] = Field(default_factory=list)
    steps: list[RehearsalStep] = Field(default_factory=list)


class PolicyText(Request):
    """``name`` is the file's name, for the positions in errors."""

    text: str = Field(max_length=65_536)
    name: str = Field(default="policy.yaml", max_length=255)


class Problem(Answer):
    """One mistake: where it is, what is wrong and how to mend it. Lines and columns count from 1."""

    file: str
    line: int
    column: int
    message: str
    mend: str = ""


class PolicyCheck(Answer):
    ok: bool
    problems: list[Problem] = Field(default_factory=list)
