"""A how-to page that is followed to the letter in a copy of the sources.

A fenced block whose first line names a file after the language is that file, or a ``diff`` laid over it; lines of
``console`` blocks that begin with ``$`` are run.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LEFT_BEHIND = shutil.ignore_patterns(
    ".git", ".venv", "__pycache__", ".*_cache", ".hypothesis", "dist", "build", "*.egg-info"
)


def laid_over(text: str, diff: str, name: str) -> str:
    """A file's text with a diff's hunks (``@@`` between them) laid over it, each at the first place where it fits."""
    lines = text.splitlines()
    for hunk in re.split(r"(?m)^@@.*\n", diff):
        steps = [line or " " for line in hunk.splitlines()]
        there = [re.escape(line[1:]).replace(r"\.\.\.", ".*") for line in steps if line[0] != "+"]
        start = next(
            (
                at
                for at in range(len(lines) - len(there) + 1)
                if all(re.fullmatch(p, line) for p, line in zip(there, lines[at:], strict=False))
            ),
            None,
        )
        assert start is not None, f"{name} has no place any more for:\n{hunk}"
        at = start
        fresh = []
        for line in steps:
            if line[0] == "+":
                fresh.append(line[1:])
                continue
            if line[0] == " ":
                fresh.append(lines[at])
            at += 1
        lines[start:at] = fresh
    return "\n".join(lines) + "\n"


@dataclass
class Touched:
    """What following a page touched: new files, files edited by hand, files that a command wrote."""

    new: set[str] = field(default_factory=set)
    edited: set[str] = field(default_factory=set)
    written: set[str] = field(default_factory=set)

    def of(self, what: str) -> set[str]:
        """The files edited by hand of ``docs``, ``tests`` or ``code``."""
        return {path for path in self.edited if _kind(path) == what}


def _kind(path: str) -> str:
    if path.endswith(".md"):
        return "docs"
    return "tests" if path.startswith("tests/") else "code"


class Scratch:
    """A copy of the sources."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(ROOT, folder, ignore=LEFT_BEHIND)

    def python(self, *words: str, env: dict[str, str] | None = None, timeout_s: float = 300) -> str:
        """What a Python of this installation prints in the copy, whose packages go before the installed ones."""
        done = subprocess.run(
            [sys.executable, *words],
            cwd=self.folder,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def follow(self, page: str, **words: str) -> Touched:
        """Do what a page says, with some of its words replaced. Returns what it touched."""
        touched = Touched()
        text = (ROOT / page).read_text()
        for word, value in words.items():
            text = text.replace(word, value)
        for language, name, body in BLOCK.findall(text):
            path = self.folder / name
            if language == "console":
                for line in re.findall(r"(?m)^\$ (.*)$", body):
                    command, _, target = line.partition(" > ")
                    program, *rest = command.split()
                    assert program == ".venv/bin/python", line
                    (self.folder / target).write_text(self.python(*rest))
                    touched.written.add(target)
            elif language == "diff":
                path.write_text(laid_over(path.read_text(), body, name))
                touched.edited.add(name)
            elif name:
                assert not path.exists(), f"{name} is there already"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(body)
                touched.new.add(name)
        return touched


@pytest.fixture
def scratch(tmp_path: Path) -> Callable[[], Scratch]:
    """Makes a copy of the sources."""
    return lambda: Scratch(tmp_path / "sources")
