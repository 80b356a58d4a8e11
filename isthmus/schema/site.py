"""A site: KVM hosts, SmartOS nodes or a cloud region behind one provider."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from isthmus.schema._base import Answer, Name, NewLabels, Request


class Site(Answer):
    """``state``: ``up``, ``unreachable`` or ``new`` (not looked at yet). Credentials are never answered."""

    id: str
    name: str
    kind: str
    state: str
    status_reason: str = ""
    options: dict[str, Any] = Field(default_factory=dict)
    attributes: dict[str, Any] = Field(default_factory=dict)
    hosts: int = 0
    labels: dict[str, str] = Field(default_factory=dict)
    created_at: datetime


class SiteCreate(Request):
    """``options`` are the kind's own (docs/reference/sites.md); ``attributes`` are added to each of its hosts;
    ``host_attributes`` are added to single hosts, by name; ``credentials`` are sealed at rest."""

    name: Name
    kind: str
    options: dict[str, Any] = Field(default_factory=dict)
    attributes: dict[str, Any] = Field(default_factory=dict)
    host_attributes: dict[str, dict[str, Any]] = Field(default_factory=dict)
    credentials: dict[str, str] = Field(default_factory=dict)
    labels: NewLabels = Field(default_factory=dict)
