"""A site in network namespaces: gateway, a guest on its LAN, and machines on the internet. And a small broker.

Namespaces are named ``vt-...`` after the test process, hold private ``/run`` and ``/var/lib``, and vanish with
their holder process. Everything that runs in one is found by its namespace and ended by its pid.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import pytest

from vpn import keys
from vpn.bootstrap import End, script
from vpn.document import GatewayDocument, PeerEntry
from vpn.plan import GatewaySpec, PeerSpec, plan

T = TypeVar("T")

# Entering a namespace changes the working directory to its root.
_THIS_TREE = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
WAN, LAN = "203.0.113.2", "10.10.1.1"
PORT = 51820
TUNNEL = "10.10.2.0/24"
_CLONE_NEWNET = 0x40000000
_BUSYBOX = [
    "ash",
    "cat",
    "echo",
    "ip",
    "mkdir",
    "modprobe",
    "mv",
    "rm",
    "sed",
    "sh",
    "sleep",
    "timeout",
    "tr",
    "wget",
]


def eventually(check: Callable[[], T], what: str, timeout_s: float = 20.0) -> T:
    """Wait until ``check`` is true, and answer it; fail in words after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > deadline:
            pytest.fail(f"after {timeout_s:.0f} s: not {what}")
        time.sleep(0.05)


def sh(*argv: str) -> str:
    """Run a command in the root namespace."""
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=20).stdout


class Machine:
    """A network namespace with a mount namespace that has its own /run and /var/lib."""

    def __init__(self, name: str) -> None:
        self.name = f"vt-{os.getpid() % 100000}-{name}"
        sh("ip", "netns", "add", self.name)
        setup = "mount -t tmpfs t /run && mount -t tmpfs t /var/lib && echo up && exec sleep 100000"
        self._holder = subprocess.Popen(
            [
                "ip",
                "netns",
                "exec",
                self.name,
                "unshare",
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                setup,
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "up\n"
        self._enter = [shutil.which("nsenter") or "nsenter", "-t", str(self._holder.pid), "-m", "-n"]
        self.run("ip", "link", "set", "lo", "up")

    def argv(self, *argv: str) -> list[str]:
        return [*self._enter, *argv]

    def run(
        self, *argv: str, check: bool = True, timeout: float = 60, **more: Any
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.argv(*argv), capture_output=True, text=True, timeout=timeout, check=False, **more
        )
        if check and done.returncode:
            raise AssertionError(f"{argv}: {done.stdout}{done.stderr}")
        return done

    def python(self, source: str, **more: Any) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-c", source, **more)

    def inside(self, function: Callable[[], T]) -> T:
        """Call a function of this process in the network namespace (of a thread of its own)."""
        result: list[Any] = []

        def work() -> None:
            with open(f"/run/netns/{self.name}") as handle:
                if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), _CLONE_NEWNET):
                    result.append(OSError(ctypes.get_errno(), "setns"))
                    return
            try:
                result.append(function())
            except BaseException as error:
                result.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if isinstance(result[0], BaseException):
            raise result[0]
        return result[0]  # type: ignore[no-any-return]

    def close(self) -> None:
        for pid in sh("ip", "netns", "pids", self.name).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        self._holder.wait()
        assert self._holder.stdout is not None
        self._holder.stdout.close()
        sh("ip", "netns", "del", self.name)


