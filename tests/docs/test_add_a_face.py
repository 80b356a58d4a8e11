"""``docs/how-to/add-a-face.md`` works as written, and says all that must be touched."""

from __future__ import annotations

import re
from typing import Any

import pytest

PAGE = "docs/how-to/add-a-face.md"
HELD = (
    "tests/api/plain",
    "tests/api/test_faces.py",
    "tests/docs/test_docs.py::test_reference_has_every_setting_with_its_default",
)
ASK = """\
import asyncio, os, pathlib, signal, sys, urllib.error, urllib.request
from api import server
from broker.sealing import Sealer
from broker.settings import Settings

folder = pathlib.Path(sys.argv[1])
Sealer.create_file(folder / "key")
settings = Settings(data_dir=folder, listen={f"{face}_port": 0 for face in server.FACES})

def ask(url):
    try:
        urllib.request.urlopen(url, timeout=30)
    except urllib.error.HTTPError as refused:
        print(refused.code, refused.read().decode().partition(":")[0])
    os.kill(os.getpid(), signal.SIGTERM)

def ready(urls):
    asyncio.get_running_loop().run_in_executor(None, ask, urls["plain"] + "/vms")

server.serve(settings, ready)
"""
"""Serves all faces, asks the new one who one is, and ends."""


@pytest.mark.slow
def test_a_face_is_added_as_the_page_says(scratch: Any, tmp_path: Any) -> None:
    """Half a minute, since it is served: without that the page would be a wish."""
    copy = scratch()
    touched = copy.follow(PAGE)
    for what, most in (("code", 4), ("tests", 0), ("docs", 3)):
        assert len(touched.of(what)) <= most, touched.of(what)
    assert len(touched.new) <= 3

    (tmp_path / "data").mkdir()
    assert copy.python("-c", ASK, str(tmp_path / "data")) == "401 unauthenticated\n"

    copy.python("-m", "ruff", "check", ".")
    copy.python("-m", "ruff", "format", "--check", ".")
    copy.python("-c", "from importlinter.cli import lint_imports_command; lint_imports_command()")
    ran = re.search(r"(\d+) passed", copy.python("-m", "pytest", "-q", "-p", "no:cacheprovider", *HELD))
    assert ran is not None
    assert int(ran[1]) > 5
