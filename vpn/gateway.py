"""This machine as a gateway: makes interface, peers, addresses, routes and filter as a document says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from vpn.document import GatewayDocument, PeerEntry
from vpn.firewall import Firewall, ruleset
from vpn.link import Links
from vpn.reconcile import Changes, difference
from vpn.run import CommandError
from vpn.state import State
from vpn.userspace import Userspace
from vpn.wireguard import LiveInterface, WireGuard

_log = structlog.get_logger("vpn.gateway")

_SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    # Loose: strict mode drops what comes in by another way than it would go out, as during a change of routes.
    "net/ipv4/conf/{interface}/rp_filter": "2",
}


@dataclass
class Gateway:
    """The machine. All parts are injected; every method works in the caller's network namespace."""

    state: State
    wireguard: WireGuard
    links: Links
    firewall: Firewall
    userspace: Userspace
    wan: str = ""

    def apply(self, document: GatewayDocument, peers: Sequence[PeerEntry]) -> bool:
        """Make it so, and tell whether anything had to change. A second call changes nothing.

        The filter comes before the peers, so that no bootstrap peer is ever up without it. Raises CommandError,
        LinkError or UserspaceError; the next call goes on where this one stopped.
        """
        self.userspace.reap()
        public_key = self.state.public_key()
        name = document.interface
        created = self._create(name)
        tuned = self._tune(name)
        filtered = self.firewall.ensure(ruleset(document, self.wan))
        live, link = self.wireguard.dump(name), self.links.look(name)
        if live is None or link is None:
            raise CommandError(
                f"interface {name} exists and is not WireGuard's; remove it or use another --interface"
            )
        changes = difference(document, peers, public_key, live, link)
        self._change(document, changes)
        if created or tuned or filtered or changes:
            _log.info(
                "applied",
                generation=document.generation,
                created=created,
                filter=filtered,
                peers=len(peers),
                set=[peer.id for peer in changes.set_peers],
                removed=len(changes.remove_peers),
            )
            return True
        return False

    def observe(self, interface: str) -> LiveInterface | None:
        """The interface and its peers as they are."""
        return self.wireguard.dump(interface)

    def teardown(self, interface: str) -> None:
        """Remove the interface, wireguard-go and the filter. The key and the last document stay on disk."""
        self.remove(interface)
        self.firewall.remove()

    def remove(self, interface: str) -> None:
        """Remove an interface that is ours, and its wireguard-go."""
        self.userspace.stop(interface)
        self.links.delete(interface)

    def _create(self, interface: str) -> bool:
        if self.links.look(interface) is not None:
            return False
        if not self.links.create_wireguard(interface):
            pid = self.userspace.start(interface, lambda: self._answers(interface))
            _log.info("started wireguard-go, as the kernel has no WireGuard", interface=interface, pid=pid)
        return True

    def _answers(self, interface: str) -> bool:
        try:
            return self.wireguard.dump(interface) is not None
        except CommandError:
            return False

    def _change(self, document: GatewayDocument, changes: Changes) -> None:
        name = document.interface
        if changes.set_interface:
            self.wireguard.set_interface(
                name, private_key_file=self.state.key_file, listen_port=document.listen_port
            )
        for cidr in changes.add_addresses:
            self.links.add_address(name, cidr)
        if changes.set_up:
            self.links.set_up(name, document.mtu)
        for cidr in changes.drop_addresses:
            self.links.drop_address(name, cidr)
        if changes.set_peers:
            self.wireguard.set_peers(name, changes.set_peers)
        if changes.remove_peers:
            self.wireguard.remove_peers(name, changes.remove_peers)
        for cidr in changes.add_routes:
            self.links.add_route(name, cidr)
        for cidr in changes.drop_routes:
            self.links.drop_route(name, cidr)

    def _tune(self, interface: str) -> bool:
        changed = False
        for key, value in _SYSCTLS.items():
            path = Path("/proc/sys") / key.format(interface=interface)
            try:
                if path.read_text(encoding="ascii").strip() != value:
                    path.write_text(value, encoding="ascii")
                    changed = True
            except OSError as error:
                _log.warning(
                    "cannot set a sysctl; set it yourself", path=str(path), value=value, error=str(error)
                )
        return changed
