"""The desired state of one gateway, as the broker plans it and the agent applies it.

A document is the whole truth for its gateway, with a generation number that only grows. The agent
persists the newest one it has applied, and goes on with it while the broker is away.

Its *version* says how it is written, and is raised whenever something is added. A broker writes only versions that
the agent says it reads. A reader that is given a newer one all the same takes what it knows, and tells what it left
out: fields it has not heard of, and peers of such kinds.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from ipaddress import ip_address, ip_interface
from typing import Any, Literal

from vpn.address import Address, Network, contains, network_of, overlapping
from vpn.keys import is_key

VERSION = 2
"""What is written where the reader says nothing else. 1 is that of Isthmus 0.1.0: it has no number, VMs are of the
kind ``node``, and there are no gateways among the peers."""
READS = (1, 2)
"""The versions that are read here, and written."""
FEATURES = ("gateway-peers",)
"""What an agent of this code can do beyond 0.1.0, by name."""

_INTERFACE = re.compile(r"^[A-Za-z][A-Za-z0-9_-]{0,14}$")

_ADDRESS = re.compile(r"[0-9a-fA-F.:]+(/[0-9]+)?")

_ENDPOINT = re.compile(r"(?:([0-9.]{7,15})|\[([0-9A-Fa-f:.]{2,45})\]):([0-9]{1,5})")

PeerKind = Literal["vm", "bootstrap", "gateway"]
"""``vm``: one that has enrolled. ``bootstrap``: a launch that may still post its own key, and nothing else.
``gateway``: that of another site, with the prefixes that are reached through it."""

KINDS: dict[str, PeerKind] = {"vm": "vm", "bootstrap": "bootstrap", "gateway": "gateway"}
_KINDS_1: dict[str, PeerKind] = {"node": "vm", "bootstrap": "bootstrap"}


@dataclass(frozen=True)
class PeerEntry:
    """One WireGuard peer of the gateway's interface.

    ``allowed_ips`` are CIDR texts. ``expires_at`` (seconds since the epoch, 0 = never) bounds a bootstrap
    peer: the agent itself drops it then, also when the broker is away. ``keepalive`` in seconds, 0 = off.
    ``endpoint`` is where a gateway is dialled, ``ADDRESS:PORT`` (no name: the agent must not wait for a resolver),
    and empty for one that dials itself.
    """

    id: str
    kind: PeerKind
    public_key: str
    allowed_ips: tuple[str, ...]
    keepalive: int = 0
    expires_at: float = 0.0
    endpoint: str = ""


@dataclass(frozen=True)
class Enrolment:
    """Where bootstrap peers post their keys: an address and port inside the tunnel, and the peers' pool."""

    address: str
    port: int
    pool: str


