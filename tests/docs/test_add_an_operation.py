"""``docs/how-to/add-an-operation.md`` works as written, and says all that must be touched."""

from __future__ import annotations

import re
from typing import Any

import pytest

PAGE = "docs/how-to/add-an-operation.md"
HELD = (
    "tests/broker/engine/test_phases.py",
    "tests/broker/engine/test_declaration.py",
    "tests/broker/engine/test_dbos.py",
    "tests/broker/test_access.py",
    "tests/broker/test_dry_run.py",
    "tests/docs/test_docs.py",
)
OF_THE_OPERATION = "look or scene or in_the_table or declarations_say or kind_of_event"


@pytest.mark.slow
def test_an_operation_is_added_as_the_page_says(scratch: Any) -> None:
    """Half a minute, since its proof is run: without that the page would be a wish."""
    copy = scratch()
    touched = copy.follow(PAGE)
    for what, most in (("code", 4), ("tests", 4), ("docs", 3)):
        assert len(touched.of(what)) <= most, touched.of(what)
    assert touched.new == {"broker/engine/vm_look.py"}

    copy.python("-m", "ruff", "check", ".")
    copy.python("-m", "ruff", "format", "--check", ".")
    copy.python("-c", "from importlinter.cli import lint_imports_command; lint_imports_command()")
    marks = "not slow and not postgres"
    asked = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", marks, "-k", OF_THE_OPERATION, *HELD)
    ran = re.search(r"(\d+) passed", copy.python(*asked))
    assert ran is not None
    assert int(ran[1]) > 10