class Site:
    """``gw`` with WAN and LAN, ``campus`` on the LAN behind it, ``cloud`` and ``thief`` on the internet."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self.net = self.machine("net")
        self.gw, self.campus = self.machine("gw"), self.machine("campus")
        self.cloud, self.thief = self.machine("cloud"), self.machine("thief")
        for bridge in ("inet", "lan"):
            self.net.run("ip", "link", "add", bridge, "type", "bridge")
            self.net.run("ip", "link", "set", bridge, "up")
        self.plug(self.gw, "eth0", "inet", f"{WAN}/24")
        self.plug(self.gw, "lan0", "lan", f"{LAN}/24")
        self.plug(self.campus, "eth0", "lan", "10.10.1.20/24")
        self.plug(self.cloud, "eth0", "inet", "203.0.113.50/24")
        self.plug(self.thief, "eth0", "inet", "203.0.113.66/24")
        self.campus.run("ip", "route", "add", "default", "via", LAN)
        self._links = 0

    def machine(self, name: str) -> Machine:
        made = Machine(name)
        self._stack.callback(made.close)
        return made

    def plug(self, machine: Machine, interface: str, bridge: str, address: str) -> None:
        port = f"p-{machine.name[-6:]}{interface}"[:15]
        peer = ["type", "veth", "peer", "name", interface, "netns", machine.name]
        sh("ip", "-n", self.net.name, "link", "add", port, *peer)
        self.net.run("ip", "link", "set", port, "master", bridge, "up")
        machine.run("ip", "addr", "add", address, "dev", interface)
        machine.run("ip", "link", "set", interface, "up")


class Launch:
    """What a broker knows of one launch: bootstrap key and address, and the private address that was leased.

    ``net`` is the beginning of the network's addresses, ``wan`` its gateway's address on the internet.
    """

    def __init__(self, number: int, expires_at: float, net: str = "10.10", wan: str = WAN) -> None:
        self.id = f"boot-{number}"
        self.wan = wan
        self.private, self.public = keys.generate()
        self.bootstrap_address = f"169.254.64.{number}"
        self.address = f"{net}.2.{number}"
        self.expires_at = expires_at
        self.enrolled_key = ""

    def end(self, gateway_key: str, interface: str = "isthmus0") -> End:
        return End(
            bootstrap_private_key=self.private,
            bootstrap_public_key=self.public,
            bootstrap_address=self.bootstrap_address,
            gateway_public_key=gateway_key,
            endpoint=f"{self.wan}:{PORT}",
            interface=interface,
        )

    def script(self, gateway_key: str, **more: Any) -> str:
        return script(self.end(gateway_key), **more)


class FakeBroker:
    """The four agent calls of the native API, over plain HTTP on the gateway's loopback."""

    TOKEN = "ist_" + "t" * 40

    def __init__(self, machine: Machine, net: str = "10.10", wan: str = WAN) -> None:
        self.machine = machine
        self.net, self.wan = net, wan
        self.changed = threading.Condition()
        self.launches: dict[str, Launch] = {}
        self.gateways: list[PeerEntry] = []
        self.generation = 1
        self.gateway_key = ""
        self.enrolments: list[tuple[str, str]] = []
        self.statuses: list[dict[str, Any]] = []
        self.lose_next_enrolment = False
        self.hold_enrolment = threading.Event()
        self.hold_enrolment.set()
        self.port = 8770
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def launch(self, number: int, lives_s: float = 900.0) -> Launch:
        made = Launch(number, time.time() + lives_s, self.net, self.wan)
        with self.changed:
            self.launches[made.bootstrap_address] = made
            self._bump()
        return made

    def terminate(self, launch: Launch) -> None:
        with self.changed:
            del self.launches[launch.bootstrap_address]
            self._bump()

    def link(self, gateway: PeerEntry) -> None:
        """Make another site's gateway a peer."""
        with self.changed:
            self.gateways.append(gateway)
            self._bump()

    def document(self) -> GatewayDocument:
        peers = [
            PeerSpec(each.id, "vm", each.enrolled_key, each.address)
            if each.enrolled_key
            else PeerSpec(
                each.id, "bootstrap", each.public, each.bootstrap_address, expires_at=each.expires_at
            )
            for each in self.launches.values()
        ]
        tunnel = TUNNEL.replace("10.10", self.net)
        planned = plan(GatewaySpec("gw-1", self.generation, (tunnel,), listen_port=PORT), peers)
        # As long as the plan has no gateways among the peers.
        behind = tuple(cidr for each in self.gateways for cidr in each.allowed_ips)
        return replace(planned, routes=planned.routes + behind, peers=planned.peers + tuple(self.gateways))

    def start(self) -> None:
        broker = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                broker.serve(self, "")

            def do_POST(self) -> None:
                broker.serve(self, self.rfile.read(int(self.headers["Content-Length"])).decode())

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

        self._server = self.machine.inside(lambda: Server(("127.0.0.1", self.port), Handler))
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
            with self.changed:
                self.changed.notify_all()

    def serve(self, request: BaseHTTPRequestHandler, body: str) -> None:
        if request.headers["Authorization"] != f"Bearer {self.TOKEN}":
            return self._answer(request, 401, {"error": {"code": "unauthenticated", "message": "bad token"}})
        path, _, query = request.path.partition("?")
        raw = json.loads(body) if body else {}
        if path == "/v1/agent/register":
            self.gateway_key = raw["public_key"]
            return self._answer(request, 204, None)
        if path == "/v1/agent/status":
            self.statuses.append(raw)
            return self._answer(request, 204, None)
        if path == "/v1/agent/document":
            wanted = dict(pair.split("=") for pair in query.split("&"))
            with self.changed:
                self.changed.wait_for(
                    lambda: self.generation > int(wanted["after"]) or self._server is None,
                    int(wanted["wait"]),
                )
                if self._server is None:
                    return None
                newer = self.generation > int(wanted["after"])
                answer = json.loads(self.document().to_json()) if newer else None
            return self._answer(request, 200 if newer else 204, answer)
        if path == "/v1/agent/enrol":
            return self._enrol(request, raw["address"], raw["public_key"])
        return self._answer(request, 404, {"error": {"code": "not_found", "message": path}})

    def _enrol(self, request: BaseHTTPRequestHandler, address: str, key: str) -> None:
        self.enrolments.append((address, key))
        with self.changed:
            launch = self.launches.get(address)
            if launch is None or launch.enrolled_key not in ("", key) or time.time() > launch.expires_at:
                refusal = {"error": {"code": "enrolment_refused", "message": "used, expired or unknown"}}
                return self._answer(request, 403, refusal)
            if not launch.enrolled_key:
                launch.enrolled_key = key
                self._bump()
            generation = self.generation
        self.hold_enrolment.wait(20)
        if self.lose_next_enrolment:
            self.lose_next_enrolment = False
            request.close_connection = True
            return None
        answer = {
            "peer_id": launch.id,
            "address": launch.address,
            "allowed_ips": [f"{self.net}.0.0/16", "169.254.64.1/32"],
            "generation": generation,
        }
        return self._answer(request, 200, answer)

    def _bump(self) -> None:
        self.generation += 1
        self.changed.notify_all()

    def _answer(self, request: BaseHTTPRequestHandler, status: int, body: object) -> None:
        text = b"" if body is None else json.dumps(body).encode()
        with contextlib.suppress(OSError):
            request.send_response(status)
            request.send_header("Content-Length", str(len(text)))
            request.end_headers()
            request.wfile.write(text)


