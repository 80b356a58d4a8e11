"""A burst VM enrols through a real gateway: namespaces, WireGuard, the script that ships, and a small broker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vpn import keys
from vpn.bootstrap import script
from vpn.document import PeerEntry

pytestmark = pytest.mark.lab

# What a machine can fetch: prints the status and the page.
FETCH = """
import sys, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
print(opener.open(sys.argv[1], timeout=5).read().decode(), end="")
"""
SERVE = """
import http.server, sys
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"hello {self.client_address[0]}".encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(("", 80), Page)
print("up", flush=True)
server.serve_forever()
"""
# UDP there and back, a packet each 15 ms.
ECHO = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("", 7)); print("up", flush=True)
while True: s.sendto(*s.recvfrom(100))
"""
HEAR = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("", 9)); s.settimeout(8); print("up", flush=True)
print(s.recv(100).decode())
"""
TELL = """
import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"from bootstrap", ("10.10.1.20", 9))
"""
TRAFFIC = """
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(("10.10.1.20", 7)); s.settimeout(2)
for n in range(200):
    s.send(b"%d" % n); time.sleep(0.015)
got = set()
try:
    while len(got) < 200: got.add(s.recv(100))
except TimeoutError: pass
print(f"sent 200, answered {len(got)}")
"""


def _eventually(check: Callable[[], Any], what: str, timeout_s: float = 20.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := check()):
        assert time.monotonic() < deadline, f"after {timeout_s:.0f} s: not {what}"
        time.sleep(0.05)
    return found


def _serve(machine: Any) -> subprocess.Popen[str]:
    server = subprocess.Popen(machine.argv(sys.executable, "-c", SERVE), stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert server.stdout.readline() == "up\n"
    return server


def _fetch(machine: Any, url: str) -> str:
    return str(machine.run(sys.executable, "-c", FETCH, url, check=False).stdout)


def _pings(machine: Any, address: str) -> bool:
    done = machine.run("busybox", "ping", "-c1", "-W2", address, check=False)
    assert "1 packets transmitted" in done.stdout, done.stderr
    return "1 packets received" in done.stdout


def _try_key(machine: Any, private: str, address: str, gateway_key: str, expect: bool = False) -> bool:
    """Whether WireGuard on this machine gets a handshake with this key: a ping through the tunnel is tried."""
    name = "vt-try"
    command = f"""
    export WG_I_PREFER_BUGGY_USERSPACE=1
    umask 077; printf %s "$0" >/run/try.key
    ip link add {name} type wireguard 2>/dev/null || wireguard-go {name} >/dev/null 2>&1
    wg set {name} private-key /run/try.key peer {gateway_key} endpoint 203.0.113.2:51820 \
      persistent-keepalive 1 allowed-ips 0.0.0.0/0
    rm /run/try.key
    ip addr add {address}/32 dev {name}; ip link set {name} mtu 1420 up
    ip route add 169.254.64.1/32 dev {name}; ip route add 10.10.0.0/16 dev {name}
    """
    machine.run("sh", "-c", command, private)

    def shook() -> bool:
        told = machine.run("wg", "show", name, "latest-handshakes").stdout.split()
        return int(told[1]) > 0

    deadline = time.monotonic() + (5 if expect else 2.5)
    while not shook() and time.monotonic() < deadline:
        time.sleep(0.05)
    return shook()


@pytest.fixture
def no_try(site: Any) -> Any:
    yield
    for machine in (site.cloud, site.thief):
        machine.run("ip", "link", "del", "vt-try", check=False)


@pytest.mark.parametrize("busybox", [True, False], ids=["busybox", "debian"])
def test_a_burst_vm_enrols_and_is_reached_at_its_private_address(
    site: Any, broker: Any, agent: Any, guest_on: Any, no_try: Any, busybox: bool
) -> None:
    launch = broker.launch(5)
    agent.ready()
    guest = guest_on(site.cloud, busybox=busybox)
    text = launch.script(broker.gateway_key)
    guest.join(text)

    # The VM is a peer under its own key alone, and the broker was told so.
    own = site.cloud.run("wg", "show", "isthmus0", "public-key").stdout.strip()
    assert own != launch.public
    assert broker.enrolments == [("169.254.64.5", own)]
    _eventually(lambda: agent.peers() == {own: "10.10.2.5/32"}, "the node peer alone")

    # HTTP both ways over the tunnel, with no route on the campus guest but its default.
    servers = [_serve(site.cloud), _serve(site.campus)]
    try:
        assert _fetch(site.campus, "http://10.10.2.5/") == "hello 10.10.1.20"
        assert _fetch(site.cloud, "http://10.10.1.20/") == "hello 10.10.2.5"
    finally:
        for server in servers:
            server.kill()
            server.communicate()
    _eventually(
        lambda: any(p["public_key"] == own and p["last_handshake"] > 0 for p in broker.statuses[-1]["peers"]),
        "the handshake reported",
    )

    # What is on the VM's disk: its own key for itself only, and nothing of the bootstrap key.
    told = site.cloud.run(
        "sh", "-c", "stat -c %a /var/lib/isthmus/wg.key /var/lib/isthmus/conf; ls /run/isthmus"
    )
    assert told.stdout.split() == ["600", "600", "enrolled"]
    found = site.cloud.run("grep", "-rl", launch.private, "/var/lib/isthmus", "/run/isthmus", check=False)
    assert found.stdout == ""

    # The bootstrap key has served: it gets no handshake any more.
    assert not _try_key(site.thief, launch.private, launch.bootstrap_address, broker.gateway_key)

    # Again, and after a reboot: the same key, no new enrolment.
    guest.join(text)
    site.cloud.run("ip", "link", "del", "isthmus0")
    site.cloud.run("rm", "-rf", "/run/isthmus")
    guest.join(text)
    assert site.cloud.run("wg", "show", "isthmus0", "public-key").stdout.strip() == own
    assert _pings(site.cloud, "10.10.1.20")
    assert len(broker.enrolments) == 1

    # Terminated: the peer goes.
    broker.terminate(launch)
    _eventually(lambda: agent.peers() == {}, "the peer removed")


def test_a_bootstrap_key_reaches_the_enrolment_port_and_nothing_else(
    site: Any, broker: Any, agent: Any, no_try: Any
) -> None:
    launch = broker.launch(6)
    agent.ready()
    assert _try_key(site.thief, launch.private, launch.bootstrap_address, broker.gateway_key, expect=True)
    server = _serve(site.gw), _serve(site.campus)
    try:
        probe = """
