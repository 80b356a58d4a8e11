"""The lab's commands, without a lab. With one: test_burst.py."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from lab import command
from lab.lab import Lab, LabError
from lab.lock import only_one
from lab.node import NodeError

Run = Callable[..., Result]


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Shorter than pytest's own: a lab's sockets must fit into 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="isl-") as folder:
        yield Path(folder)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs ``lab WORDS --dir TMP``, as if by root."""
    monkeypatch.setattr(command, "require_root", lambda: None)
    return lambda *words: CliRunner().invoke(command.lab, [*words, f"--dir={tmp_path / 'lab'}"])


def test_status_of_no_lab_is_down_and_no_success(run: Run) -> None:
    seen = run("status", "--json")
    assert seen.exit_code == 1
    assert json.loads(seen.stdout)["state"] == "down"
    assert run("status").stdout.startswith("lab       down, in ")


def test_down_without_a_lab_is_fine(run: Run) -> None:
    done = run("down")
    assert (done.exit_code, done.stdout) == (0, "leftovers: 0\n")


def test_a_shell_without_a_lab_says_what_to_do(run: Run) -> None:
    done = run("shell")
    assert done.exit_code == 1
    assert "`isthmus lab up` brings one up" in done.stderr


def test_commands_to_look_around_are_shown_as_they_can_be_typed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "isthmus").write_text("#!/bin/sh\n")
    (programs / "isthmus").chmod(0o755)
    monkeypatch.setattr("sys.executable", str(programs / "python"))
    monkeypatch.chdir(tmp_path)
    for path, shown in (("/usr/bin", ".venv/bin/isthmus lab down"), (str(programs), "  isthmus lab down")):
        monkeypatch.setenv("PATH", path)
        command._look_around(tmp_path)
        assert shown in capsys.readouterr().out


def test_two_commands_on_one_lab_are_one_too_many(run: Run, tmp_path: Path) -> None:
    with only_one(tmp_path / "lab"):
        done = run("down")
    assert done.exit_code == 1
    assert "another command works on the lab" in done.stderr


def test_a_directory_that_is_too_long_is_told_in_words(run: Run, tmp_path: Path) -> None:
    done = CliRunner().invoke(command.lab, ["status", f"--dir={tmp_path / ('x' * 100)}"])
    assert done.exit_code == 1
    assert "longer than the 107 bytes" in done.stderr


def test_without_root_the_lab_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    for words in (["up"], ["down"], ["status"], ["shell"], ["demo"]):
        done = CliRunner().invoke(command.lab, [*words, f"--dir={tmp_path / 'lab'}"])
        assert done.exit_code == 1
        assert "needs root" in done.stderr


def test_a_demo_that_fails_says_what_failed_and_takes_everything_down(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "left-by-a-killed-run").touch()

    def up(self: Lab, progress: object) -> None:
        assert not self.directory.exists()
        self.directory.mkdir()
        raise NodeError("no room for a node")

    monkeypatch.setattr(Lab, "up", up)
    done = run("demo")
    assert done.exit_code == 1
    assert "error: no room for a node" in done.stderr
    assert "demo ok" not in done.stdout
    assert done.stdout.count("leftovers: 0") == 2
    assert not (tmp_path / "lab").exists()


def test_a_demo_that_fails_half_way_prints_the_logs_and_takes_everything_down(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Show:
        def __init__(self, lab: Lab, timeline: object) -> None:
            self.timeline, self.events = timeline, self

        def silence(self) -> None:
            pass

        def run(self) -> None:
            raise LabError("the guest is mute")

    monkeypatch.setattr(Lab, "up", lambda self, progress: self.directory.mkdir())
    monkeypatch.setattr(Lab, "logs", lambda self: {"campus broker": "it said this"})
    monkeypatch.setattr(command, "Demo", Show)
    done = run("demo")
    assert done.exit_code == 1
    assert "failed: the guest is mute" in done.stdout
    assert "--- campus broker\nit said this" in done.stdout
    assert done.stdout.rstrip().endswith("leftovers: 0")
    assert not (tmp_path / "lab").exists()
