"""The machine itself, driven in a network namespace, with every command counted and a clock in hand."""

from __future__ import annotations

import os
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from vpn import keys
from vpn.agent import Agent
from vpn.firewall import Firewall
from vpn.gateway import Gateway
from vpn.link import Links
from vpn.plan import GatewaySpec, PeerSpec, plan
from vpn.run import run
from vpn.state import State
from vpn.userspace import Userspace
from vpn.wireguard import WireGuard

pytestmark = pytest.mark.lab

_, BOOT = keys.generate()
_, OWN = keys.generate()


class Counter:
    """Runs commands and counts those that set something."""

    def __init__(self) -> None:
        self.sets: list[str] = []

    def __call__(self, argv: Sequence[str], stdin: str = "") -> str:
        if argv[:2] == ["wg", "set"] or list(argv[:2]) == ["nft", "-f"]:
            self.sets.append(" ".join(argv))
        return run(argv, stdin)


class CountingLinks(Links):
    """Counts netlink changes too."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter

    def _change(self, interface: str, what: str, verb: str, **values: Any) -> None:
        self._counter.sets.append(f"{what} {verb}")
        super()._change(interface, what, verb, **values)

    def _route(self, interface: str, verb: str, cidr: str) -> None:
        self._counter.sets.append(f"route {verb}")
        super()._route(interface, verb, cidr)


class Bench:
    """An agent on the gateway whose calls are made one by one, at times of our choice."""

    def __init__(self, machine: Any, directory: Path) -> None:
        self.machine, self.now, self.counter = machine, 1000.0, Counter()
        # The socket directory of wireguard-go is shared with the rest of the machine here: a name of our own.
        self.interface = f"vt{os.getpid() % 100000}"
        self.userspace = Userspace(directory)
        self.gateway = Gateway(
            state=State(directory),
            wireguard=WireGuard(self.counter),
            links=CountingLinks(self.counter),
            firewall=Firewall(directory / "firewall.json", self.counter),
            userspace=self.userspace,
            wan="eth0",
        )
        self.agent = Agent(
            client=None,  # type: ignore[arg-type]
            gateway=self.gateway,
            state=self.gateway.state,
            clock=lambda: self.now,
            interface=self.interface,
        )

    def hold(self, *peers: PeerSpec) -> None:
        assert self.agent.accept(plan(GatewaySpec("gw", 1, ("10.10.2.0/24",)), peers))

    def reconcile(self) -> bool:
        return bool(self.machine.inside(self.agent.reconcile))

    def peers(self) -> dict[str, str]:
        told = self.machine.inside(lambda: run(["wg", "show", self.interface, "allowed-ips"]))
        return dict(line.split("\t") for line in told.splitlines())


@pytest.fixture
def bench(site: Any, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(site.gw, tmp_path)
    yield made
    made.machine.inside(lambda: made.gateway.teardown(made.interface))


def _node(number: int) -> PeerSpec:
    return PeerSpec(f"n{number:03}", "vm", keys.generate()[1], f"10.10.2.{number}")


def test_a_hundred_passes_without_a_difference_set_nothing(bench: Bench) -> None:
    bench.hold(*(_node(number) for number in range(2, 52)))
    assert bench.reconcile()
    assert bench.counter.sets
    bench.counter.sets.clear()
    for _ in range(100):
        assert not bench.reconcile()
    assert bench.counter.sets == []


def test_one_new_peer_costs_one_command(bench: Bench) -> None:
    nodes = [_node(number) for number in range(2, 12)]
    bench.hold(*nodes)
    bench.reconcile()
    bench.counter.sets.clear()
    new = _node(40)
    bench.hold(*nodes, new)
    assert bench.reconcile()
    (command,) = bench.counter.sets
    assert command.endswith(f"peer {new.public_key} persistent-keepalive 0 allowed-ips 10.10.2.40/32")


def test_a_bootstrap_key_is_dead_after_its_time(bench: Bench) -> None:
    bench.hold(PeerSpec("b", "bootstrap", BOOT, "169.254.64.9", expires_at=1900.0))
    bench.now = 1899.0
    bench.reconcile()
    assert bench.peers() == {BOOT: "169.254.64.9/32"}
    bench.now = 1900.0
    assert bench.reconcile()
    assert bench.peers() == {}


def test_an_address_that_changes_owner_moves_in_one_command(bench: Bench) -> None:
    old, new = _node(5), _node(5)
    bench.hold(old)
    bench.reconcile()
    bench.counter.sets.clear()
    bench.hold(new)
    bench.reconcile()
    assert bench.peers() == {new.public_key: "10.10.2.5/32"}
    assert [" remove" in command for command in bench.counter.sets] == [False, True]
    assert not bench.reconcile()


@pytest.mark.parametrize(
    "damage",
    [
        "ip route del 10.10.2.0/24",
        "ip addr del 169.254.64.1/32 dev {interface}",
        "ip addr add 10.77.0.1/24 dev {interface}",
        "ip link set {interface} mtu 1300",
        "ip link set {interface} down",
        "nft delete chain inet isthmus forward",
        "nft delete table inet isthmus",
        "wg set {interface} peer {stranger} allowed-ips 10.10.2.66/32",
        "wg set {interface} peer {stranger} allowed-ips 10.10.2.5/32",
        "wg set {interface} listen-port 4",
        "sh -c 'echo 0 >/proc/sys/net/ipv4/ip_forward'",
    ],
)
def test_what_somebody_breaks_is_repaired_in_one_pass(bench: Bench, damage: str) -> None:
    node = _node(5)
    bench.hold(node)
    bench.reconcile()
    words = shlex.split(damage.format(interface=bench.interface, stranger=BOOT))
    bench.machine.inside(lambda: run(words))
    assert bench.reconcile()
    assert not bench.reconcile()
    assert bench.peers() == {node.public_key: "10.10.2.5/32"}


def test_a_wireguard_go_that_dies_is_replaced_with_all_that_it_held(bench: Bench) -> None:
    node = _node(5)
    bench.hold(node)
    bench.reconcile()
    pid = bench.userspace.pid(bench.interface)
    if pid is None:
        pytest.skip("the kernel has WireGuard")
    os.kill(pid, signal.SIGKILL)
    _eventually(lambda: bench.machine.inside(lambda: Links().look(bench.interface)) is None)
    assert bench.reconcile()
    assert bench.userspace.pid(bench.interface) != pid
    assert bench.peers() == {node.public_key: "10.10.2.5/32"}
    assert not bench.reconcile()


def test_an_agent_that_comes_back_takes_the_tunnel_over_as_it_is(bench: Bench, tmp_path: Path) -> None:
    bench.hold(_node(5))
    bench.reconcile()
    pid = bench.userspace.pid(bench.interface)
    again = Bench(bench.machine, tmp_path)
    again.reconcile()
    assert again.counter.sets == []
    assert again.userspace.pid(bench.interface) == pid


def _eventually(check: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.02)
