"""A machine of the lab: name spaces of its own for network, mounts, processes and host name.

Nothing of a node exists in the machine's own name spaces except its processes: no bridge, no veth, no named network
name space, no mount. So two labs live side by side, and ending a node's processes removes all of it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab import process

INIT = Path(__file__).with_name("node-init")
SOCKET_PATH_MAX = 107
"""Longest path of a unix socket (unix(7): 108 bytes with the closing zero)."""


class NodeError(Exception):
    """A node cannot be started, or a command in it failed."""


class Node:
    """One machine: ``directory`` holds all of its files. Another process may attach to it by the same arguments.

    ``lab`` is the directory of the lab that it belongs to, whose processes are found and ended together.
    """

    def __init__(self, name: str, directory: Path, *, lab: Path | None = None) -> None:
        self.name = name
        self.directory = directory.resolve()
        self.lab = (lab or directory).resolve()
        self._unshare: subprocess.Popen[bytes] | None = None
        self._started: list[subprocess.Popen[bytes]] = []

    @property
    def pid(self) -> int:
        """The id of the node's process 1, as this process sees it; 0 when the node is down."""
        try:
            pid, tick = (self.directory / "pid").read_text().split()
        except (OSError, ValueError):
            return 0
        return int(pid) if process.started_at(int(pid)) == tick else 0

    def up(self, timeout_s: float = 20.0) -> None:
        """Start the node; nothing when it is up. Raises NodeError with the end of its log."""
        if self.pid:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "ready").unlink(missing_ok=True)
        (self.directory / "log").mkdir(exist_ok=True)
        (self.lab / "home").mkdir(exist_ok=True)
        (self.directory / "hosts").write_text(f"127.0.0.1 localhost {self.name}\n")
        command = ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        with (self.directory / "log" / "init.log").open("ab") as log:
            self._unshare = subprocess.Popen(
                [*command, "--propagation", "private", "sh", str(INIT), str(self.directory), self.name],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=process.environment(self.lab),
                start_new_session=True,
            )
        end = time.monotonic() + timeout_s
        while not (self.directory / "ready").exists():
            if self._unshare.poll() is not None or time.monotonic() > end:
                self.down()
                raise NodeError(
                    f"node {self.name} did not start: {self.log_tail('init') or 'it says nothing'}"
                )
            time.sleep(0.01)
        pid = process.children(self._unshare.pid)[0]
        (self.directory / "pid").write_text(f"{pid} {process.started_at(pid)}\n")

    def down(self) -> None:
        """End the node and everything in it; its files stay."""
        self.crash()

    def crash(self) -> None:
        """Pull the plug: every process of the node dies at once. ``up()`` starts it again, with its files."""
        if pid := self.pid:
            process.kill(pid)
        if self._unshare is not None:
            process.kill(self._unshare.pid)
            self._unshare.wait()
            self._unshare = None
        for started in self._started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                started.wait(timeout=5)
        self._started.clear()
        (self.directory / "pid").unlink(missing_ok=True)

    def inside(self, command: Sequence[str]) -> list[str]:
        """The command line that runs ``command`` in this node, in its root directory."""
        pid = self.pid
        if not pid:
            raise NodeError(f"node {self.name} is down")
        return ["nsenter", "-t", str(pid), "-m", "-n", "-p", "-u", "--", *command]

    def run(
        self,
        command: Sequence[str],
        *,
        input: str | None = None,
        check: bool = True,
        timeout_s: float = 60.0,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the node and wait for it. Raises NodeError when it fails, unless ``check`` is False."""
        try:
            done = subprocess.run(
                self.inside(command),
                input=input,
                stdin=subprocess.DEVNULL if input is None else None,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                env={**process.environment(self.lab), **(environment or {})},
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise NodeError(f"{self.name}: {' '.join(command)}: no end after {timeout_s:g} s") from error
        if check and done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise NodeError(f"{self.name}: {' '.join(command)}: exit {done.returncode}: {said}")
        return done

    def start(
        self,
        log: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> subprocess.Popen[bytes]:
        """Start a program in the node that lives as long as the node does; its output goes to ``log_path(log)``."""
        with self.log_path(log).open("ab") as file:
            started = subprocess.Popen(
                self.inside(command),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={**process.environment(self.lab), **(environment or {})},
                pass_fds=tuple(pass_fds),
                start_new_session=True,
            )
        self._started.append(started)
        return started

    def ip(self, *lines: str) -> None:
        """Run commands of ip(8) on the node's network, in order, stopping at the first that fails.

        Process ids in them are this process's, so that one end of a veth can go to another node.
        """
        command = ["nsenter", "-t", str(self.pid), "-n", "--", "ip", "-batch", "-"]
        text = "".join(f"{line}\n" for line in lines)
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NodeError(f"{self.name}: {done.stderr.strip()} in:\n{text}")

    def sysctl(self, name: str, value: int) -> None:
        """Set a kernel parameter of the node's network (``net.ipv4.ip_forward``)."""
        self.run(["sh", "-c", 'echo "$1" >"$2"', "sh", str(value), f"/proc/sys/{name.replace('.', '/')}"])

    def log_path(self, log: str) -> Path:
        """The file that a program's output goes to."""
        return self.directory / "log" / f"{log}.log"

    def log_tail(self, log: str, lines: int = 20) -> str:
        """The last lines of a program's output."""
        try:
            return "\n".join(self.log_path(log).read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""


def remove_tree(directory: Path) -> None:
    """Remove a directory of the lab, with whatever permissions its files have."""
    if directory.exists():
        shutil.rmtree(directory)


def require_root() -> None:
    """Raises NodeError when this process may not make name spaces."""
    if os.geteuid() != 0:
        raise NodeError("the lab makes network name spaces and needs root; run it with sudo")
