"""Addresses of the private network: which prefixes clash, which address is free.

Pure functions: the broker holds the leases and hands in what is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from socket import AF_INET, inet_pton

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


class AddressError(ValueError):
    """An address or prefix that cannot be used, in words for the user."""


def network_of(cidr: str) -> Network:
    """The prefix of a CIDR text. Raises AddressError; host bits that are set are named with the mend."""
    try:
        return ip_network(cidr)
    except ValueError as error:
        try:
            meant = ip_network(cidr, strict=False)
        except ValueError:
            raise AddressError(f"{cidr!r} is not a CIDR prefix such as 10.20.1.0/24") from error
        raise AddressError(f"{cidr} has host bits set; write {meant}") from error


def overlapping(cidr: str, others: Iterable[str]) -> list[str]:
    """Those of ``others`` that share an address with ``cidr``: equal, inside it, or around it.

    IPv4 and IPv6 never overlap. Two prefixes can share addresses only if one contains the other.
    Raises AddressError for a text that is no prefix.
    """
    wanted = network_of(cidr)
    return [other for other in others if _share(wanted, network_of(other))]


def contains(cidr: str, inner: str) -> bool:
    """Whether all of ``inner`` (a prefix or one address) lies in ``cidr``. Raises AddressError."""
    outer, net = network_of(cidr), network_of(inner)
    return _share(outer, net) and net.prefixlen >= outer.prefixlen


class Pool:
    """The free addresses of one prefix; each is given out once.

    ``taken`` holds leases (and addresses in quarantine); ``gateway`` is never given out. The network and
    broadcast addresses of IPv4 prefixes shorter than /31 are not host addresses (RFC 3021), nor is the
    first address of an IPv6 prefix (the subnet-router anycast address, RFC 4291 2.6.1).
    Raises AddressError for a text that is no address or prefix.
    """

    def __init__(self, cidr: str, taken: Iterable[str], gateway: str | None = None) -> None:
        self._subnet = network_of(cidr)
        self._gateway = gateway
        # As numbers: of a hundred thousand, each as an object of its own would take half a second.
        self._used = {_number_of(text, self._subnet.version) for text in taken}
        if gateway is not None:
            self._used.add(_number_of(gateway, self._subnet.version))
        self._first, self._last = _host_range(self._subnet)
        self._lowest = self._first
        """No address below is free."""

    def __len__(self) -> int:
        used = sum(1 for number in self._used if self._first <= number <= self._last)
        return self._last - self._first + 1 - used

    def take(self, wanted: str | None = None) -> str:
        """A free host address: ``wanted`` when given, else the lowest.

        Raises AddressError in words: not in the subnet, network or broadcast address, taken, or subnet full.
        """
        number = self._find() if wanted is None else self._check(_address_of(wanted))
        self._used.add(number)
        return str(type(self._subnet.network_address)(number))

    def give_back(self, address: str) -> None:
        """Make an address that was taken free again."""
        freed = _number_of(address, self._subnet.version)
        self._used.discard(freed)
        self._lowest = max(self._first, min(self._lowest, freed))

    def _find(self) -> int:
        # At most len(used) candidates can be taken, so this ends soon also in an IPv6 /64.
        for number in range(self._lowest, self._last + 1):
            if number not in self._used:
                self._lowest = number + 1
                return number
        self._lowest = self._last + 1
        total = self._last - self._first + 1
        raise AddressError(f"subnet {self._subnet} is full: all of its {total} addresses are taken")

    def _check(self, wanted: Address) -> int:
        subnet = self._subnet
        if wanted not in subnet:
            raise AddressError(f"{wanted} is not in subnet {subnet}")
        if int(wanted) < self._first:
            raise AddressError(f"{wanted} is the network address of subnet {subnet}")
        if int(wanted) > self._last:
            raise AddressError(f"{wanted} is the broadcast address of subnet {subnet}")
        if self._gateway is not None and wanted == _address_of(self._gateway):
            raise AddressError(f"{wanted} is the gateway of subnet {subnet}")
        if int(wanted) in self._used:
            raise AddressError(f"{wanted} is taken")
        return int(wanted)


def free_address(cidr: str, taken: Set[str], gateway: str | None = None, wanted: str | None = None) -> str:
    """One free host address of the prefix, as ``Pool.take`` gives it. Raises AddressError."""
    return Pool(cidr, taken, gateway).take(wanted)


def _share(a: Network, b: Network) -> bool:
    if isinstance(a, IPv4Network):
        return isinstance(b, IPv4Network) and a.overlaps(b)
    return isinstance(b, IPv6Network) and a.overlaps(b)


def _address_of(text: str) -> Address:
    try:
        return ip_address(text)
    except ValueError as error:
        raise AddressError(f"{text!r} is not an IP address") from error


def _number_of(text: str, version: int) -> int:
    """The address as a number; of the other family one that no address of this one has."""
    try:
        # The C library reads one in a tenth of the time that ipaddress takes (inet_pton(3)).
        if version == 4:
            return int.from_bytes(inet_pton(AF_INET, text), "big")
    except (OSError, ValueError):
        pass  # said in words below
    address = _address_of(text)
    return int(address) if address.version == version else -1 - int(address)


def _host_range(subnet: Network) -> tuple[int, int]:
    first, last = int(subnet.network_address), int(subnet.broadcast_address)
    if subnet.max_prefixlen - subnet.prefixlen <= 1:
        return first, last
    return first + 1, last - 1 if isinstance(subnet, IPv4Network) else last
