"""A project: whose VMs they are."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from isthmus.schema._base import Answer, Name, NewLabels, Request


class Quota(Answer):
    """The most a project may have at once; None is no limit."""

    vms: int | None = None
    vcpus: int | None = None
    mem_mb: int | None = None
    gpus: int | None = None


class QuotaUsed(Answer):
    """What the project's VMs that are not terminated use of its quota."""

    vms: int = 0
    vcpus: int = 0
    mem_mb: int = 0
    gpus: int = 0


class QuotaSet(Request):
    vms: int | None = Field(default=None, ge=0, lt=1 << 31)
    vcpus: int | None = Field(default=None, ge=0, lt=1 << 31)
    mem_mb: int | None = Field(default=None, ge=0, lt=1 << 31)
    gpus: int | None = Field(default=None, ge=0, lt=1 << 31)


class Project(Answer):
    id: str
    name: str
    quota: Quota = Field(default_factory=Quota)
    used: QuotaUsed = Field(default_factory=QuotaUsed)
    account: str = Field(description="The project's twelve-digit account in the EC2 face.")
    labels: dict[str, str] = Field(default_factory=dict)
    created_at: datetime


class ProjectCreate(Request):
    name: Name
    quota: QuotaSet = Field(default_factory=QuotaSet)
    labels: NewLabels = Field(default_factory=dict)
