"""Addresses of the private network: which prefixes clash, which address is free, which MAC goes with it.

Pure functions: the broker holds the leases and hands in what is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

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


def free_address(cidr: str, taken: Set[str], gateway: str | None = None, wanted: str | None = None) -> str:
    """A free host address of the prefix: ``wanted`` when given, else the lowest.

    ``taken`` holds leases (and addresses in quarantine); ``gateway`` is never given out. The network and
    broadcast addresses of IPv4 prefixes shorter than /31 are not host addresses (RFC 3021), nor is the
    first address of an IPv6 prefix (the subnet-router anycast address, RFC 4291 2.6.1).
    Raises AddressError in words: not in the subnet, network or broadcast address, taken, or subnet full.
    """
    subnet = network_of(cidr)
    used = {_address_of(text) for text in taken}
    if gateway is not None:
        used.add(_address_of(gateway))
    if wanted is not None:
        return str(_check(subnet, used, _address_of(wanted), gateway))
    first, last = _host_range(subnet)
    # At most len(used) candidates can be taken, so this ends soon also in an IPv6 /64.
    for value in range(first, last + 1):
        candidate = type(subnet.network_address)(value)
        if candidate not in used:
            return str(candidate)
    raise AddressError(f"subnet {subnet} is full: all of its {last - first + 1} addresses are taken")


def mac_of(address: str) -> str:
    """The MAC that goes with an IPv4 address, always the same one.

    A re-used address with another MAC is unreachable until every neighbour's ARP entry has aged.
    ``52:54`` is locally administered and unicast (IEEE 802, bits 0 and 1 of the first octet).
    """
    parsed = _address_of(address)
    if not isinstance(parsed, IPv4Address):
        raise AddressError(f"{address} is not an IPv4 address; a MAC is made of its four bytes")
    return ":".join(["52", "54", *(f"{byte:02x}" for byte in parsed.packed)])


def _share(a: Network, b: Network) -> bool:
    if isinstance(a, IPv4Network):
        return isinstance(b, IPv4Network) and a.overlaps(b)
    return isinstance(b, IPv6Network) and a.overlaps(b)


def _address_of(text: str) -> Address:
    try:
        return ip_address(text)
    except ValueError as error:
        raise AddressError(f"{text!r} is not an IP address") from error


def _host_range(subnet: Network) -> tuple[int, int]:
    first, last = int(subnet.network_address), int(subnet.broadcast_address)
    if subnet.max_prefixlen - subnet.prefixlen <= 1:
        return first, last
    return first + 1, last - 1 if isinstance(subnet, IPv4Network) else last


def _check(subnet: Network, used: Set[Address], wanted: Address, gateway: str | None) -> Address:
    if wanted not in subnet:
        raise AddressError(f"{wanted} is not in subnet {subnet}")
    first, last = _host_range(subnet)
    if int(wanted) < first:
        raise AddressError(f"{wanted} is the network address of subnet {subnet}")
    if int(wanted) > last:
        raise AddressError(f"{wanted} is the broadcast address of subnet {subnet}")
    if gateway is not None and wanted == _address_of(gateway):
        raise AddressError(f"{wanted} is the gateway of subnet {subnet}")
    if wanted in used:
        raise AddressError(f"{wanted} is taken")
    return wanted
