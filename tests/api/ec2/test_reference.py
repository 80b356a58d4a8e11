"""docs/reference/ec2.md is held to the code."""

from __future__ import annotations

import re
from pathlib import Path

from api.ec2 import ACTIONS, fault, ids

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "reference" / "ec2.md").read_text()


def section(title: str) -> str:
    return TEXT.split(f"## {title}\n")[1].split("\n## ")[0]


def test_the_actions_of_the_reference_are_those_that_are_served() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", section("Actions"), re.MULTILINE)) == set(ACTIONS)


def test_every_code_that_is_raised_is_in_the_reference_with_its_status() -> None:
    listed = {}
    for codes, status in re.findall(r"^\| (`.+?) \| (\d+) \|", section("Errors"), re.MULTILINE):
        for code in re.findall(r"`([^`]+)`", codes):
            listed[code] = int(status)
    raised = set(fault._CODES.values())
    for file in (ROOT / "api" / "ec2").glob("*.py"):
        raised |= set(re.findall(r'Fault\(\s*"([A-Za-z.]+)"', file.read_text()))
    raised |= {f"{kind.code}.{word}" for kind in ids.KINDS.values() for word in ("NotFound", "Malformed")}
    raised |= {"InvalidParameterValue", "MissingParameter", "UnknownParameter"}
    assert raised == set(listed)
    for code, status in listed.items():
        assert fault.Fault(code, "").status == status, code