@dataclass(frozen=True)
class GatewayDocument:
    """What a gateway must be. ``routes`` are the CIDRs behind the WireGuard interface.

    ``left_out`` says in words what the text had beyond this; it is not part of what is written.
    """

    gateway_id: str
    generation: int
    interface: str
    listen_port: int
    mtu: int
    addresses: tuple[str, ...]
    routes: tuple[str, ...]
    enrolment: Enrolment
    peers: tuple[PeerEntry, ...] = field(default_factory=tuple)
    version: int = VERSION
    left_out: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Canonical JSON, written as ``version`` says: equal documents give equal texts.

        Raises ValueError when that version has no words for it.
        """
        raw = asdict(self)
        del raw["left_out"]
        if self.version == 1:
            del raw["version"]
            for peer in raw["peers"]:
                if peer["kind"] == "gateway":
                    raise ValueError(f"peer {peer['id']}: version 1 of the document has no gateways")
                peer["kind"] = "node" if peer["kind"] == "vm" else peer["kind"]
                del peer["endpoint"]
        return json.dumps(raw, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> GatewayDocument:
        """The document of a JSON text of any version, without what is not known here (``left_out``).

        Raises ValueError with what is wrong.
        """
        try:
            raw: dict[str, Any] = json.loads(text)
            version = int(raw.get("version", 1))
            kinds = _KINDS_1 if version == 1 else KINDS
            return cls(
                gateway_id=raw["gateway_id"],
                generation=int(raw["generation"]),
                interface=raw["interface"],
                listen_port=int(raw["listen_port"]),
                mtu=int(raw["mtu"]),
                addresses=tuple(raw["addresses"]),
                routes=tuple(raw["routes"]),
                enrolment=_enrolment(raw["enrolment"]),
                peers=tuple(peer_of(each, kinds) for each in raw["peers"] if each["kind"] in kinds),
                version=version,
                left_out=_left_out(raw, version, kinds),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a gateway document: {error!r}") from error

    def problems(self) -> list[str]:
        """Why an agent must not apply this document, in words; empty when it may.

        The agent checks what it is told: a peer may own only addresses behind this gateway, a bootstrap peer
        only one of the enrolment pool, and nothing here may reach a command line as an option.
        """
        found: list[str] = []
        if self.version < 1:
            found.append(f"version {self.version} is none")
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
                if peer.kind not in KINDS:
                    found.append(f"peer {peer.id}: unknown kind {peer.kind!r}")
                if not 0 <= peer.keepalive < 65536:
                    found.append(f"peer {peer.id}: keepalive {peer.keepalive} is not between 0 and 65535")
                if peer.endpoint and peer.kind != "gateway":
                    found.append(f"peer {peer.id}: only a gateway is dialled")
                elif peer.endpoint and endpoint_of(peer.endpoint) is None:
                    found.append(f"peer {peer.id}: endpoint {peer.endpoint!r} is not ADDRESS:PORT")
                for cidr in peer.allowed_ips:
                    net = network_of(cidr)
                    homes = (
                        [pool] if peer.kind == "bootstrap" else [r for r in routes if not _inside(r, pool)]
                    )
                    if peer.kind == "gateway" and overlapping(cidr, [self.enrolment.pool]):
                        found.append(f"peer {peer.id}: {cidr} touches the enrolment pool")
                    if not any(_inside(net, home) for home in homes):
                        found.append(f"peer {peer.id}: {cidr} is not behind this gateway")
        except ValueError as error:
            found.append(str(error))
        return found


def endpoint_of(text: str) -> tuple[Address, int] | None:
    """The address and port of ``203.0.113.7:51820`` or ``[2001:db8::1]:51820``; None when it is neither."""
    match = _ENDPOINT.fullmatch(text)
    if match is None or not 0 < int(match[3]) < 65536:
        return None
    try:
        address = ip_address(match[1] or match[2])
    except ValueError:
        return None
    return (address, int(match[3])) if address.version == (4 if match[1] else 6) else None


def peer_of(raw: dict[str, Any], kinds: dict[str, PeerKind] = KINDS) -> PeerEntry:
    """The peer of a JSON object, without fields that are not known here. Raises KeyError, TypeError or ValueError."""
    if isinstance(raw["allowed_ips"], str):
        raise TypeError("allowed_ips must be a list")
    return PeerEntry(
        id=str(raw["id"]),
        kind=kinds[raw["kind"]],
        public_key=raw["public_key"],
        allowed_ips=tuple(raw["allowed_ips"]),
        keepalive=int(raw.get("keepalive", 0)),
        expires_at=float(raw.get("expires_at", 0)),
        endpoint=str(raw.get("endpoint", "")),
    )


def _enrolment(raw: dict[str, Any]) -> Enrolment:
    address, port, pool = raw["address"], raw["port"], raw["pool"]
    if not (isinstance(address, str) and isinstance(pool, str)):
        raise TypeError("the enrolment's address and pool must be texts")
    return Enrolment(address, int(port), pool)


def _left_out(raw: dict[str, Any], version: int, kinds: dict[str, PeerKind]) -> tuple[str, ...]:
    """In words what a document has that is not read here: a line for each thing, however many peers have it."""
    found: list[str] = []
    if version > max(READS):
        found.append(f"the document is of version {version}, and {max(READS)} is the newest known here")
    found += [f"its field {name!r}" for name in sorted(raw.keys() - _names(GatewayDocument))]
    found += [
        f"its enrolment's field {name!r}" for name in sorted(raw["enrolment"].keys() - _names(Enrolment))
    ]
    strange = Counter(str(peer["kind"]) for peer in raw["peers"] if peer["kind"] not in kinds)
    found += [f"{count} of the kind {kind!r} among its peers" for kind, count in sorted(strange.items())]
    known = _names(PeerEntry)
    more = Counter(name for peer in raw["peers"] if peer["kind"] in kinds for name in peer.keys() - known)
    found += [f"the field {name!r} of {count} of its peers" for name, count in sorted(more.items())]
    return tuple(found)


def _names(kind: type[GatewayDocument | Enrolment | PeerEntry]) -> set[str]:
    return {each.name for each in fields(kind)}


def _inside(inner: Network, outer: Network) -> bool:
    return contains(str(outer), str(inner))
