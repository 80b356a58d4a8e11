"""wireguard-go, where the kernel has no WireGuard.

The process belongs to the tunnel, not to the agent: it is started in a session of its own and survives
the agent, so that a restart of the agent costs no packet. It is found again by its interface, and by the
pid that was noted here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PROGRAM = "wireguard-go"
START_TIMEOUT_S = 10.0


class UserspaceError(Exception):
    """wireguard-go is missing or does not start, in words."""


class Userspace:
    """Starts and stops wireguard-go. ``directory`` holds its pid and log."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._child: subprocess.Popen[bytes] | None = None

    def start(self, interface: str, ready: Callable[[], bool]) -> int:
        """Start it in the foreground as a child, wait until ``ready()``, and answer its pid. Raises UserspaceError."""
        program = shutil.which(PROGRAM)
        if program is None:
            raise UserspaceError(
                f"the kernel has no WireGuard and {PROGRAM} is not installed; apt-get install {PROGRAM}"
            )
        log = self._directory / f"{interface}.log"
        with log.open("ab") as output:
            self._child = subprocess.Popen(
                [program, "-f", interface],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd="/",
                env={**os.environ, "WG_PROCESS_FOREGROUND": "1", "LOG_LEVEL": "error"},
            )
        self._pid_file(interface).write_text(f"{self._child.pid}\n")
        deadline = time.monotonic() + START_TIMEOUT_S
        while not ready():
            if self._child.poll() is not None:
                said = log.read_text(errors="replace").strip().splitlines()[-1:]
                raise UserspaceError(f"{PROGRAM} ended with {self._child.returncode}: {' '.join(said)}")
            if time.monotonic() > deadline:
                raise UserspaceError(f"{PROGRAM} is not ready after {START_TIMEOUT_S:.0f} s; see {log}")
            time.sleep(0.02)
        return self._child.pid

    def pid(self, interface: str) -> int | None:
        """The noted process if it still is this interface's wireguard-go."""
        with contextlib.suppress(OSError, ValueError):
            pid = int(self._pid_file(interface).read_text())
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if words[0].endswith(PROGRAM.encode()) and interface.encode() in words:
                return pid
        return None

    def stop(self, interface: str) -> None:
        """End it if it runs; its interface goes with it."""
        pid = self.pid(interface)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + START_TIMEOUT_S
            while self.pid(interface) is not None and time.monotonic() < deadline:
                self.reap()
                time.sleep(0.02)
        self._pid_file(interface).unlink(missing_ok=True)

    def reap(self) -> None:
        """Collect a child that has died, so that no zombie is left."""
        if self._child is not None and self._child.poll() is not None:
            self._child = None

    def _pid_file(self, interface: str) -> Path:
        return self._directory / f"{interface}.pid"
