"""``isthmus init`` and ``isthmus serve`` as commands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def init(home: Path, *options: str) -> str:
    """What ``isthmus init`` says, under the umask that most people have."""
    code = "import os, typer; os.umask(0o022); from api.commands import init; typer.run(init)"
    done = subprocess.run(
        [sys.executable, "-c", code, "--data-dir", str(home / "data"), *options],
        env={**os.environ, "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def test_nobody_else_reads_what_init_writes(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o755)  # as a package may have made it
    client = tmp_path / ".config" / "isthmus" / "client.toml"
    client.parent.mkdir(parents=True)
    client.write_text("")
    client.chmod(0o644)
    secret = next(
        line.split()[1] for line in init(tmp_path, "--tls-name", "b").splitlines() if "ist_" in line
    )
    assert secret in client.read_text()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"key", "isthmus.sqlite3", "isthmus.toml", "server.key", "ca.key"} <= {path.name for path in files}
    assert [path for path in files if path.stat().st_mode & 0o077] == []


def test_init_again_says_what_the_config_lacks_of_what_is_asked(tmp_path: Path) -> None:
    assert "kept as it is" not in init(tmp_path)
    config = tmp_path / "data" / "isthmus.toml"
    said = init(tmp_path, "--listen", "0.0.0.0", "--tls-name", "broker.example.org")
    lines = [line.strip() for line in said.split("write under [listen] in it:\n")[1].splitlines()[:3]]
    assert lines[0] == 'host = "0.0.0.0"'
    kept = config.read_text().replace('host = "127.0.0.1"\n', "")
    config.write_text(kept.replace("[listen]\n", "\n".join(["[listen]", *lines, ""])))
    again = init(tmp_path, "--listen", "0.0.0.0", "--tls-name", "broker.example.org", "--new-token")
    assert "kept as it is" not in again
    assert 'url = "https://127.0.0.1:8770"' in (tmp_path / ".config" / "isthmus" / "client.toml").read_text()


def test_init_again_changes_nothing_and_tells_no_secret(tmp_path: Path) -> None:
    init(tmp_path)
    before = {
        path: path.read_bytes() for path in (tmp_path / "data" / "key", tmp_path / "data" / "isthmus.toml")
    }
    assert "ist_" not in init(tmp_path)
    assert {path: path.read_bytes() for path in before} == before
