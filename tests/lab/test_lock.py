"""One command at a time on a lab."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lab.lock import Busy, only_one

HOLD = """
import pathlib, sys
from lab.lock import only_one
with only_one(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_command_on_the_same_lab_is_refused_and_on_another_is_not(tmp_path: Path) -> None:
    with only_one(tmp_path):
        with pytest.raises(Busy, match="another command works on the lab"), only_one(tmp_path):
            pass
        with only_one(tmp_path / "other"):
            pass
    with only_one(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_killed_command_holds_nothing(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(Busy), only_one(tmp_path):
        pass
    holder.kill()
    holder.communicate()
    with only_one(tmp_path):
        pass
