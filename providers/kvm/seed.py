"""The NoCloud seed: an ISO labelled ``cidata`` with meta-data, user-data and network-config.

Source: https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html and network-config-format-v2.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence

import pycdlib

from providers.port import NICSpec, VMSpec

_PLAIN = re.compile(r"^[A-Za-z0-9][A-Za-z0-9@+/=._-]*( [A-Za-z0-9@+/=._-]+)*$")
"""Texts that YAML reads back as the same text without quotes (given that they do not look like a number)."""

_WORDS = frozenset({"false", "n", "no", "null", "off", "on", "true", "y", "yes"})
"""What YAML 1.1, which cloud-init reads, takes for a truth or for nothing."""

_EMPTY_USER_DATA = "#cloud-config\n{}\n"


def meta_data(spec: VMSpec) -> str:
    """Identity and keys of the VM, as YAML."""
    lines = [f"instance-id: {_scalar(spec.id)}", f"local-hostname: {_scalar(spec.hostname or spec.name)}"]
    if spec.ssh_keys:
        lines += ["public-keys:", *(f"  - {_scalar(key.strip())}" for key in spec.ssh_keys)]
    return "\n".join(lines) + "\n"


def network_config(nics: Sequence[NICSpec]) -> str:
    """Static addresses by MAC, as YAML (version 2). The default route goes through the first NIC."""
    lines = ["version: 2"]
    if nics:
        lines.append("ethernets:")
    for number, nic in enumerate(nics):
        lines += [
            f"  nic{number}:",
            "    match:",
            f"      macaddress: '{nic.mac.lower()}'",
            f"    mtu: {nic.network.mtu}",
            "    dhcp4: false",
            "    addresses:",
            *(f"      - {address}/{nic.prefix_len}" for address in nic.addresses),
        ]
        if number == 0 and nic.network.gateway:
            # Not a route: where ifupdown renders it, cloud-init would need net-tools for that, and say nothing.
            lines.append(f"    gateway4: {nic.network.gateway}")
        if servers := _name_servers(nic):
            lines += ["    nameservers:", "      addresses:", *(f"        - {server}" for server in servers)]
    return "\n".join(lines) + "\n"


def seed_iso(spec: VMSpec) -> bytes:
    """The whole ISO image (ISO 9660 with Joliet and Rock Ridge)."""
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="cidata")
    files = {
        "meta-data": meta_data(spec),
        "user-data": spec.user_data or _EMPTY_USER_DATA,
        "network-config": network_config(spec.nics),
    }
    for name, text in files.items():
        data = text.encode()
        iso_name = f"/{name.upper().replace('-', '')[:8]}.;1"
        iso.add_fp(io.BytesIO(data), len(data), iso_name, rr_name=name, joliet_path=f"/{name}")
    target = io.BytesIO()
    iso.write_fp(target)
    iso.close()
    return target.getvalue()


def _name_servers(nic: NICSpec) -> Sequence[str]:
    """The subnet's own, else the host, whose dnsmasq answers where libvirt makes the subnet."""
    if nic.network.dns or nic.network.mode == "bridge" or not nic.network.gateway:
        return nic.network.dns
    return (nic.network.gateway,)


def _scalar(text: str) -> str:
    """As a YAML scalar: plain where that is safe, else as JSON, which YAML includes."""
    plain = _PLAIN.fullmatch(text) and not text[0].isdigit() and text.lower() not in _WORDS
    return text if plain else json.dumps(text)
