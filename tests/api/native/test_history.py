"""/v1 stays what it was: whatever a client of a recorded release may send or read is still there."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest

from api.native.history import RELEASES, differences, recorded, shape

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "api-history.md"
VERSIONS = sorted(path.stem for path in RELEASES.glob("*.json"))


@pytest.mark.parametrize("version", VERSIONS)
def test_nothing_of_a_release_has_gone(version: str) -> None:
    assert differences(recorded(version), shape()).gone == ()


@pytest.mark.parametrize("version", VERSIONS)
def test_what_has_changed_since_a_release_is_on_the_page_and_nothing_else(version: str) -> None:
    section = PAGE.read_text().partition(f"## Since {version}\n")[2].partition("\n## ")[0]
    changed = re.findall(r"^- (.*)$", section.partition("Changed:")[2].partition("New:")[0], re.MULTILINE)
    found = differences(recorded(version), shape()).changed
    assert [line.partition(". ")[0].rstrip(".") for line in changed] == list(found)


def test_the_first_release_is_recorded() -> None:
    assert "0.1.0" in VERSIONS


def test_a_route_a_parameter_a_field_and_a_kind_that_change_are_noticed() -> None:
    before = shape()
    now = copy.deepcopy(before)
    del now["routes"]["GET /v1/status"]
    now["routes"]["GET /v1/vms"].remove("label")
    now["routes"]["GET /v1/moons"] = []
    del now["models"]["VM"]["host"]
    now["models"]["VM"]["priority"] = "string"
    now["required"]["VMCreate"].append("site")
    found = differences(before, now)
    assert set(found.gone) == {"`GET /v1/status`", "`GET /v1/vms?label=`", "`VM.host`"}
    assert set(found.changed) == {"`VM.priority`: integer, now string", "`VMCreate.site`: now required"}
    assert found.new == ("`GET /v1/moons`",)
