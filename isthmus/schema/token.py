"""A bearer token for the native API."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import Field

from isthmus.schema._base import Answer, Name, Request


class Role(StrEnum):
    """``admin``: everything; ``member``: the project's own VMs, keys and reading the rest; ``reader``: reading."""

    ADMIN = "admin"
    MEMBER = "member"
    READER = "reader"


class Token(Answer):
    id: str
    name: str
    project: str
    role: Role
    created_at: datetime
    expires_at: datetime | None = None


class TokenCreate(Request):
    name: Name
    project: str | None = Field(default=None, description="Defaults to the caller's own.")
    role: Role = Role.MEMBER
    expires_in_s: int | None = Field(default=None, ge=60, le=315_576_000, description="Ten years at most.")


class TokenCreated(Answer):
    """The secret is shown once, stored only as a hash."""

    token: Token
    secret: str
