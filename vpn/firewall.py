"""The gateway's packet filter: one nftables table, replaced as a whole and only when it differs (``nft(8)``)."""

from __future__ import annotations

import json
from pathlib import Path

from vpn.document import GatewayDocument
from vpn.run import CommandError, Run, run

TABLE = "isthmus"


def ruleset(document: GatewayDocument, wan: str = "") -> str:
    """The table as text for ``nft -f``. ``wan`` is the interface to the internet; without it there is no WAN filter.

    - From the WAN only WireGuard's UDP port gets in, and what keeps IP itself alive: answers, echo, path MTU,
      neighbour discovery. New connections from the WAN are forwarded only where a DNAT rule of the host asks for it.
    - A bootstrap peer reaches the enrolment port and nothing else, here or beyond. Nobody else reaches that port.
    - Enrolled VMs are forwarded to and from the site's own networks, and not out of the WAN.
    - TCP's MSS is clamped both ways, since path MTU discovery fails wherever ICMP is dropped.
    """
    wg, pool = document.interface, document.enrolment.pool
    link, port = document.enrolment.address, document.enrolment.port
    inward = [
        'iifname "lo" accept',
        f'iifname "{wg}" ip saddr {pool} ip daddr {link} tcp dport {port} accept',
        f'iifname "{wg}" ip saddr {pool} drop',
        f"ip daddr {link} tcp dport {port} drop",
        f'iifname != "{wg}" ip daddr {link} drop',
    ]
    forward = [
        f"ip saddr {pool} drop",
        f"ip daddr {pool} drop",
    ]
    for way in ("iifname", "oifname"):
        syn = f'{way} "{wg}" tcp flags syn / syn,rst tcp option maxseg size set'
        forward += [
            f"meta nfproto ipv4 {syn} {document.mtu - 40}",
            f"meta nfproto ipv6 {syn} {document.mtu - 60}",
        ]
    if wan:
        inward += [
            f'iifname "{wan}" ct state established,related accept',
            f'iifname "{wan}" udp dport {document.listen_port} accept',
            f'iifname "{wan}" icmp type {{ destination-unreachable, echo-request, time-exceeded, '
            "parameter-problem } accept",
            f'iifname "{wan}" icmpv6 type {{ destination-unreachable, packet-too-big, time-exceeded, '
            "parameter-problem, echo-request, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } accept",
            f'iifname "{wan}" ip6 saddr fe80::/10 udp dport 546 accept',
            f'iifname "{wan}" drop',
        ]
        forward += [
            "ct state established,related accept",
            f'iifname "{wg}" oifname "{wan}" drop',
            f'iifname "{wan}" oifname "{wg}" drop',
            f'iifname "{wan}" ct status dnat accept',
            f'iifname "{wan}" drop',
        ]
    lines = [
        # Naming the table first makes the deletion succeed also when there is none: one atomic transaction.
        f"table inet {TABLE}",
        f"delete table inet {TABLE}",
        f"table inet {TABLE} {{",
        "  chain input {",
        "    type filter hook input priority filter; policy accept;",
        *(f"    {rule}" for rule in inward),
        "  }",
        "  chain forward {",
        "    type filter hook forward priority filter; policy accept;",
        *(f"    {rule}" for rule in forward),
        "  }",
        "}",
        "",
    ]
    return "\n".join(lines)


class Firewall:
    """Keeps the kernel's table equal to a ruleset.

    nft prints a table in words of its own, so what it printed right after the last load is kept in ``memory`` (a
    file) next to the text that was loaded; a difference in either means that the table must be loaded again.
    """

    def __init__(self, memory: Path, run: Run = run) -> None:
        self._memory = memory
        self._run = run

    def ensure(self, text: str) -> bool:
        """Load the ruleset when it, or the kernel's table, differs from the last load. Tells whether it did."""
        listing = self._listing()
        if listing and self._remembered() == (text, listing):
            return False
        self._run(["nft", "-f", "-"], text)
        kept = json.dumps({"ruleset": text, "listing": self._listing()})
        self._memory.write_text(kept, encoding="utf-8")
        return True

    def remove(self) -> None:
        """Remove the table; nothing when there is none."""
        self._run(["nft", "-f", "-"], f"table inet {TABLE}\ndelete table inet {TABLE}\n")
        self._memory.unlink(missing_ok=True)

    def _listing(self) -> str:
        try:
            return self._run(["nft", "--stateless", "list", "table", "inet", TABLE], "")
        except CommandError as error:
            if "No such file or directory" in str(error):
                return ""
            raise

    def _remembered(self) -> tuple[str, str]:
        try:
            kept = json.loads(self._memory.read_text(encoding="utf-8"))
            return kept["ruleset"], kept["listing"]
        except (OSError, ValueError, KeyError, TypeError):
            return "", ""
