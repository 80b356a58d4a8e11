"""A project: whose VMs they are."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from isthmus.schema._base import Answer, Name, NewLabels, Request
from isthmus.schema.size import Quota, QuotaSet, QuotaUsed


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
