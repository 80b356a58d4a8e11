"""Peers of a WireGuard interface, through the ``wg`` command (``wg(8)``).

``wg`` speaks to the kernel and to wireguard-go alike, reads all peers and splits large sets; netlink
libraries do less. Interfaces, addresses and routes are in ``vpn/link.py``. Keys of ours are passed by
file, never on a command line, where every process could read them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vpn.document import PeerEntry
from vpn.run import CommandError, Run, run

_ABSENT = ("No such device", "Protocol not supported", "Operation not supported")
"""What ``wg show`` says of an interface that is not there, and of one that is not WireGuard's."""

_BATCH = 1000
"""Peers in one command: some 130 bytes each, and a command line holds two megabytes."""


@dataclass(frozen=True)
class LivePeer:
    """A peer as WireGuard shows it. ``handshake_at`` in seconds since the epoch, 0 = never; bytes as counted."""

    public_key: str
    endpoint: str
    allowed_ips: frozenset[str]
    handshake_at: int
    rx_bytes: int
    tx_bytes: int
    keepalive: int


@dataclass(frozen=True)
class LiveInterface:
    """A WireGuard interface as it is. The private key is left out on purpose."""

    public_key: str
    listen_port: int
    peers: Mapping[str, LivePeer] = field(default_factory=dict)


class WireGuard:
    """The driver. ``run`` is injected, so that a test can count what was set."""

    def __init__(self, run: Run = run) -> None:
        self._run = run

    def dump(self, interface: str) -> LiveInterface | None:
        """The interface as it is, None when there is none. Raises CommandError."""
        try:
            text = self._run(["wg", "show", interface, "dump"], "")
        except CommandError as error:
            if any(words in str(error) for words in _ABSENT):
                return None
            raise
        return parse_dump(text)

    def set_interface(self, interface: str, *, private_key_file: Path, listen_port: int) -> None:
        """Give the interface its key and UDP port. Sessions under another key end."""
        argv = ["wg", "set", interface, "listen-port", str(listen_port), "private-key", str(private_key_file)]
        self._run(argv, "")

    def set_peers(self, interface: str, peers: Sequence[PeerEntry]) -> None:
        """Add or change these peers and no others. An address that another peer owns moves over in one step."""
        for start in range(0, len(peers), _BATCH):
            argv = ["wg", "set", interface]
            for peer in peers[start : start + _BATCH]:
                argv += ["peer", peer.public_key, "persistent-keepalive", str(peer.keepalive)]
                if peer.endpoint:
                    argv += ["endpoint", peer.endpoint]
                argv += ["allowed-ips", ",".join(peer.allowed_ips)]
            self._run(argv, "")

    def remove_peers(self, interface: str, public_keys: Sequence[str]) -> None:
        """Remove these peers."""
        for start in range(0, len(public_keys), _BATCH):
            argv = ["wg", "set", interface]
            for key in public_keys[start : start + _BATCH]:
                argv += ["peer", key, "remove"]
            self._run(argv, "")


def parse_dump(text: str) -> LiveInterface:
    """What ``wg show INTERFACE dump`` printed: a line of the interface, then one of each peer, tab-separated."""
    first, *rest = text.splitlines()
    _, public_key, listen_port, _ = first.split("\t")
    peers = {}
    for line in rest:
        key, _, endpoint, allowed_ips, handshake, rx, tx, keepalive = line.split("\t")
        peers[key] = LivePeer(
            public_key=key,
            endpoint="" if endpoint == "(none)" else endpoint,
            allowed_ips=frozenset() if allowed_ips == "(none)" else frozenset(allowed_ips.split(",")),
            handshake_at=int(handshake),
            rx_bytes=int(rx),
            tx_bytes=int(tx),
            keepalive=0 if keepalive == "off" else int(keepalive),
        )
    return LiveInterface("" if public_key == "(none)" else public_key, int(listen_port), peers)
