"""A private network with one subnet per site."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from isthmus.schema._base import Answer, Name, NewLabels, Request


class Subnet(Answer):
    """``mode``: ``bridge``, ``nat``, ``route`` on hosts of ours; ``tunnel`` for burst VMs, reached through the gateway."""

    id: str
    network: str
    site: str
    cidr: str
    mode: str
    gateway: str
    bridge: str = ""
    dns: list[str] = Field(default_factory=list)
    reserved: list[str] = Field(default_factory=list)
    mtu: int
    leased: int = 0
    labels: dict[str, str] = Field(default_factory=dict)


class Network(Answer):
    """``project`` is whose it is, null for the broker's own; ``visibility``: ``shared`` with all, or ``private``."""

    id: str
    name: str
    project: str | None = None
    visibility: str = "shared"
    cidr: str
    subnets: list[Subnet] = Field(default_factory=list)
    labels: dict[str, str] = Field(default_factory=dict)
    created_at: datetime


class NetworkCreate(Request):
    """``cidr`` covers all of the network's subnets.

    With ``project`` the network is that project's, and ``private`` by default; without, it is the broker's own, and ``shared``.
    """

    name: Name
    cidr: str
    project: str | None = None
    visibility: Literal["private", "shared"] | None = None
    labels: NewLabels = Field(default_factory=dict)


class SubnetCreate(Request):
    """``gateway`` defaults to the subnet's first address."""

    site: str
    cidr: str
    mode: str | None = Field(
        default=None,
        pattern="^(bridge|nat|route|tunnel)$",
        description="Default: nat on hosts of ours, tunnel in a cloud.",
    )
    gateway: str | None = None
    bridge: str = ""
    dns: list[str] = Field(default_factory=list, max_length=4)
    reserved: list[str] = Field(
        default_factory=list,
        max_length=64,
        description="Addresses that are never leased: single ones, or ranges like 10.0.0.2-10.0.0.20.",
    )
    mtu: int = Field(default=1420, ge=1280, le=9000)
    labels: NewLabels = Field(default_factory=dict)
