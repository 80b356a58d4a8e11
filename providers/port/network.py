"""A subnet of ours and a VM's place in it, as a host is to offer them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NetworkSpec:
    """One subnet of ours as a host must offer it.

    ``mode``: ``bridge`` uses an existing bridge of the host, named ``bridge``; ``nat`` and ``route`` have the
    host make the subnet itself, with the host at address ``gateway``.
    """

    id: str
    name: str
    mode: str
    cidr: str
    gateway: str
    bridge: str = ""
    mtu: int = 1500
    dns: tuple[str, ...] = ()


@dataclass(frozen=True)
class NICSpec:
    """A virtual NIC with the addresses that the broker leased. ``prefix_len`` is the subnet's.

    ``address`` is the primary one, with which the guest speaks first; it answers at the ``secondary`` ones too.
    """

    network: NetworkSpec
    mac: str
    address: str
    prefix_len: int
    secondary: tuple[str, ...] = ()

    @property
    def addresses(self) -> tuple[str, ...]:
        """All of them, the primary one first."""
        return (self.address, *self.secondary)