import socket, sys
for where in sys.argv[1:]:
    host, port = where.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), 1).close(); print(where, "open")
    except OSError as error:
        print(where, "closed")
"""
        wheres = ["169.254.64.1:8775", "169.254.64.1:80", "10.10.1.1:80", "10.10.1.20:80"]
        told = site.thief.run(sys.executable, "-c", probe, *wheres).stdout.splitlines()
        assert told == [f"{wheres[0]} open", *(f"{where} closed" for where in wheres[1:])]
        # Not even one way: a datagram to the LAN does not arrive.
        hear = subprocess.Popen(
            site.campus.argv(sys.executable, "-c", HEAR), stdout=subprocess.PIPE, text=True
        )
        assert hear.stdout is not None
        assert hear.stdout.readline() == "up\n"
        site.thief.run(sys.executable, "-c", TELL)
        site.gw.run(sys.executable, "-c", TELL.replace("from bootstrap", "from gateway"))
        assert hear.communicate(timeout=10)[0] == "from gateway\n"
        # The door itself: bodies that are no enrolment are refused in words.
        for body, status in (("{", 400), ('{"public_key":"x"}', 400), ("x" * 5000, 413)):
            argv = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-d", body]
            told = site.thief.run(*argv, "http://169.254.64.1:8775/v1/enrol", check=False).stdout
            assert told == str(status)
        # The LAN cannot knock at it.
        told = site.campus.run(sys.executable, "-c", probe, "169.254.64.1:8775").stdout
        assert told == "169.254.64.1:8775 closed\n"
    finally:
        for each in server:
            each.kill()
            each.communicate()


def test_from_the_internet_only_the_wireguard_port_of_the_gateway_is_open(
    site: Any, broker: Any, agent: Any
) -> None:
    agent.ready()
    listeners = """