class AgentProcess:
    """``isthmus agent`` as a process on the gateway."""

    def __init__(self, machine: Machine, broker: FakeBroker, directory: Path) -> None:
        self.machine, self.broker, self.directory = machine, broker, directory
        self.log = directory / "agent.log"
        (directory / "token").write_text(broker.TOKEN + "\n")
        self.process: subprocess.Popen[bytes] | None = None

    def argv(self, *more: str) -> list[str]:
        run = "import typer; from vpn.command import agent; typer.run(agent)"
        options = ["--broker", self.broker.url, "--token-file", str(self.directory / "token")]
        options += ["--state", str(self.directory / "state"), "--wan", "eth0", *more]
        return self.machine.argv(sys.executable, "-c", run, *options)

    def start(self) -> None:
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                self.argv(), stdout=out, stderr=out, env=_THIS_TREE, start_new_session=True
            )

    def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        # The whole process group, as a terminal or a shell would.
        os.killpg(self.process.pid, number)
        status = self.process.wait(10)
        self.process = None
        return status

    def once(self, *more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(*more), env=_THIS_TREE, capture_output=True, text=True, timeout=30, check=False
        )

    def peers(self) -> dict[str, str]:
        """allowed-ips by public key, as WireGuard shows it; empty when there is no interface."""
        told = self.machine.run("wg", "show", "wg-isthmus", "allowed-ips", check=False)
        return dict(line.split("\t") for line in told.stdout.splitlines())

    def ready(self) -> None:
        def applied() -> bool:
            return any(each["applied_generation"] == self.broker.generation for each in self.broker.statuses)

        try:
            eventually(applied, "applied by the agent")
        except BaseException:
            print(self.log.read_text())
            raise


