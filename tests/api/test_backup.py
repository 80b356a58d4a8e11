"""``isthmus backup`` and ``isthmus restore`` as commands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run(home: Path, module: str, command: str, *options: str) -> subprocess.CompletedProcess[str]:
    code = f"import typer; from {module} import {command}; typer.run({command})"
    environment = {**os.environ, "HOME": str(home), "XDG_DATA_HOME": str(home)}
    return subprocess.run(
        [sys.executable, "-c", code, *options], env=environment, capture_output=True, text=True, timeout=60
    )


def test_a_broker_moves_to_another_directory(tmp_path: Path) -> None:
    data, file, there = tmp_path / "data", tmp_path / "one.backup", tmp_path / "there"
    assert run(tmp_path, "api.commands", "init", "--data-dir", str(data)).returncode == 0
    config = str(data / "isthmus.toml")
    made = run(tmp_path, "api.backup", "backup", str(file), "--config", config, "--with-key", "--with-images")
    assert (made.returncode, made.stderr) == (0, "")
    assert file.stat().st_mode & 0o777 == 0o600
    done = run(tmp_path, "api.backup", "restore", str(file), "--data-dir", str(there))
    assert (done.returncode, done.stderr) == (0, "")
    assert "(config too)" in done.stdout
    assert (there / "isthmus.toml").read_text() == (data / "isthmus.toml").read_text()
    assert [path for path in there.rglob("*") if path.is_file() and path.stat().st_mode & 0o077] == []
    again = run(tmp_path, "api.commands", "init", "--data-dir", str(there))
    assert "kept" in again.stdout  # there is a project, and its token
    once_more = run(tmp_path, "api.backup", "restore", str(file), "--data-dir", str(there))
    assert once_more.returncode == 2
    assert "--replace" in once_more.stderr


def test_what_cannot_be_restored_leaves_no_config_behind(tmp_path: Path) -> None:
    data, file, there = tmp_path / "data", tmp_path / "one.backup", tmp_path / "there"
    run(tmp_path, "api.commands", "init", "--data-dir", str(data))
    run(tmp_path, "api.backup", "backup", str(file), "--config", str(data / "isthmus.toml"))
    failed = run(tmp_path, "api.backup", "restore", str(file), "--data-dir", str(there))
    assert failed.returncode == 2
    assert "put that key file at" in failed.stderr
    assert not (there / "isthmus.toml").exists()
