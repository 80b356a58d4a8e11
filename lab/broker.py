"""A broker of the lab: ``isthmus serve`` in a node, as an operator would run it.

It listens with TLS at its node's address, for the agent and the other machines of the lab, and at a port of this
machine's loopback, for the person who looks around: a socket belongs to the name space that it was made in, so this
process opens that one and hands it down (systemd's socket activation, sd_listen_fds(3)).
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import sys
import tomllib
from pathlib import Path

import isthmus
from lab import process
from lab.node import Node, NodeError
from lab.wait import until

ISTHMUS = (sys.executable, "-m", "isthmus.cli.main")
"""The ``isthmus`` command of this very installation."""

NATIVE_PORT = 8770
EC2_PORT = 8773

_TIMING = """
[timing]
# A lab is small and watched: it looks twice a second where a real pool looks every few seconds.
policy_s = 0.5
suspend_s = 10
reconcile_s = 3
sweep_s = 2
stop_grace_s = 20
boot_s = 120
enrol_s = 180
quarantine_s = 20
"""

# Puts the two sockets where sd_listen_fds(3) has them, then becomes the command.
_HAND_DOWN = """\
import fcntl, os, sys
sockets = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
for place, number in enumerate(sockets, 3):
    os.dup2(number, place)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Broker:
    """One broker. Attaches to what already runs in ``node``."""

    def __init__(self, node: Node, address: str, region: str) -> None:
        self.node = node
        self.address = address
        self.region = region
        self.data = node.directory / "isthmus"
        self.home = node.directory / "home"
        self._client: isthmus.Client | None = None

    @property
    def ca(self) -> Path:
        """The certificate that its clients trust."""
        return self.data / "tls" / "ca.pem"

    @property
    def url(self) -> str:
        """The native API, as this machine's own programs reach it."""
        return f"https://127.0.0.1:{self._ports()[0]}"

    @property
    def ec2_url(self) -> str:
        """The EC2 face, as this machine's own programs reach it."""
        return f"https://127.0.0.1:{self._ports()[1]}"

    @property
    def token(self) -> str:
        """The admin's token that ``isthmus init`` made."""
        with (self.home / ".config" / "isthmus" / "client.toml").open("rb") as file:
            return str(tomllib.load(file)["token"])

    @property
    def client(self) -> isthmus.Client:
        """The SDK on this broker, as its admin."""
        if self._client is None:
            self._client = isthmus.Client(self.url, self.token, str(self.ca))
        return self._client

    def environment(self, *, inside: bool = False) -> dict[str, str]:
        """What ``isthmus`` and ``aws`` take from the environment to speak to this broker.

        ``inside`` a node, which cannot reach this machine's loopback, they are given the broker's own address.
        """
        key, secret = json.loads(self._access_key.read_text())
        return {
            "ISTHMUS_URL": f"https://{self.address}:{NATIVE_PORT}" if inside else self.url,
            "ISTHMUS_TOKEN": self.token,
            "ISTHMUS_CA": str(self.ca),
            "AWS_ENDPOINT_URL_EC2": f"https://{self.address}:{EC2_PORT}" if inside else self.ec2_url,
            "AWS_CA_BUNDLE": str(self.ca),
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
        }

    def make_access_key(self) -> None:
        """Have an access key for ``environment``."""
        made = self.client.accesskeys.create(role="admin")
        handle = os.open(self._access_key, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as file:
            json.dump([made.access_key.id, made.secret], file)

    @property
    def _access_key(self) -> Path:
        return self.home / "access-key.json"

    def init(self) -> None:
        """Make its data directory: ``isthmus init``. Raises NodeError."""
        self.home.mkdir(parents=True, exist_ok=True)
        self.node.run(
            [
                *ISTHMUS,
                "init",
                f"--data-dir={self.data}",
                f"--listen={self.address}",
                f"--native-port={NATIVE_PORT}",
                f"--ec2-port={EC2_PORT}",
                f"--region={self.region}",
                *(f"--tls-name={name}" for name in (self.address, "127.0.0.1", "localhost")),
            ],
            environment={"HOME": str(self.home)},
        )
        with (self.data / "isthmus.toml").open("a") as config:
            config.write(_TIMING)

    def start(self, timeout_s: float = 60.0) -> None:
        """Run it: ``isthmus serve``. Returns when it answers; nothing when it runs. Raises NodeError with its log."""
        if self.pid:
            return
        wanted = self._ports()
        sockets = [_listen(port) for port in wanted]
        try:
            ports = [each.getsockname()[1] for each in sockets]
            (self.node.directory / "ports.json").write_text(json.dumps(ports))
            numbers = [each.fileno() for each in sockets]
            command = [*ISTHMUS, "serve", f"--config={self.data / 'isthmus.toml'}"]
            started = self.node.start(
                "broker",
                [sys.executable, "-c", _HAND_DOWN, *map(str, numbers), *command],
                environment={
                    "HOME": str(self.home),
                    "LISTEN_FDS": "2",
                    "LISTEN_PID": "any",
                    "LISTEN_FDNAMES": "native:ec2",
                },
                pass_fds=numbers,
            )
        finally:
            for each in sockets:
                each.close()
        if ports != wanted:
            self._client = None

        def answers() -> bool:
            # nsenter waits for the program it started, which is its only child.
            for pid in process.children(started.pid):
                (self.node.directory / "broker.pid").write_text(f"{pid} {process.started_at(pid)}\n")
            if started.poll() is not None:
                raise NodeError(f"{self.node.name}: isthmus serve ended:\n{self.node.log_tail('broker')}")
            return self.answers()

        until(answers, timeout_s, f"an answer of the broker in {self.node.name}")

    def answers(self) -> bool:
        """Whether it says how it is."""
        if not self.pid:
            return False
        try:
            self.client.status()
        except isthmus.ConnectionFailed:
            return False
        return True

    @property
    def pid(self) -> int:
        """Its process, as this process sees it; 0 when it does not run."""
        try:
            pid, tick = (self.node.directory / "broker.pid").read_text().split()
        except (OSError, ValueError):
            return 0
        return int(pid) if process.started_at(int(pid)) == tick else 0

    def kill(self) -> None:
        """End it as a power failure would (SIGKILL). ``start()`` runs it again."""
        if pid := self.pid:
            process.kill(pid)

    def stop(self, timeout_s: float = 20.0) -> None:
        """End it as an operator would (SIGTERM)."""
        if pid := self.pid:
            process.send(pid, signal.SIGTERM)
            until(lambda: not self.pid, timeout_s, f"the end of the broker in {self.node.name}")

    def _ports(self) -> list[int]:
        """Its ports on the loopback; any, before it ran first."""
        try:
            native, ec2 = json.loads((self.node.directory / "ports.json").read_text())
        except (OSError, ValueError):
            return [0, 0]
        return [int(native), int(ec2)]


def _listen(port: int) -> socket.socket:
    """A socket of this machine's loopback."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

    def bind() -> bool:
        # The last program that was given it may be about to end.
        try:
            listening.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return False
        return True

    until(bind, 10, f"port {port} of the loopback being free")
    listening.listen(128)
    return listening
