"""The reference pages are held to the code."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import isthmus
from isthmus.cli.reference import write
from isthmus.client import _errors
from isthmus.client._client import Client

DOCS = Path(__file__).parents[2] / "docs" / "reference"


def test_the_page_of_the_command_is_what_the_commands_say() -> None:
    assert (DOCS / "cli.md").read_text() == write(), (
        "run `python -m isthmus.cli.reference > docs/reference/cli.md`"
    )


def collections(client: Any) -> dict[str, Any]:
    names = [n for n, v in inspect.getmembers(Client) if hasattr(v, "func") and not n.startswith("_")]
    return {name: getattr(client, name) for name in names}


def test_the_page_of_the_sdk_has_every_collection_and_every_call(client: Any) -> None:
    page = (DOCS / "sdk.md").read_text()
    found = collections(client)
    assert len(found) == 19
    for name, collection in found.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `client.{name}` |"))
        calls = [n for n, _ in inspect.getmembers(type(collection), inspect.isfunction) if n[0] != "_"]
        only = "only " in row
        for call in calls:
            common = call in ("create", "get", "list", "delete") and not only
            assert common or f"`{call}(" in row, f"client.{name}.{call}"
        if only:
            assert set(re.findall(r"`(\w+)\(", row.split("|")[2])) == set(calls), name


@pytest.mark.parametrize("name", ["VM", "Site", "Host", "Image", "Network", "Operation"])
def test_the_page_of_the_sdk_has_every_verb(name: str) -> None:
    page = (DOCS / "sdk.md").read_text()
    kind = getattr(isthmus, name)
    for verb, value in vars(kind).items():
        if (
            inspect.isfunction(value)
            and not verb.startswith("_")
            and verb not in ("refresh", "delete", "model_post_init")
        ):
            assert f"`{verb}(" in page, verb


def test_the_page_of_the_sdk_draws_the_tree_of_errors() -> None:
    page = (DOCS / "sdk.md").read_text()
    tree = (_errors.__doc__ or "").split("::\n\n")[1].split("\n\n")[0]
    for line in tree.splitlines():
        assert line.strip().replace("``", "") in page, line
