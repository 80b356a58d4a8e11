"""``docs/how-to/add-a-noun.md`` works as written, and says all that must be touched."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PAGE = "docs/how-to/add-a-noun.md"
SDK = """\
import isthmus

client = isthmus.Client()
made = client.notes.create("todo", "buy cables")
assert isinstance(made, isthmus.Note)
assert [note.id for note in client.notes.list()] == [made.id]
assert client.notes.get("todo").refresh().text == "buy cables"
assert client._http.get(type(made), f"/v1/notes/{made.id}").id == made.id
made.delete()
assert list(client.notes.list()) == []
"""
HELD = (
    "tests/isthmus",
    "tests/api/native/test_note.py",
    "tests/api/native/test_reference.py",
    "tests/api/native/test_table.py",
    "tests/broker/store/test_database.py",
    "tests/broker/test_access.py",
    "tests/docs/test_docs.py",
)
OF_THE_NOUN = (
    "note or reference or public or checkers or in_the_table or rows_of_the_table or no_noun or exactly_what"
)
"""What a noun is held to: the tests that go through the table or hold the pages, and its own."""


@pytest.fixture
def grown(scratch: Any) -> Any:
    """A copy of the sources with the page's noun, and what was touched for it."""
    copy = scratch()
    versions = copy.folder / "broker" / "store" / "migrations" / "versions"
    newest = max(path.name[:4] for path in versions.glob("[0-9]*.py"))
    return copy, copy.follow(PAGE, NNNN=f"{int(newest) + 1:04}", MMMM=newest)


@pytest.fixture
def served(grown: Any, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of somebody whose broker has the noun, and runs."""
    copy, _ = grown
    with socket.create_server(("127.0.0.1", 0)) as native, socket.create_server(("127.0.0.1", 0)) as ec2:
        ports = (native.getsockname()[1], ec2.getsockname()[1])
    home = tmp_path / "home"
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ISTHMUS_", "XDG_"))}
    env = {**kept, "HOME": str(home), "PYTHONPATH": str(copy.folder)}
    command = ("-m", "isthmus.cli.main")
    data = home / "data"
    asked = ("init", "--data-dir", str(data), "--native-port", str(ports[0]), "--ec2-port", str(ports[1]))
    copy.python(*command, *asked, env=env)
    with (home / "serve.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, *command, "serve", "--config", str(data / "isthmus.toml")],
            cwd=copy.folder,
            env=env,
            stdout=log,
            stderr=log,
        )
    try:
        end = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", ports[0]), timeout=1).close()
                break
            except OSError:
                assert server.poll() is None, (home / "serve.log").read_text()
                assert time.monotonic() < end
                time.sleep(0.1)
        yield env
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=30)


@pytest.mark.slow
def test_a_noun_is_added_as_the_page_says(grown: Any, served: dict[str, str]) -> None:
    """Half a minute, since a broker is served and tests run in the copy: without it the page would be a wish."""
    copy, touched = grown
    for what, most in (("code", 4), ("tests", 0), ("docs", 3)):
        assert len(touched.of(what)) <= most, touched.of(what)
    assert len(touched.new) <= 9

    copy.python("-c", SDK, env=served)

    def note(*words: str) -> str:
        return str(copy.python("-m", "isthmus.cli.main", "note", *words, env=served))

    assert note("create", "todo", "--text", "buy cables").startswith("todo is kept (note-")
    (listed,) = json.loads(note("list", "--json"))
    assert listed == json.loads(note("show", "todo", "--json"))
    assert listed["text"] == "buy cables"
    assert "buy cables" in note("list")
    assert note("delete", "todo") == "todo is deleted\n"
    assert json.loads(note("list", "--json")) == []

    copy.python("-m", "ruff", "check", ".")
    copy.python("-m", "ruff", "format", "--check", ".")
    run = ("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not slow and not postgres")
    ran = re.search(r"(\d+) passed", copy.python(*run, "-k", OF_THE_NOUN, *HELD))
    assert ran is not None
    assert int(ran[1]) > 60
