"""The demonstration: a full private pool bursts into a cloud, and the burst VM answers at its private address."""

from __future__ import annotations

import re
import shlex
import time
from dataclasses import dataclass

from lab.lab import CLOUD_SITE, FLAVOR, HOST_VCPUS, IMAGE, KEY_PAIR, NETWORK, Lab, LabError, PeerCounters
from lab.timeline import Timeline, Watcher
from lab.wait import until

BOOT_S = 120.0
"""The longest that a guest may take to boot, in emulation on a machine with other things to do."""
POOL = tuple(f"web-{number}" for number in range(1, 2 * HOST_VCPUS + 1))
BURST = f"web-{2 * HOST_VCPUS + 1}"


@dataclass(frozen=True)
class Answer:
    """A page that a campus guest fetched from the burst VM, and what the tunnel counted meanwhile."""

    status: int
    text: str
    before: PeerCounters
    after: PeerCounters


@dataclass(frozen=True)
class Burst:
    """A VM that burst. ``seconds`` from the request to the first answer at its private address."""

    name: str
    site: str
    address: str
    seconds: float
    answer: Answer


class Demo:
    """The steps, in order. Each tells the timeline what it reached, and raises one of lab.lab.ERRORS otherwise."""

    def __init__(self, lab: Lab, timeline: Timeline) -> None:
        self.lab = lab
        self.timeline = timeline
        self.client = lab.campus.client
        self.events = Watcher(lab.campus.client, timeline)

    def run(self) -> Burst:
        """All of it."""
        self.fill_the_pool()
        burst = self.burst()
        self.let_the_load_fall()
        return burst

    def fill_the_pool(self) -> None:
        """Real guests on both hosts, until no vCPU is left; the policy opens."""
        self.timeline.step(f"asking for {POOL[0]} to {POOL[-1]}, one vCPU each, on {NETWORK}")
        for name in POOL:
            self._create(name)
        for name in POOL:
            self.client.vms.get(name).wait_until("running", timeout=BOOT_S)
        hosts = list(self.client.hosts.list(site="campus"))
        used = ", ".join(
            f"{host.name} {host.vcpus_total - host.vcpus_free:g}/{host.vcpus_total:g}" for host in hosts
        )
        if any(host.vcpus_free for host in hosts):
            raise LabError(f"the pool should be full, but is not: vCPUs in use: {used}")
        self.timeline.step(f"pool full: vCPUs in use: {used}")
        self.events.until("policy.opened")
        for name in POOL:
            address = self._address(name)
            page = until(lambda at=address: self.lab.page(at), BOOT_S, f"an answer of {name} at {address}")  # type: ignore[misc]
            self.timeline.step(f"{name} answers on the campus: {page.strip()}")

    def burst(self) -> Burst:
        """One VM more: it goes to the cloud, joins the private network and answers a campus guest."""
        self.timeline.step(f"asking for {BURST}; nothing else is said about where it shall run")
        asked = time.monotonic()
        self._create(BURST)
        self.events.until("vm.placed", BURST)
        vm = self.client.vms.get(BURST)
        if vm.site != CLOUD_SITE or vm.address is None:
            raise LabError(f"{BURST} should be on {CLOUD_SITE}, but is on {vm.site}")
        for site in self.client.vms.why(BURST).sites:
            self.timeline.say(f"why {BURST}: {site.site}: {site.verdict}")
        self._first_answer(vm.address)
        seconds = time.monotonic() - asked
        self.events.until("peer.enrolled", BURST)
        answer = self.fetch(vm.address)
        if answer.status != 200 or answer.text != f"hello from {BURST} at {vm.address}":
            raise LabError(f"{BURST} answered {answer.status} {answer.text!r}")
        self.timeline.step(
            f"campus guest -> burst guest: HTTP {answer.status} over the tunnel: {answer.text}"
        )
        self.timeline.say(
            f"tunnel of {BURST}: received {answer.before.received} -> {answer.after.received} bytes, "
            f"sent {answer.before.sent} -> {answer.after.sent} bytes"
        )
        for before, after in (
            (answer.before.received, answer.after.received),
            (answer.before.sent, answer.after.sent),
        ):
            if after <= before:
                raise LabError("the page did not come through the tunnel: its counters stand still")
        for each in self.lab.cloud.client.vms.list():
            self.timeline.say(
                f"seen from the cloud: {each.name} is {each.state} on {each.host} at {each.address}"
            )
        return Burst(BURST, vm.site, vm.address, seconds, answer)

    def fetch(self, address: str) -> Answer:
        """Have the first campus guest itself fetch the page at ``address``."""
        before = self._counters(address)
        script = f"timeout 10 wget -S -O - {shlex.quote(f'http://{address}/')} 2>&1"
        said = self.lab.in_guest(self._address(POOL[0]), script)
        # WireGuard counts at once, but the last acknowledgement may still be on its way.
        after = self._counters(address)
        status = re.search(r"^\s*HTTP/\S+ (\d{3})", said, re.MULTILINE)
        text = re.search(r"^hello from .*", said, re.MULTILINE)
        return Answer(int(status[1]) if status else 0, text[0] if text else said, before, after)

    def let_the_load_fall(self) -> None:
        """Delete most of the pool: the policy closes, and the burst VM leaves the private network and the cloud."""
        going, address = POOL[1:], self._address(BURST)
        self.timeline.step(f"load falls: deleting {', '.join(going)}")
        for name in going:
            self.client.vms.delete(name)
        self.events.until("policy.closed")
        self.events.until("vm.terminated", BURST, timeout_s=90)
        # The peer goes before its VM. Others that burst leave at the same time, each with a peer of its own.
        if any(peer.allowed_ips == f"{address}/32" for peer in self.lab.tunnel()):
            raise LabError(f"{BURST} is gone, but the gateway still has its peer")
        until(lambda: not self.lab.tunnel(), 30, "a tunnel without peers")
        until(lambda: not list(self.lab.cloud.client.vms.list()), 30, f"the end of {BURST} in the cloud")
        self.timeline.step(f"{BURST} has left: no peer at the gateway, no VM in the cloud")

    def _create(self, name: str) -> None:
        self.client.vms.create(name, IMAGE, FLAVOR, networks=[NETWORK], key_pair=KEY_PAIR)

    def _address(self, name: str) -> str:
        address = self.client.vms.get(name).address
        if address is None:
            raise LabError(f"{name} has no address")
        return address

    def _first_answer(self, address: str) -> None:
        """Have a campus guest ask for the page until it comes: one session, so that none of it waits for us."""
        url = shlex.quote(f"http://{address}/")
        script = (
            f"n=0; until timeout 1 wget -q -O /dev/null {url} 2>/dev/null; "
            f"do n=$((n + 1)); [ $n -lt {int(BOOT_S * 2)} ] || exit 1; sleep 0.1; done"
        )
        self.lab.in_guest(self._address(POOL[0]), script, timeout_s=BOOT_S)

    def _counters(self, address: str) -> PeerCounters:
        for peer in self.lab.tunnel():
            if peer.allowed_ips == f"{address}/32":
                return peer
        raise LabError(f"the gateway has no peer for {address}")
