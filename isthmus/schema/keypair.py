"""An SSH public key that VMs let in."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from isthmus.schema._base import Answer, Name, NewLabels, Request


class KeyPair(Answer):
    id: str = ""
    name: str
    project: str
    public_key: str
    fingerprint: str
    labels: dict[str, str] = Field(default_factory=dict)
    created_at: datetime


class KeyPairCreate(Request):
    """``public_key`` in OpenSSH's one-line form (RFC 4253, section 6.6)."""

    name: Name
    public_key: str = Field(max_length=16384)
    labels: NewLabels = Field(default_factory=dict)
