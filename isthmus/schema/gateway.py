"""A site's gateway: where the private network meets the tunnels."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from isthmus.schema._base import Answer, Name, NewLabels, Request


class Gateway(Answer):
    """``generation`` is what the broker wants, ``applied_generation`` what the agent last applied.

    ``state``: ``new``, ``up``, ``unreachable``, or ``incompatible`` when agent and broker know no version of the document
    in common. ``status_reason`` says why, or what of the document the agent could not apply. ``document_versions``,
    ``features`` and ``software`` are what the agent said of itself.
    """

    id: str
    name: str
    site: str
    network: str
    endpoint: str
    state: str
    status_reason: str = ""
    public_key: str | None = None
    generation: int = 0
    applied_generation: int = 0
    peers: int = 0
    document_versions: list[int] = Field(default_factory=list)
    features: list[str] = Field(default_factory=list)
    software: str = ""
    seen_at: datetime | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    created_at: datetime


class GatewayCreate(Request):
    """``endpoint`` is the address and UDP port that burst VMs dial (``203.0.113.7:51820``)."""

    name: Name
    site: str
    network: str
    endpoint: str = Field(max_length=255)
    labels: NewLabels = Field(default_factory=dict)


class GatewayCreated(Answer):
    """The gateway, and the agent's token: shown once, stored only as a hash."""

    gateway: Gateway
    token: str


class AgentRegister(Request):
    """The agent's own WireGuard public key (base64 of 32 bytes); its private key never leaves the host.

    And what the agent can: the versions of the document that it reads, the names of its features, its own version.
    """

    public_key: str = Field(pattern=r"^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$")
    document_versions: list[Annotated[int, Field(ge=1, lt=1 << 31)]] = Field(
        default_factory=lambda: [1], min_length=1, max_length=32
    )
    features: list[Annotated[str, Field(max_length=64)]] = Field(default_factory=list, max_length=64)
    software: str = Field(default="", max_length=64)


class Enrol(Request):
    """What a gateway's agent forwards: who posted (the bootstrap peer's address) and the VM's own public key."""

    address: str = Field(max_length=45)
    public_key: str = Field(pattern=r"^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$")


class Enrolled(Answer):
    """The answer to an accepted enrolment: the peer as it now is, and what the VM sets up for itself."""

    peer_id: str
    address: str
    allowed_ips: list[str]
    generation: int


class PeerStatus(Request):
    """One peer as the gateway's WireGuard shows it; times in seconds since the epoch, 0 = never."""

    public_key: str
    last_handshake: float = Field(default=0, ge=0, lt=1 << 40)
    rx_bytes: int = Field(default=0, ge=0, lt=1 << 63)
    tx_bytes: int = Field(default=0, ge=0, lt=1 << 63)


class AgentStatus(Request):
    """The agent's report after each change and once a minute. ``problems``: what of its document it could not apply."""

    applied_generation: int = Field(ge=0, lt=1 << 31)
    peers: list[PeerStatus] = Field(default_factory=list)
    problems: list[Annotated[str, Field(max_length=300)]] = Field(default_factory=list, max_length=20)
