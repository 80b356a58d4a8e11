"""The desired state of one gateway, as the broker plans it and the agent applies it.

A document is the whole truth for its gateway, with a generation number that only grows. The agent
persists the newest one it has applied, and goes on with it while the broker is away.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

PeerKind = Literal["node", "bootstrap"]
"""``node``: an enrolled VM. ``bootstrap``: a launch that may still post its own key, and nothing else."""


@dataclass(frozen=True)
class PeerEntry:
    """One WireGuard peer of the gateway's interface.

    ``allowed_ips`` are CIDR texts. ``expires_at`` (seconds since the epoch, 0 = never) bounds a bootstrap
    peer: the agent itself drops it then, also when the broker is away. ``keepalive`` in seconds, 0 = off.
    """

    id: str
    kind: PeerKind
    public_key: str
    allowed_ips: tuple[str, ...]
    keepalive: int = 0
    expires_at: float = 0.0


@dataclass(frozen=True)
class Enrolment:
    """Where bootstrap peers post their keys: an address and port inside the tunnel, and the pool they come from."""

    address: str
    port: int
    pool: str


@dataclass(frozen=True)
class GatewayDocument:
    """What a gateway must be. ``routes`` are the CIDRs behind the WireGuard interface."""

    gateway_id: str
    generation: int
    interface: str
    listen_port: int
    mtu: int
    addresses: tuple[str, ...]
    routes: tuple[str, ...]
    enrolment: Enrolment
    peers: tuple[PeerEntry, ...] = field(default_factory=tuple)

    def to_json(self) -> str:
        """Canonical JSON: equal documents give equal texts."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> GatewayDocument:
        """The document of a JSON text. Raises ValueError with what is wrong."""
        try:
            raw: dict[str, Any] = json.loads(text)
            return cls(
                gateway_id=raw["gateway_id"],
                generation=int(raw["generation"]),
                interface=raw["interface"],
                listen_port=int(raw["listen_port"]),
                mtu=int(raw["mtu"]),
                addresses=tuple(raw["addresses"]),
                routes=tuple(raw["routes"]),
                enrolment=Enrolment(**raw["enrolment"]),
                peers=tuple(PeerEntry(**{**p, "allowed_ips": tuple(p["allowed_ips"])}) for p in raw["peers"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a gateway document: {error!r}") from error
