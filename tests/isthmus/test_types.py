"""What a type checker tells a user of the SDK: every noun's calls and every exported name have their types."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from isthmus.nouns import NOUNS

ROOT = Path(__file__).parents[2]


def program() -> str:
    """A user's program that says of each row of the table which type it has."""
    lines = ["from typing import assert_type", "import isthmus", "client = isthmus.Client()"]
    for row in NOUNS:
        lines += [
            f"from isthmus.client.{row.name} import {row.calls}",
            f"assert_type(client.{row.plural}, {row.calls})",
        ]
        lines += [f"def f_{name}(it: isthmus.{name}) -> None: ..." for name in row.exports]
    lines += [
        'assert_type(client.vms.create("web", "debian", "small"), isthmus.VM)',
        'assert_type(client.vms.get("web").stop(), isthmus.Operation)',
        'assert_type(client.vms.create("web", "debian", "small", dry_run=True), isthmus.DryRun)',
        'assert_type(client.vms.get("web").stop(dry_run=True), isthmus.DryRun)',
        'assert_type(client.vms.stop("web", dry_run=bool(client)), isthmus.Operation | isthmus.DryRun)',
        'assert_type(client.networks.get("lan").refresh(), isthmus.Network)',
        "client.nonsense",
    ]
    return "\n".join(lines) + "\n"


@pytest.mark.slow
def test_a_program_with_the_sdk_is_typed_throughout(tmp_path: Path) -> None:
    """It runs mypy, which nothing else does with a user's eyes: the table must not cost anybody the types."""
    path = tmp_path / "program.py"
    path.write_text(program())
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    last = len(program().splitlines())
    # Without its folder: mypy's cache says the same of the same program, in the folder where it saw it first.
    said = [line.rpartition("/")[2] for line in done.stdout.splitlines()[:-1]]
    assert said == [f'program.py:{last}: error: "Client" has no attribute "nonsense"  [attr-defined]'], (
        done.stdout + done.stderr
    )
