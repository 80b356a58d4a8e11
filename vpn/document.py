"""The desired state of one gateway, as the broker plans it and the agent applies it.

A document is the whole truth for its gateway, with a generation number that only grows. The agent
persists the newest one it has applied, and goes on with it while the broker is away.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, replace
from ipaddress import ip_address, ip_interface
from typing import Any, Literal

from vpn.address import Network, contains, network_of
from vpn.keys import is_key

_INTERFACE = re.compile(r"^[A-Za-z][A-Za-z0-9_-]{0,14}$")

_ADDRESS = re.compile(r"[0-9a-fA-F.:]+(/[0-9]+)?")

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
    """Where bootstrap peers post their keys: an address and port inside the tunnel, and the peers' pool."""

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
                enrolment=_enrolment(**raw["enrolment"]),
                peers=tuple(_peer(each) for each in raw["peers"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a gateway document: {error!r}") from error

    def problems(self) -> list[str]:
        """Why an agent must not apply this document, in words; empty when it may.

        The agent checks what it is told: a peer may own only addresses behind this gateway, a bootstrap peer
        only one of the enrolment pool, and nothing here may reach a command line as an option.
        """
        found: list[str] = []
        if not _INTERFACE.fullmatch(self.interface):
            found.append(f"interface {self.interface!r} is not a name of up to 15 letters, digits, - and _")
        if not 0 < self.listen_port < 65536:
            found.append(f"listen port {self.listen_port} is not between 1 and 65535")
        try:
            for text in (self.enrolment.pool, self.enrolment.address):
                if not _ADDRESS.fullmatch(
                    text
                ):  # a zone, as in fe80::1%any-text, would end up in the filter's rules
                    raise ValueError(f"{text!r} is not an address or prefix of digits")
            pool = network_of(self.enrolment.pool)
            routes = [network_of(route) for route in self.routes]
            for address in self.addresses:
                ip_interface(address)
            if not 0 < self.enrolment.port < 65536 or ip_address(self.enrolment.address) not in pool:
                found.append("the enrolment address and port are not in the enrolment pool")
            for peer in self.peers:
                if not is_key(peer.public_key):
                    found.append(f"peer {peer.id}: not a WireGuard public key")
                if peer.kind not in ("node", "bootstrap"):
                    found.append(f"peer {peer.id}: unknown kind {peer.kind!r}")
                for cidr in peer.allowed_ips:
                    net = network_of(cidr)
                    homes = (
                        [pool] if peer.kind == "bootstrap" else [r for r in routes if not _inside(r, pool)]
                    )
                    if not any(_inside(net, home) for home in homes):
                        found.append(f"peer {peer.id}: {cidr} is not behind this gateway")
        except ValueError as error:
            found.append(str(error))
        return found


def _enrolment(address: str, port: int, pool: str) -> Enrolment:
    if not (isinstance(address, str) and isinstance(pool, str)):
        raise TypeError("the enrolment's address and pool must be texts")
    return Enrolment(address, int(port), pool)


def _peer(raw: dict[str, Any]) -> PeerEntry:
    entry = PeerEntry(**{**raw, "allowed_ips": tuple(raw["allowed_ips"])})
    return replace(entry, keepalive=int(entry.keepalive), expires_at=float(entry.expires_at))


def _inside(inner: Network, outer: Network) -> bool:
    return contains(str(outer), str(inner))