import socket
kept = []
for port in (22, 80, 8770, 8773):
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("203.0.113.2" if port == 8770 else "", port)); s.listen(); kept.append(s)
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(("", 5353)); kept.append(u)
print("up", flush=True)
u.settimeout(30)
while True:
    data, peer = u.recvfrom(100); u.sendto(data, peer)
"""
    server = subprocess.Popen(
        site.gw.argv(sys.executable, "-c", listeners), stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    assert server.stdout.readline() == "up\n"
    scan = """
import errno, socket, sys
address = sys.argv[1]
for port in (22, 80, 443, 8770, 8773, 8775):
    with socket.socket() as s:
        s.settimeout(0.25)
        if s.connect_ex((address, port)) == 0: print("tcp", port)
for port in (53, 5353, 8775, 51820):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(0.25)
        s.connect((address, port)); s.send(b"hello")
        try: s.recv(100); print("udp", port)
        except TimeoutError: pass
        except ConnectionRefusedError: print("udp", port, "refused")
"""
    try:
        assert "tcp 22" in site.campus.run(sys.executable, "-c", scan, "10.10.1.1").stdout
        # Silence from the internet, on every port; WireGuard does not answer who has no key.
        assert site.thief.run(sys.executable, "-c", scan, "203.0.113.2").stdout == ""
    finally:
        server.kill()
        server.communicate()
    # And a route through the gateway to what is behind it does not help.
    site.thief.run("ip", "route", "add", "10.10.0.0/16", "via", "203.0.113.2")
    try:
        assert not _pings(site.thief, "10.10.1.20")
    finally:
        site.thief.run("ip", "route", "del", "10.10.0.0/16")
    assert _pings(site.thief, "203.0.113.2")


def test_a_lost_answer_is_asked_for_again_under_the_same_key(
    site: Any, broker: Any, agent: Any, guest_on: Any
) -> None:
    launch = broker.launch(7)
    agent.ready()
    # The broker accepts and its answer is lost; its new document has no bootstrap peer any more.
    broker.lose_next_enrolment = True
    guest_on(site.cloud).join(launch.script(broker.gateway_key))
    own = site.cloud.run("wg", "show", "isthmus0", "public-key").stdout.strip()
    assert broker.enrolments == [("169.254.64.7", own)] * 2
    _eventually(lambda: agent.peers() == {own: "10.10.2.7/32"}, "the node peer alone")


def test_a_disk_that_is_cloned_to_another_launch_makes_a_key_of_its_own(
    site: Any, broker: Any, agent: Any, guest_on: Any
) -> None:
    first, second = broker.launch(11), broker.launch(12)
    agent.ready()
    guest = guest_on(site.cloud)
    guest.join(first.script(broker.gateway_key))
    guest.join(second.script(broker.gateway_key))
    assert first.enrolled_key
    assert second.enrolled_key
    assert first.enrolled_key != second.enrolled_key
    assert site.cloud.run("wg", "show", "isthmus0", "public-key").stdout.strip() == second.enrolled_key
    assert (
        site.cloud.run("cat", "/var/lib/isthmus/conf").stdout == "10.10.2.12 10.10.0.0/16,169.254.64.1/32\n"
    )


@pytest.mark.parametrize("busybox", [True, False], ids=["busybox", "debian"])
def test_a_vm_of_two_networks_enrols_at_both_gateways_and_is_reached_through_each(
    site: Any, broker: Any, agent: Any, second: Any, guest_on: Any, busybox: bool
) -> None:
    launches = broker.launch(21), second.broker.launch(22)
    agent.ready()
    second.agent.ready()
    text = script(
        launches[0].end(broker.gateway_key, "isthmus0"),
        launches[1].end(second.broker.gateway_key, "isthmus1"),
    )
    guest = guest_on(site.cloud, busybox=busybox)
    said = guest.join(text)
    if not os.access("/dev/console", os.W_OK):
        assert "isthmus: enrolled as 10.10.2.21 10.20.2.22" in said.stdout

    # A key of its own for each, and at each gateway one peer with one address.
    own = [site.cloud.run("wg", "show", f"isthmus{n}", "public-key").stdout.strip() for n in (0, 1)]
    assert own[0] != own[1]
    _eventually(lambda: agent.peers() == {own[0]: "10.10.2.21/32"}, "the VM alone at the first gateway")
    _eventually(lambda: second.agent.peers() == {own[1]: "10.20.2.22/32"}, "the VM alone at the second")
    assert broker.enrolments == [("169.254.64.21", own[0])]
    assert second.broker.enrolments == [("169.254.64.22", own[1])]

    def reached() -> None:
        servers = [_serve(each) for each in (site.cloud, site.campus, second.campus)]
        try:
            assert _fetch(site.campus, "http://10.10.2.21/") == "hello 10.10.1.20"
            assert _fetch(second.campus, "http://10.20.2.22/") == "hello 10.20.1.20"
            assert _fetch(site.cloud, "http://10.10.1.20/") == "hello 10.10.2.21"
            assert _fetch(site.cloud, "http://10.20.1.20/") == "hello 10.20.2.22"
        finally:
            for server in servers:
                server.kill()
                server.communicate()

    reached()
    site.cloud.run("test", "-e", "/run/isthmus/enrolled")
    for launch in launches:
        found = site.cloud.run("grep", "-rl", launch.private, "/var/lib/isthmus", "/run/isthmus", check=False)
        assert found.stdout == ""

    # After a reboot, and when the script runs again: the same keys, no new enrolment.
    for n in (0, 1):
        site.cloud.run("ip", "link", "del", f"isthmus{n}")
    site.cloud.run("rm", "-rf", "/run/isthmus")
    site.cloud.run("sh", "/var/lib/isthmus/up")
    site.cloud.run("test", "-e", "/run/isthmus/enrolled")
    guest.join(text)
    assert [site.cloud.run("wg", "show", f"isthmus{n}", "public-key").stdout.strip() for n in (0, 1)] == own
    reached()
    assert len(broker.enrolments) + len(second.broker.enrolments) == 2

    # Terminated: no gateway has it any more.
    broker.terminate(launches[0])
    second.broker.terminate(launches[1])
    _eventually(lambda: agent.peers() == second.agent.peers() == {}, "both peers removed")


def test_a_vm_that_one_of_two_gateways_does_not_answer_has_not_enrolled(
    site: Any, broker: Any, agent: Any, second: Any, guest_on: Any
) -> None:
    first, other = broker.launch(23), second.broker.launch(24)
    agent.ready()
    second.agent.ready()
    ends = first.end(broker.gateway_key, "isthmus0"), other.end(second.broker.gateway_key, "isthmus1")
    guest = guest_on(site.cloud)
    second.gw.run("ip", "link", "set", "eth0", "down")
    try:
        assert guest.join(script(*ends, tries=1), check=False).returncode == 1
    finally:
        second.gw.run("ip", "link", "set", "eth0", "up")
    site.cloud.run("test", "!", "-e", "/run/isthmus/enrolled")
    assert _pings(site.cloud, "10.10.1.20")
    # It goes on where it stopped.
    guest.join(script(*ends))
    site.cloud.run("test", "-e", "/run/isthmus/enrolled")
    assert _pings(site.cloud, "10.20.1.20")
    assert len(broker.enrolments) == 1


def test_a_disk_of_two_networks_that_is_cloned_to_a_vm_of_one_keeps_nothing_of_the_second(
    site: Any, broker: Any, agent: Any, second: Any, guest_on: Any
) -> None:
    first, other, clone = broker.launch(25), second.broker.launch(26), broker.launch(27)
    agent.ready()
    second.agent.ready()
    guest = guest_on(site.cloud)
    guest.join(
        script(first.end(broker.gateway_key, "isthmus0"), other.end(second.broker.gateway_key, "isthmus1"))
    )
    guest.join(clone.script(broker.gateway_key))
    assert clone.enrolled_key
    assert site.cloud.run("ip", "link", "show", "isthmus1", check=False).returncode
    assert not site.cloud.run("sh", "-c", "ls -d /var/lib/isthmus/1", check=False).stdout


def test_sites_reach_each_other_through_gateways_that_are_peers(
    site: Any, broker: Any, agent: Any, second: Any
) -> None:
    agent.ready()
    second.agent.ready()

    def entry(there: Any, prefix: str, endpoint: str) -> PeerEntry:
        return PeerEntry("gw-there", "gateway", there.gateway_key, (prefix,), 25, endpoint=endpoint)

    # One dials; the other learns from it where it is.
    broker.link(entry(second.broker, "10.20.1.0/24", "203.0.113.3:51820"))
    second.broker.link(entry(broker, "10.10.1.0/24", ""))
    _eventually(lambda: _pings(site.campus, "10.20.1.20"), "one site reached from the other")
    server = _serve(site.campus)
    try:
        assert _fetch(second.campus, "http://10.10.1.20/") == "hello 10.20.1.20"
    finally:
        server.kill()
        server.communicate()
    # A repair leaves the peer alone: it was heard, and nothing is set that is right.
    site.gw.run("ip", "route", "del", "10.20.1.0/24")
    _eventually(lambda: "10.20.1.0/24" in site.gw.run("ip", "route").stdout, "the route repaired")

    def repaired() -> dict[str, Any] | None:
        lines = [json.loads(line) for line in agent.log.read_text().splitlines() if '"applied"' in line]
        return lines[-1] if lines[-1]["created"] is False and lines[-1]["set"] == [] else None

    assert _eventually(repaired, "the repair logged")["removed"] == 0
    assert agent.peers() == {second.broker.gateway_key: "10.20.1.0/24"}
    assert broker.statuses[-1]["problems"] == []


def test_on_systemd_a_unit_brings_the_tunnel_back_after_a_reboot(
    site: Any, broker: Any, agent: Any, guest_on: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/etc/systemd").is_dir():
        pytest.skip("there is no /etc/systemd to mount over")
    launch = broker.launch(13)
    agent.ready()
    # A systemd that is only seen, on a private /etc/systemd; what it is asked to do is noted.
    tools = tmp_path / "systemd"
    tools.mkdir()
    (tools / "systemctl").write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\n')
    (tools / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    site.cloud.run(
        "sh", "-c", "mkdir -p /run/systemd/system; mount -t tmpfs t /etc/systemd; mkdir /etc/systemd/system"
    )
    try:
        guest_on(site.cloud).join(launch.script(broker.gateway_key))
        unit = site.cloud.run("cat", "/etc/systemd/system/isthmus-tunnel.service").stdout
    finally:
        site.cloud.run("sh", "-c", "rm -r /run/systemd; umount /etc/systemd")
    assert (tmp_path / "asked").read_text() == "daemon-reload\nenable -q isthmus-tunnel.service\n"
    (start,) = [
        line.removeprefix("ExecStart=") for line in unit.splitlines() if line.startswith("ExecStart=")
    ]
    site.cloud.run("ip", "link", "del", "isthmus0")
    site.cloud.run("rm", "-r", "/run/isthmus")
    site.cloud.run(*start.split())
    assert _pings(site.cloud, "10.10.1.20")
    site.cloud.run("test", "-e", "/run/isthmus/enrolled")


def test_an_image_without_wireguard_tools_fails_at_once(site: Any, guest_on: Any, broker: Any) -> None:
    guest = guest_on(site.cloud, busybox=True)
    guest.path = "/nowhere"
    assert guest.join(broker.launch(14).script(keys.generate()[1]), check=False).returncode == 1


def test_a_gateway_killed_while_it_enrols_a_vm_still_answers_it(
    site: Any, broker: Any, agent: Any, guest_on: Any
) -> None:
    launch = broker.launch(8)
    agent.ready()
    broker.hold_enrolment.clear()
    guest = guest_on(site.cloud)
    guest.file.write_text(launch.script(broker.gateway_key))
    joining = subprocess.Popen(site.cloud.argv("dash", str(guest.file)), stdout=subprocess.PIPE)
    try:
        _eventually(lambda: broker.enrolments, "asked by the agent")
        agent.end(signal.SIGKILL)
        broker.hold_enrolment.set()
        agent.start()
        assert joining.wait(40) == 0
    finally:
        joining.kill()
        joining.communicate()
    own = site.cloud.run("wg", "show", "isthmus0", "public-key").stdout.strip()
    _eventually(lambda: agent.peers() == {own: "10.10.2.8/32"}, "the node peer alone")


def test_another_key_of_the_same_launch_is_refused(site: Any, broker: Any, agent: Any, no_try: Any) -> None:
    launch = broker.launch(9)
    agent.ready()
    assert _try_key(site.thief, launch.private, launch.bootstrap_address, broker.gateway_key, expect=True)

    def post(key: str) -> str:
        argv = ["curl", "-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}"]
        argv += ["-d", f'{{"public_key":"{key}"}}', "http://169.254.64.1:8775/v1/enrol"]
        return str(site.thief.run(*argv, check=False).stdout)

    first, second = keys.generate()[1], keys.generate()[1]
    assert post(first) == "200"
    # The first asks again, as if its answer had been lost; another key is an intruder.
    assert post(first) == "200"
    assert post(second) == "403"
    assert [key for _, key in broker.enrolments] == [first]


def test_an_agent_killed_and_restarted_keeps_traffic_also_without_a_broker(
    site: Any, broker: Any, agent: Any, guest_on: Any
) -> None:
    launch = broker.launch(10)
    agent.ready()
    guest_on(site.cloud).join(launch.script(broker.gateway_key))
    _eventually(lambda: len(agent.peers()) == 1, "enrolled")
    echo = subprocess.Popen(site.campus.argv(sys.executable, "-c", ECHO), stdout=subprocess.PIPE, text=True)
    assert echo.stdout is not None
    assert echo.stdout.readline() == "up\n"
    traffic = subprocess.Popen(
        site.cloud.argv(sys.executable, "-c", TRAFFIC), stdout=subprocess.PIPE, text=True
    )
    try:
        agent.end(signal.SIGKILL)
        broker.stop()
        agent.start()
        told, _ = traffic.communicate(timeout=30)
    finally:
        for each in (traffic, echo):
            each.kill()
            each.communicate()
    assert told == "sent 200, answered 200\n"
    # It works from the last document, and repairs what somebody breaks, while the broker is away.
    site.gw.run("ip", "route", "del", "10.10.2.0/24")
    _eventually(
        lambda: "10.10.2.0/24" in site.gw.run("ip", "route").stdout, "the route repaired", timeout_s=10
    )
    # The broker comes back, and is heard.
    broker.start()
    broker.terminate(launch)
    _eventually(lambda: agent.peers() == {}, "the newer document applied", timeout_s=40)
    # A stop leaves the tunnel up.
    assert agent.end(signal.SIGTERM) == 0
    assert site.gw.run("wg", "show", "wg-isthmus", "listen-port").stdout.strip() == "51820"


def test_teardown_leaves_nothing(site: Any, broker: Any, agent: Any) -> None:
    agent.ready()
    assert agent.end(signal.SIGTERM) == 0
    assert agent.once("--teardown").returncode == 0
    assert "wg-isthmus" not in site.gw.run("ip", "-o", "link").stdout
    assert "isthmus" not in site.gw.run("nft", "list", "ruleset").stdout
    # The key stays: the gateway is the same one when it comes back.
    state = agent.directory / "state"
    assert (state / "private.key").stat().st_mode & 0o777 == 0o600


def test_once_applies_reports_and_ends(site: Any, broker: Any, agent: Any) -> None:
    agent.end(signal.SIGKILL)
    broker.statuses.clear()
    assert agent.once("--once").returncode == 0
    assert broker.statuses[-1]["applied_generation"] == broker.generation
    broker.stop()
    told = agent.once("--once")
    assert told.returncode == 3
    assert "cannot reach" in told.stderr
    assert broker.TOKEN not in told.stderr + agent.log.read_text()
