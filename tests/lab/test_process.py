"""Finding and ending the lab's processes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import process


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A marked process."""
    child = subprocess.Popen(["sleep", "600"], env=process.environment(tmp_path))
    yield child
    child.kill()
    child.wait()


def test_a_marked_process_is_found_by_its_own_lab_only(
    sleeper: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    # The mark is readable from exec on, a moment after fork.
    while Path(f"/proc/{sleeper.pid}/comm").read_text() != "sleep\n":
        pass
    assert process.marked(tmp_path) == [sleeper.pid]
    assert process.marked(tmp_path / "other") == []
    assert process.marked(tmp_path.parent) == []


def test_kill_all_ends_what_is_marked(sleeper: subprocess.Popen[bytes], tmp_path: Path) -> None:
    while Path(f"/proc/{sleeper.pid}/comm").read_text() != "sleep\n":
        pass
    assert process.kill_all(tmp_path) == []
    assert sleeper.wait(timeout=5) == -9


def test_a_process_that_is_no_longer_ours_is_spared(sleeper: subprocess.Popen[bytes]) -> None:
    assert process.kill(sleeper.pid, lambda pid: False)
    assert sleeper.poll() is None


def test_killing_a_process_that_is_gone_is_no_error(sleeper: subprocess.Popen[bytes]) -> None:
    sleeper.kill()
    sleeper.wait()
    assert process.kill(sleeper.pid)
    assert process.started_at(sleeper.pid) == ""


def test_children_are_found(sleeper: subprocess.Popen[bytes]) -> None:
    assert sleeper.pid in process.children(os.getpid())
