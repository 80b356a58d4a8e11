"""The lab's wires: links between nodes, bridges, and the filters of its internet."""

from __future__ import annotations

from collections.abc import Sequence

from lab.node import Node


def connect(left: Node, left_name: str, right: Node, right_name: str) -> None:
    """A cable between two nodes: a veth pair that never exists outside of them."""
    left.ip(
        f"link add {left_name} type veth peer name {right_name} netns {right.pid}", f"link set {left_name} up"
    )
    right.ip(f"link set {right_name} up")


def bridge(node: Node, name: str, ports: Sequence[str] = (), address: str = "") -> None:
    """A bridge of the node, with ``ports`` plugged in and the node itself at ``address`` (with prefix length)."""
    lines = [f"link add {name} type bridge forward_delay 0 stp_state 0"]
    lines += [f"link set {port} master {name}" for port in ports]
    lines.append(f"link set {name} up")
    if address:
        lines.append(f"addr add {address} dev {name}")
    node.ip(*lines)


def forward(node: Node) -> None:
    """Let the node route."""
    node.sysctl("net.ipv4.ip_forward", 1)


def masquerade(node: Node, interface: str, inside: str) -> None:
    """Ordinary NAT: what comes from ``inside`` leaves through ``interface`` under the node's own address."""
    node.run(
        ["nft", "-f", "-"],
        input=f"""\
table ip site {{
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname "{interface}" ip saddr {inside} masquerade
    }}
}}
""",
    )


def route_only(node: Node, networks: Sequence[str]) -> None:
    """Make the node an internet: it forwards between ``networks`` and drops all else, private addresses first."""
    public = ", ".join(networks)
    node.run(
        ["nft", "-f", "-"],
        input=f"""\
table ip internet {{
    chain forward {{
        type filter hook forward priority filter; policy drop;
        ip saddr {{ {public} }} ip daddr {{ {public} }} accept
    }}
}}
""",
    )
