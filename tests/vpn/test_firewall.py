"""The gateway's packet filter as text, and when it is loaded. What it lets through is in test_enrolment.py."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from vpn.firewall import Firewall, ruleset
from vpn.plan import GatewaySpec, plan
from vpn.run import CommandError

DOCUMENT = plan(GatewaySpec("gw", 1, ("10.10.2.0/24",), listen_port=51999, mtu=1380), [])


class Kernel:
    """Holds one table, and prints it in its own words."""

    def __init__(self) -> None:
        self.table = ""
        self.loads = 0

    def __call__(self, argv: Sequence[str], stdin: str = "") -> str:
        if "list" in argv:
            if not self.table:
                raise CommandError("nft: Error: No such file or directory")
            return f"listed: {self.table}"
        self.loads += 1
        self.table = stdin if "{" in stdin else ""
        return ""


def test_the_wan_filter_stands_only_with_a_wan() -> None:
    assert "eth9" in ruleset(DOCUMENT, "eth9")
    without = ruleset(DOCUMENT)
    assert "udp dport" not in without
    assert "169.254.64.0/18 drop" in without


def test_the_mss_is_clamped_to_the_tunnels_mtu_for_both_families_and_ways() -> None:
    text = ruleset(DOCUMENT, "eth0")
    assert text.count("maxseg size set 1340") == 2
    assert text.count("maxseg size set 1320") == 2


def test_the_open_port_is_that_of_the_document() -> None:
    assert 'iifname "eth0" udp dport 51999 accept' in ruleset(DOCUMENT, "eth0")


def test_it_is_loaded_once_and_again_only_when_something_differs(tmp_path: Path) -> None:
    kernel = Kernel()
    memory = tmp_path / "firewall.json"
    text = ruleset(DOCUMENT, "eth0")
    assert Firewall(memory, kernel).ensure(text)
    for _ in range(100):
        # A new object each time: what was loaded is remembered over a restart of the agent.
        assert not Firewall(memory, kernel).ensure(text)
    assert kernel.loads == 1
    kernel.table = "somebody was here"
    assert Firewall(memory, kernel).ensure(text)
    kernel.table = ""
    assert Firewall(memory, kernel).ensure(text)
    assert Firewall(memory, kernel).ensure(ruleset(DOCUMENT, "eth1"))
    assert kernel.loads == 4


def test_a_lost_memory_costs_one_load_and_nothing_else(tmp_path: Path) -> None:
    kernel, memory = Kernel(), tmp_path / "firewall.json"
    text = ruleset(DOCUMENT)
    Firewall(memory, kernel).ensure(text)
    memory.write_text("{broken")
    assert Firewall(memory, kernel).ensure(text)
    assert not Firewall(memory, kernel).ensure(text)


def test_remove_forgets_it(tmp_path: Path) -> None:
    kernel, memory = Kernel(), tmp_path / "firewall.json"
    firewall = Firewall(memory, kernel)
    firewall.ensure(ruleset(DOCUMENT))
    firewall.remove()
    firewall.remove()
    assert kernel.table == ""
    assert not memory.exists()


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("nft"), reason="needs root and nft")
@pytest.mark.parametrize("wan", ["", "eth0"])
def test_nft_takes_the_text(wan: str) -> None:
    done = subprocess.run(
        ["unshare", "--net", "nft", "--check", "-f", "-"],
        input=ruleset(DOCUMENT, wan),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
