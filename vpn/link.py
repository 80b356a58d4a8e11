"""Interfaces, addresses and routes, through rtnetlink (``rtnetlink(7)``)."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from ipaddress import ip_interface, ip_network
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

ROUTE_PROTOCOL = 161
"""Marks the routes that are ours (``rtm_protocol``; up to 255, unassigned), so that no other is removed."""

_MAIN_TABLE = 254
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_IFF_UP = 1


class LinkError(Exception):
    """The kernel refused a change of an interface, address or route, in words."""


@dataclass(frozen=True)
class LiveLink:
    """An interface as it is: its addresses and *our* routes to it, as CIDR texts; link-local ones left out."""

    mtu: int
    up: bool
    addresses: frozenset[str]
    routes: frozenset[str]


class Links:
    """The driver: of the network namespace that the calling thread is in."""

    def look(self, interface: str) -> LiveLink | None:
        """The interface as it is, None when there is none."""
        try:
            return self._look(interface)
        except NetlinkError as error:
            if error.code == errno.ENODEV:  # it went between two questions
                return None
            raise

    def _look(self, interface: str) -> LiveLink | None:
        with IPRoute() as netlink:
            index = _index(netlink, interface)
            if index is None:
                return None
            link = netlink.get_links(index)[0]
            addresses = frozenset(
                f"{message.get_attr('IFA_ADDRESS')}/{message['prefixlen']}"
                for family in _FAMILIES
                for message in netlink.get_addr(family=family, index=index)
                if not ip_interface(message.get_attr("IFA_ADDRESS")).is_link_local or family == socket.AF_INET
            )
            routes = frozenset(
                f"{message.get_attr('RTA_DST')}/{message['dst_len']}"
                for family in _FAMILIES
                for message in netlink.get_routes(family=family, table=_MAIN_TABLE, oif=index)
                if message["proto"] == ROUTE_PROTOCOL and message.get_attr("RTA_DST")
            )
            up = bool(link["flags"] & _IFF_UP)
            return LiveLink(mtu=link.get_attr("IFLA_MTU"), up=up, addresses=addresses, routes=routes)

    def create_wireguard(self, interface: str) -> bool:
        """Make a WireGuard interface in the kernel; False when the kernel has no WireGuard."""
        with IPRoute() as netlink:
            try:
                netlink.link("add", ifname=interface, kind="wireguard")
            except NetlinkError as error:
                if error.code in (errno.EOPNOTSUPP, errno.ENODEV):
                    return False
                if error.code == errno.EEXIST:
                    return True
                raise LinkError(f"cannot make interface {interface}: {error}") from error
        return True

    def delete(self, interface: str) -> None:
        """Remove the interface; nothing when there is none."""
        with IPRoute() as netlink:
            index = _index(netlink, interface)
            if index is not None:
                netlink.link("del", index=index)

    def set_up(self, interface: str, mtu: int) -> None:
        """Set the MTU in bytes, and the interface up."""
        self._change(interface, "link", "set", mtu=mtu, state="up")

    def add_address(self, interface: str, cidr: str) -> None:
        """Add an address; nothing when it is there."""
        address = ip_interface(cidr)
        self._change(
            interface,
            "addr",
            "replace",
            address=str(address.ip),
            prefixlen=address.network.prefixlen,
        )

    def drop_address(self, interface: str, cidr: str) -> None:
        """Remove an address."""
        address = ip_interface(cidr)
        self._change(interface, "addr", "del", address=str(address.ip), prefixlen=address.network.prefixlen)

    def add_route(self, interface: str, cidr: str) -> None:
        """Route a prefix to the interface, whoever had it before."""
        self._route(interface, "replace", cidr)

    def drop_route(self, interface: str, cidr: str) -> None:
        """Remove a route of ours."""
        self._route(interface, "del", cidr)

    def _route(self, interface: str, verb: str, cidr: str) -> None:
        network = ip_network(cidr)
        family = socket.AF_INET if network.version == 4 else socket.AF_INET6
        with IPRoute() as netlink:
            index = _index(netlink, interface)
            if index is None:
                raise LinkError(f"interface {interface} is gone")
            try:
                netlink.route(verb, family=family, dst=cidr, oif=index, proto=ROUTE_PROTOCOL)
            except NetlinkError as error:
                raise LinkError(f"route {verb} {cidr} dev {interface}: {error}") from error

    def _change(self, interface: str, what: str, verb: str, **values: Any) -> None:
        with IPRoute() as netlink:
            index = _index(netlink, interface)
            if index is None:
                raise LinkError(f"interface {interface} is gone")
            try:
                getattr(netlink, what)(verb, index=index, **values)
            except NetlinkError as error:
                raise LinkError(f"{what} {verb} on {interface}: {error}") from error


def _index(netlink: Any, interface: str) -> int | None:
    found = netlink.link_lookup(ifname=interface)
    return int(found[0]) if found else None
