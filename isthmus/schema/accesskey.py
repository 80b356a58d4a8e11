"""An access key for the EC2 face (SigV4)."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from isthmus.schema._base import Answer, Request
from isthmus.schema.token import Role


class AccessKey(Answer):
    id: str
    project: str
    role: Role
    created_at: datetime


class AccessKeyCreate(Request):
    project: str | None = Field(default=None, description="Defaults to the caller's own.")
    role: Role = Role.MEMBER


class AccessKeyCreated(Answer):
    """The secret is shown once; it is sealed at rest because SigV4 needs it back."""

    access_key: AccessKey
    secret: str
