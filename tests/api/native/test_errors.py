"""Every code of an error is in docs/reference/errors.md, and every code there exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from api.native import errors as face
from broker import errors

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "reference" / "errors.md"
SOURCES = [
    path
    for folder in ("broker", "api/native", "isthmus/client", "isthmus/cli")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


def codes_in_the_code() -> set[str]:
    found = set()
    for path in SOURCES:
        text = path.read_text()
        if path.parts[-2:] == ("broker", "errors.py"):
            found |= set(re.findall(r'^    code = "(\w+)"', text, re.MULTILINE))
        found |= {f"{noun}_not_found" for noun in re.findall(r'\bNotFound\(\s*"(\w+)"', text)}
        found |= {f"{noun}_exists" for noun in re.findall(r'\bExists\(\s*"(\w+)"', text)}
        found |= set(re.findall(r'\b_answer\(\s*\d+,\s*"(\w+)"', text))
        found |= set(re.findall(r'\bcode"?[=:] ?"(\w+)"', text))
    return found


def codes_on_the_page() -> dict[str, int]:
    rows = re.findall(r"^\| `(\w+)` \| (\d+|-) \|", PAGE.read_text(), re.MULTILINE)
    return {code: int(status) if status != "-" else 0 for code, status in rows}


def test_the_codes_on_the_page_are_the_codes_in_the_code() -> None:
    page, code = set(codes_on_the_page()), codes_in_the_code()
    assert len(code) > 30
    assert code - page == set(), "add these to docs/reference/errors.md"
    assert page - code == set(), "nothing answers these any more"


@pytest.mark.parametrize("kind", [kind for kind in vars(errors).values() if isinstance(kind, type)])
def test_every_refusal_of_the_broker_has_the_status_on_the_page(kind: type) -> None:
    if not issubclass(kind, errors.BrokerError) or kind in (errors.NotFound, errors.Exists):
        return
    status = next((status for base, status in face._STATUSES if issubclass(kind, base)), 500)
    assert codes_on_the_page()[kind.code] == status


def test_what_does_not_exist_is_404_and_what_does_is_409() -> None:
    for code, status in codes_on_the_page().items():
        if code.endswith("_not_found"):
            assert status == 404, code
        if code.endswith("_exists"):
            assert status == 409, code
