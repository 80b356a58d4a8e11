"""The reference pages are held to the code."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

import isthmus
from isthmus.cli.reference import write
from isthmus.client import _errors
from isthmus.client import reference as calls
from isthmus.nouns import NOUNS, Noun

DOCS = Path(__file__).parents[2] / "docs" / "reference"


def test_the_page_of_the_command_is_what_the_commands_say() -> None:
    assert (DOCS / "cli.md").read_text() == write(), (
        "run `python -m isthmus.cli.reference > docs/reference/cli.md`"
    )


def test_the_page_of_the_sdk_is_what_the_collections_say() -> None:
    assert (DOCS / "sdk-calls.md").read_text() == calls.write(), (
        "run `python -m isthmus.client.reference > docs/reference/sdk-calls.md`"
    )


@pytest.mark.parametrize("row", NOUNS, ids=lambda row: row.name)
def test_the_page_of_the_sdk_has_every_call_and_verb_of_a_noun(client: Any, row: Noun[Any]) -> None:
    page = (DOCS / "sdk-calls.md").read_text()
    part = page.partition(f"\n## client.{row.plural}\n")[2].partition("\n## ")[0]
    collection = getattr(client, row.plural)
    own = [name for name, _ in inspect.getmembers(type(collection), inspect.isfunction) if name[0] != "_"]
    assert own
    for kind in (getattr(isthmus, name) for name in row.exports):
        own += [
            name
            for name, value in vars(kind).items()
            if inspect.isfunction(value) and name[0] != "_" and name != "model_post_init"
        ]
    assert [name for name in own if f"| `{name}(" not in part] == []


def test_the_page_of_the_sdk_draws_the_tree_of_errors() -> None:
    page = (DOCS / "sdk.md").read_text()
    tree = (_errors.__doc__ or "").split("::\n\n")[1].split("\n\n")[0]
    for line in tree.splitlines():
        assert line.strip().replace("``", "") in page, line
