"""The tutorial works as written: its commands are run in order, and say what the page says."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "tutorial" / "first-vm.md"
BLOCK = re.compile(r"^```(console|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
VARYING = (
    (r"\b(brk|img|net|vm)-[0-9a-f]{17}\b", r"\1-ID"),
    (r"\bist_[\w.-]+", "TOKEN"),
    (r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\b", "TIME"),
    (r"\b(open for|held for|stayed) \d+s", r"\1 SECONDS"),
    (r"\bopened: ", "open: "),  # it says that it opened only until it is judged again
    (r"(?m)^ *\d+(?=  TIME)", "SEQ"),
)
"""What differs between runs: ids, secrets, times."""
PATIENCE_S = 90.0


@dataclass
class Shell:
    """A newcomer's shell: nothing of this installation in its environment but the command."""

    home: Path
    ports: tuple[int, int]
    servers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("ISTHMUS_", "XDG_"))
        }
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**kept, "HOME": str(self.home), "PATH": path, "COLUMNS": "200"}

    def words(self, line: str) -> list[str]:
        """The line's words, with its ``~`` expanded, and ``init`` given ports that are free."""
        words = [re.sub(r"^~(?=/)", str(self.home), word) for word in shlex.split(line)]
        if words[:2] == ["isthmus", "init"]:
            words += [f"--native-port={self.ports[0]}", f"--ec2-port={self.ports[1]}"]
        return words

    def said(self, line: str) -> str:
        """What the command prints. It must succeed."""
        done = subprocess.run(
            self.words(line),
            cwd=self.home,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, f"{line}: {done.stderr}"
        return done.stdout

    def serve(self, line: str) -> None:
        """Leave the command running, and wait until it answers."""
        with (self.home / "serve.log").open("wb") as log:
            server = subprocess.Popen(
                self.words(line), cwd=self.home, env=self.environment, stdout=log, stderr=log
            )
        self.servers.append(server)
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.ports[0]), timeout=1).close()
                return
            except OSError:
                assert server.poll() is None, (self.home / "serve.log").read_text()
                assert time.monotonic() < end
                time.sleep(0.1)

    def alike(self, text: str) -> str:
        """The text without what differs between runs and machines."""
        text = text.replace(str(self.home), "/home/me").replace(f":{self.ports[0]}", ":8770")
        for pattern, word in VARYING:
            text = re.sub(pattern, word, text)
        return "\n".join(line.rstrip() for line in text.strip().splitlines())


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    with socket.create_server(("127.0.0.1", 0)) as native, socket.create_server(("127.0.0.1", 0)) as ec2:
        ports = (native.getsockname()[1], ec2.getsockname()[1])
    it = Shell(tmp_path, ports)
    yield it
    for server in it.servers:
        server.terminate()
        server.wait(timeout=30)


@pytest.mark.slow
def test_tutorial_works_as_written(shell: Shell) -> None:
    """Half a minute, since a policy opens, closes and drains in it: no other test reads the page as a newcomer does."""
    ran = 0
    for kind, text in BLOCK.findall(PAGE.read_text()):
        if kind == "yaml":
            (shell.home / "policy.yaml").write_text(text)
            continue
        for part in re.split(r"(?m)^\$ ", text)[1:]:
            line, _, shown = part.partition("\n")
            ran += 1
            if line.startswith("isthmus serve"):
                shell.serve(line)
                continue
            wanted = shell.alike(shown)
            said = shell.alike(shell.said(line))
            end = time.monotonic() + PATIENCE_S
            while wanted != said and line.startswith("isthmus event list") and time.monotonic() < end:
                time.sleep(0.5)  # the page says to wait
                said = shell.alike(shell.said(line))
            if wanted:
                assert said == wanted, line
    assert ran > 20
