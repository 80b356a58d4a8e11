"""Files that services and tools read and the tests do not run: CI, hooks, templates, fragments of the changelog."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]


def read(path: Path) -> Any:
    return YAML(typ="safe").load(path.read_text())


def test_ci_runs_on_every_python_that_is_promised() -> None:
    promised = {}
    for name in ("pyproject.toml", "isthmus/pyproject.toml"):
        project = tomllib.loads((ROOT / name).read_text())["project"]
        found = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
        assert project["requires-python"] == f">={found[0]}"
        promised[name] = found
    (job,) = read(ROOT / ".github/workflows/ci.yml")["jobs"].values()
    assert [job["strategy"]["matrix"]["python"]] * 2 == list(promised.values())
    assert job["steps"][-1]["run"].endswith(" .ci/run")


def test_hooks_fetch_nothing_and_run_tools_of_the_lock() -> None:
    (repository,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    locked = (ROOT / "requirements/dev.lock").read_text()
    for hook in repository["hooks"]:
        assert hook["language"] == "system"
        tool = hook["entry"].split()[0].removeprefix(".venv/bin/").replace("lint-imports", "import-linter")
        assert re.search(rf"^{tool}==", locked, re.MULTILINE), tool


@pytest.mark.parametrize("name", ["defect.yml", "wish.yml"])
def test_issue_form_has_what_a_form_needs(name: str) -> None:
    form = read(ROOT / ".github/ISSUE_TEMPLATE" / name)
    assert {"name", "description", "body"} <= set(form)
    for part in form["body"]:
        assert part["type"] in ("markdown", "input", "textarea")
        assert part["type"] == "markdown" or (part["id"] and part["attributes"]["label"])


def test_every_change_is_one_line_of_a_known_kind() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["towncrier"]
    kinds = "|".join(each["directory"] for each in tool["type"])
    for path in (ROOT / "changelog.d").iterdir():
        if path.name != "README.md":
            assert re.fullmatch(rf"\+[a-z0-9-]+\.({kinds})\.md", path.name), path.name
            assert not path.read_text().startswith(("-", "*")), path.name


def test_changes_go_into_the_changelog_at_a_release() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["towncrier"]
    assert tool["start_string"] in (ROOT / "CHANGELOG.md").read_text()
    command = [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "9.9.9"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "## [9.9.9]" in done.stdout


def test_every_package_has_a_floor_of_coverage() -> None:
    floors = re.findall(r"^(\w+): \d+$", (ROOT / "scripts/coverage").read_text(), re.MULTILINE)
    assert (
        floors
        == tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["coverage"]["run"]["source_pkgs"]
    )