class Guest:
    """Runs the bootstrap script on a machine: with iproute2 and curl, or with busybox alone."""

    def __init__(self, machine: Machine, directory: Path, *, busybox: bool) -> None:
        self.machine, self.busybox = machine, busybox
        self.file = directory / f"join-{machine.name}.sh"
        self.path = os.environ["PATH"]
        if busybox:
            tools = directory / "busybox"
            if not tools.exists():
                tools.mkdir()
                for applet in _BUSYBOX:
                    (tools / applet).symlink_to("/bin/busybox")
                for program in ("wg", "wireguard-go"):
                    (tools / program).symlink_to(f"/usr/bin/{program}")
            self.path = str(tools)

    def join(self, text: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        self.file.write_text(text)
        shell = ["busybox", "ash"] if self.busybox else ["dash"]
        env = {**os.environ, "PATH": self.path}
        shell[0] = "/bin/" + shell[0]
        return self.machine.run(
            *shell, str(self.file), check=check, env={**env, "WG_I_PREFER_BUGGY_USERSPACE": "1"}
        )


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    if os.geteuid() != 0:
        pytest.skip("needs root for network namespaces")
    with contextlib.ExitStack() as stack:
        yield Site(stack)


@pytest.fixture
def broker(site: Site) -> Iterator[FakeBroker]:
    made = FakeBroker(site.gw)
    made.start()
    yield made
    made.hold_enrolment.set()
    made.stop()


@pytest.fixture
def agent(site: Site, broker: FakeBroker, tmp_path: Path) -> Iterator[AgentProcess]:
    made = AgentProcess(site.gw, broker, tmp_path)
    made.start()
    yield made
    print(made.log.read_text())
    if made.process is not None:
        made.end(signal.SIGKILL)
    assert made.once("--teardown").returncode == 0


class SecondSite:
    """Another site with a network and a gateway of its own: ``gw`` with WAN and LAN, ``campus`` behind it."""

    WAN = "203.0.113.3"

    def __init__(self, site: Site, stack: contextlib.ExitStack, directory: Path) -> None:
        machines = {}
        for name in ("gw2", "campus2"):
            machines[name] = Machine(name)
            stack.callback(machines[name].close)
        self.gw, self.campus = machines["gw2"], machines["campus2"]
        site.net.run("ip", "link", "add", "lan2", "type", "bridge")
        stack.callback(site.net.run, "ip", "link", "del", "lan2")
        site.net.run("ip", "link", "set", "lan2", "up")
        site.plug(self.gw, "eth0", "inet", f"{self.WAN}/24")
        site.plug(self.gw, "lan0", "lan2", "10.20.1.1/24")
        site.plug(self.campus, "eth0", "lan2", "10.20.1.20/24")
        self.campus.run("ip", "route", "add", "default", "via", "10.20.1.1")
        self.broker = FakeBroker(self.gw, "10.20", self.WAN)
        self.broker.start()
        stack.callback(self.broker.stop)
        directory.mkdir()
        self.agent = AgentProcess(self.gw, self.broker, directory)
        self.agent.start()
        stack.callback(lambda: print(self.agent.log.read_text()))
        stack.callback(lambda: self.agent.process and self.agent.end(signal.SIGKILL))


@pytest.fixture
def second(site: Site, tmp_path: Path) -> Iterator[SecondSite]:
    with contextlib.ExitStack() as stack:
        yield SecondSite(site, stack, tmp_path / "second")


@pytest.fixture
def guest_on(tmp_path: Path) -> Iterator[Callable[..., Guest]]:
    made: list[Guest] = []

    def build(machine: Machine, *, busybox: bool = False) -> Guest:
        made.append(Guest(machine, tmp_path, busybox=busybox))
        return made[-1]

    yield build
    for guest in made:
        for interface in ("isthmus0", "isthmus1"):
            guest.machine.run("ip", "link", "del", interface, check=False)
        guest.machine.run("sh", "-c", "rm -rf /var/lib/isthmus /run/isthmus")
