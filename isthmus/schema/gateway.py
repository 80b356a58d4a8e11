"""A site's gateway: where the private network meets the tunnels."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from isthmus.schema._base import Answer, Name, Request


class Gateway(Answer):
    """``generation`` is what the broker wants, ``applied_generation`` what the agent last applied."""

    id: str
    name: str
    site: str
    network: str
    endpoint: str
    state: str
    public_key: str | None = None
    generation: int = 0
    applied_generation: int = 0
    peers: int = 0
    seen_at: datetime | None = None
    created_at: datetime


class GatewayCreate(Request):
    """``endpoint`` is the address and UDP port that burst VMs dial (``203.0.113.7:51820``)."""

    name: Name
    site: str
    network: str
    endpoint: str = Field(max_length=255)


class GatewayCreated(Answer):
    """The gateway, and the agent's token: shown once, stored only as a hash."""

    gateway: Gateway
    token: str


class AgentRegister(Request):
    """The agent's own WireGuard public key (base64 of 32 bytes); its private key never leaves the host."""

    public_key: str = Field(pattern=r"^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$")


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
    """The agent's report after each change and once a minute."""

    applied_generation: int = Field(ge=0, lt=1 << 31)
    peers: list[PeerStatus] = Field(default_factory=list)
