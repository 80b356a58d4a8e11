"""The two distributions: what each wheel holds and asks for. Built from a copy, with a stub for the compiler, without a network.

That they install and start is shown by ``scripts/package-check``, at the end of ``make package``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVER = ("api", "broker", "placement", "vpn", "providers", "lab", "simulate")
COMPILER = """\
#!/bin/sh
while [ "$1" != -o ]; do shift; done
echo compiled >"$2"
"""


def build(source: Path, into: Path, compiler: str) -> Path:
    """The wheel of a source tree."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    done = subprocess.run(
        [*command, "--wheel-dir", str(into), str(source)],
        env=os.environ | {"CC": compiler, "PIP_NO_INDEX": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = into.iterdir()
    return wheel


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the builds read, so that the compiled kernel of this checkout stays."""
    copy = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("isthmus", *SERVER):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "_kernel*"))
    (copy / "cc").write_text(COMPILER)
    (copy / "cc").chmod(0o755)
    return copy


@pytest.fixture(scope="module")
def sdk(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tree / "isthmus", tmp_path_factory.mktemp("sdk"), "no-compiler")


@pytest.fixture(scope="module")
def server(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tree, tmp_path_factory.mktemp("server"), str(tree / "cc"))


def names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def metadata(wheel: Path) -> Message:
    archive = zipfile.ZipFile(wheel)
    (name,) = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
    return Parser().parsestr(archive.read(name).decode())


def folders(wheel: Path) -> set[str]:
    """Top-level names that the wheel puts into site-packages, but for its own metadata."""
    return {name.split("/")[0] for name in names(wheel) if ".dist-info/" not in name}


def sources(*packages: str) -> set[str]:
    """Every Python file of packages of ours."""
    return {path.relative_to(ROOT).as_posix() for each in packages for path in (ROOT / each).rglob("*.py")}


def requirements(wheel: Path) -> set[str]:
    """Names that it needs without any extra."""
    needed = metadata(wheel).get_all("Requires-Dist", [])
    return {re.split(r"[^\w.-]", each)[0] for each in needed if "extra ==" not in each}


def test_sdk_puts_nothing_but_isthmus_into_site_packages(sdk: Path) -> None:
    assert folders(sdk) == {"isthmus"}
    assert names(sdk) >= sources("isthmus") | {"isthmus/py.typed"}
    assert {name for name in names(sdk) if name.endswith((".toml", ".md"))} == set()


def test_sdk_is_light(sdk: Path) -> None:
    assert requirements(sdk) == {"httpx2", "pydantic", "rich", "typer"}
    assert sdk.name.endswith("-py3-none-any.whl")


def test_server_is_all_the_rest(server: Path, sdk: Path) -> None:
    assert folders(server) == set(SERVER)
    assert names(server) >= sources(*SERVER)
    assert {"broker/store/migrations/script.py.mako", "lab/node-init"} <= names(server)
    assert names(server) & names(sdk) == set()


def test_server_needs_the_sdk_of_its_own_version(server: Path, sdk: Path) -> None:
    version = metadata(sdk)["Version"]
    assert metadata(server)["Version"] == version
    assert f"isthmus=={version}" in metadata(server).get_all("Requires-Dist", [])


def test_server_with_a_compiled_match_is_for_this_platform_only(server: Path) -> None:
    assert "placement/_kernel.so" in names(server)
    assert not server.name.endswith("-any.whl")


def test_server_without_a_compiler_is_for_any_platform(tree: Path, tmp_path: Path) -> None:
    wheel = build(tree, tmp_path, "no-compiler")
    assert "placement/_kernel.so" not in names(wheel)
    assert wheel.name.endswith("-py3-none-any.whl")


def test_both_carry_the_licence(server: Path, sdk: Path) -> None:
    text = (ROOT / "LICENSE").read_bytes()
    for wheel in (server, sdk):
        (name,) = (each for each in names(wheel) if each.endswith("/licenses/LICENSE"))
        assert zipfile.ZipFile(wheel).read(name) == text


def test_commands_and_extras_that_are_named_in_hints_exist(server: Path) -> None:
    from isthmus.cli.main import EXTRAS

    extras = set(metadata(server).get_all("Provides-Extra", []))
    for package in [package for _, package in EXTRAS.values()]:
        name, _, extra = package.partition("[")
        assert name == "isthmus-server"
        assert not extra or extra.rstrip("]") in extras
    assert {"postgres", "kvm", "ec2", "vpn", "simulate", "lab"} <= extras


def test_locks_agree() -> None:
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^[\w.-]+==[^ ]+", (ROOT / "requirements" / name).read_text(), re.MULTILINE))

    assert pins("server.lock") < pins("dev.lock")


def test_lock_has_everything_that_is_asked_for() -> None:
    asked = []
    for path in (ROOT / "pyproject.toml", ROOT / "isthmus" / "pyproject.toml"):
        project = tomllib.loads(path.read_text())
        asked += project["project"].get("dependencies", [])
        hooks = project["tool"]["hatch"].get("metadata", {}).get("hooks", {})
        asked += hooks.get("custom", {}).get("dependencies", [])
        for extra in project["project"].get("optional-dependencies", {}).values():
            asked += extra
    wanted = {re.split(r"[^\w.-]", each)[0].replace(".", "-") for each in asked} - {"isthmus-server"}
    locked = (ROOT / "requirements" / "dev.lock").read_text()
    assert {name for name in wanted if not re.search(rf"^{re.escape(name)}==", locked, re.MULTILINE)} == set()
