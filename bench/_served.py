"""A broker of its own for a benchmark: made by ``isthmus init`` and run by ``isthmus serve``, as a user would."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

COMMAND = str(Path(sys.executable).with_name("isthmus"))

_READY_S = 60.0


def free_port() -> int:
    """A TCP port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def served(folder: Path) -> Iterator[dict[str, str]]:
    """Run a broker with its data below ``folder``; yields the environment in which ``isthmus`` and the SDK find it."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ISTHMUS_")}
    environment["HOME"] = str(folder)
    data, native = folder / "broker", free_port()
    subprocess.run(
        [
            COMMAND,
            "init",
            "--data-dir",
            str(data),
            "--native-port",
            str(native),
            "--ec2-port",
            str(free_port()),
        ],
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    with (folder / "serve.log").open("w") as log:
        process = subprocess.Popen(
            [COMMAND, "serve", "--config", str(data / "isthmus.toml")],
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        _wait_for(native, process, folder / "serve.log")
        yield environment
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _READY_S
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"the broker did not come up:\n{log.read_text()[-2000:]}")
