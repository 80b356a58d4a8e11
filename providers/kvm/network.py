"""libvirt networks (https://libvirt.org/formatnetwork.html), one per subnet of ours on a host."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Mapping
from typing import Any

from lxml import etree
from lxml.builder import E

from providers.kvm import driver
from providers.kvm.mark import NAMESPACE
from providers.port import Conflict, InvalidSpec, NetworkSpec

_TAG = f"{{{NAMESPACE}}}"


def network_name(network: NetworkSpec) -> str:
    """The libvirt name of a subnet of ours."""
    return f"isthmus-{network.name}"


def bridge_name(network: NetworkSpec) -> str:
    """The bridge of a subnet that libvirt makes: at most 15 characters, the same on every host."""
    return f"is-{hashlib.sha256(network.id.encode()).hexdigest()[:10]}"


def network_xml(network: NetworkSpec, broker_id: str) -> str:
    """The definition of a subnet on a host. Raises InvalidSpec for a mode that no KVM host can offer."""
    mark = etree.Element(f"{_TAG}network", nsmap={"isthmus": NAMESPACE})
    etree.SubElement(mark, f"{_TAG}broker").text = broker_id
    etree.SubElement(mark, f"{_TAG}id").text = network.id
    root = E.network(E.name(network_name(network)), E.metadata(mark))
    if network.mode == "bridge":
        if not network.bridge:
            raise InvalidSpec(f"network {network.name} is in mode bridge but names no bridge of the host")
        root.extend([E.forward(mode="bridge"), E.bridge(name=network.bridge)])
    elif network.mode in ("nat", "route"):
        root.extend(
            [
                E.forward(mode=network.mode),
                E.bridge(name=bridge_name(network), stp="off", delay="0"),
                E.mtu(size=str(network.mtu)),
            ]
        )
        if network.dns:  # guests were told of another name server: no dnsmasq is needed
            root.append(E.dns(enable="no"))
        prefix = ipaddress.ip_network(network.cidr).prefixlen
        root.append(E.ip(address=network.gateway, prefix=str(prefix)))
    else:
        raise InvalidSpec(
            f"network {network.name}: a KVM host offers modes bridge, nat and route, not {network.mode!r}"
        )
    return etree.tostring(root, pretty_print=True, encoding="unicode")


def ensure_network(connection: Any, host: str, network: NetworkSpec, broker_id: str) -> None:
    """Define and start the subnet's network; nothing when it is there. Raises Conflict, InvalidSpec.

    A missing bridge is noticed only when a VM starts on it: libvirt does not look before.
    """
    wanted = network_xml(network, broker_id)
    name = network_name(network)
    try:
        there = connection.networkLookupByName(name)
    except driver.LibvirtError as error:
        if not driver.is_code(error, driver.api.VIR_ERR_NO_NETWORK):
            raise
        there = connection.networkDefineXML(wanted)
    else:
        _check_same(host, name, _facts(there.XMLDesc(0)), _facts(wanted))
    if not there.isActive():
        with driver.ignoring(driver.api.VIR_ERR_OPERATION_INVALID):  # another caller was quicker
            there.create()
    if not there.autostart():
        there.setAutostart(1)


def networks_of(connection: Any, broker_id: str) -> dict[str, Any]:
    """Subnet id -> its network, of those that this broker made."""
    found: dict[str, Any] = {}
    for network in connection.listAllNetworks():
        with driver.ignoring(driver.api.VIR_ERR_NO_NETWORK):  # gone since it was listed
            mark = etree.fromstring(network.XMLDesc(0)).find(f"metadata/{_TAG}network")
            if mark is not None and mark.findtext(f"{_TAG}broker") == broker_id:
                found[mark.findtext(f"{_TAG}id") or ""] = network
    return found


def remove_network(connection: Any, host: str, network_id: str, broker_id: str) -> None:
    """Stop and undefine a subnet's network; a bridge that libvirt made goes with it. Raises Conflict while a domain is on it."""
    network = networks_of(connection, broker_id).get(network_id)
    if network is None:
        return
    root = etree.fromstring(network.XMLDesc(0))
    made = root.find("bridge") if root.find("ip") is not None else None
    bridge = made.get("name") if made is not None else None
    for domain in connection.listAllDomains():
        with driver.ignoring(driver.api.VIR_ERR_NO_DOMAIN):
            for source in etree.fromstring(domain.XMLDesc(0)).iterfind("devices/interface/source"):
                if source.get("network") == network.name() or (bridge and source.get("bridge") == bridge):
                    raise Conflict(f"host {host}: {domain.name()} is on the network {network.name()}")
    with driver.ignoring(driver.api.VIR_ERR_OPERATION_INVALID, driver.api.VIR_ERR_NO_NETWORK):
        if network.isActive():
            network.destroy()
    with driver.ignoring(driver.api.VIR_ERR_NO_NETWORK):
        network.undefine()


def _facts(xml: str) -> Mapping[str, str]:
    """What must agree for two definitions to be of one network."""
    root = etree.fromstring(xml)

    def attribute(path: str, name: str) -> str:
        element = root.find(path)
        return "" if element is None else element.get(name) or ""

    facts = {
        "id": root.findtext(f"metadata/{_TAG}network/{_TAG}id") or "",
        "mode": attribute("forward", "mode"),
        "bridge": attribute("bridge", "name"),
    }
    if (address := attribute("ip", "address")) != "":
        prefix = attribute("ip", "prefix") or attribute("ip", "netmask")
        facts["gateway"] = str(ipaddress.ip_interface(f"{address}/{prefix}"))
        facts["mtu"] = attribute("mtu", "size")
    return facts


def _check_same(host: str, name: str, there: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    different = [key for key in sorted({*there, *wanted}) if there.get(key, "") != wanted.get(key, "")]
    if different:
        told = "; ".join(
            f"{key} is {there.get(key) or 'unset'}, {wanted.get(key) or 'unset'} is wanted"
            for key in different
        )
        raise Conflict(
            f"host {host} has a network {name} of another definition: {told}. "
            f"Remove it there (virsh net-destroy, net-undefine) or give the network another name"
        )
