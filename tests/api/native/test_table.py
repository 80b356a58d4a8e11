"""What is the same for every noun of the table: its list is paged, an unknown one is not found, readers may look."""

from __future__ import annotations

from typing import Any

import pytest

from api.native import create_app
from isthmus.nouns import NOUNS, Noun

DOCUMENT = create_app(None).openapi()  # type: ignore[arg-type]  # the document needs no broker
PATHS = DOCUMENT["paths"]


def rows_with(method: str, path: str) -> pytest.MarkDecorator:
    """The nouns that have such a route."""
    rows = [row for row in NOUNS if row.name != "policy"]  # one is in force, and its versions are listed
    has = [row for row in rows if method in PATHS.get(path.format(row.plural), {})]
    assert len(has) > 8
    return pytest.mark.parametrize("row", has, ids=lambda row: row.name)


@pytest.mark.parametrize("row", NOUNS, ids=lambda row: row.name)
def test_a_noun_has_routes_of_its_own_under_its_name(row: Noun[Any]) -> None:
    mine = [path for path in PATHS if path.split("/")[2:3] == [row.plural]]
    assert mine
    for path in mine:
        for operation in PATHS[path].values():
            assert operation["tags"] == [row.name]


def test_only_what_is_no_noun_has_other_routes() -> None:
    plurals = {row.plural for row in NOUNS}
    others = {path for path in PATHS if path.split("/")[2:3] == [] or path.split("/")[2] not in plurals}
    assert {path.split("/")[2] if path.startswith("/v1/") else path for path in others} == {
        "status",
        "agent",
        "/healthz",
        "/metrics",
    }


@rows_with("get", "/v1/{}")
def test_a_list_is_paged(quiet: Any, row: Noun[Any]) -> None:
    asked = {parameter["name"] for parameter in PATHS[f"/v1/{row.plural}"]["get"]["parameters"]}
    assert {"limit", "page"} <= asked
    answer = quiet.ask("GET", f"/v1/{row.plural}?limit=1", role="member")
    assert answer.status_code == 200
    assert set(answer.json()) == {"items", "next"}
    assert len(answer.json()["items"]) <= 1
    for limit in (0, 1001):
        assert quiet.ask("GET", f"/v1/{row.plural}?limit={limit}").status_code == 400


@rows_with("get", "/v1/{}/{{ref}}")
def test_one_that_is_not_there_is_not_found(quiet: Any, row: Noun[Any]) -> None:
    answer = quiet.ask("GET", f"/v1/{row.plural}/nowhere")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, f"{row.name}_not_found")


@rows_with("delete", "/v1/{}/{{ref}}")
def test_one_that_is_not_there_is_not_deleted(quiet: Any, row: Noun[Any]) -> None:
    answer = quiet.ask("DELETE", f"/v1/{row.plural}/nowhere")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, f"{row.name}_not_found")


@pytest.mark.parametrize("row", NOUNS, ids=lambda row: row.name)
def test_nothing_is_shown_to_who_says_not_who_it_is(quiet: Any, row: Noun[Any]) -> None:
    for path in (path for path in PATHS if path.split("/")[2:3] == [row.plural]):
        for method in PATHS[path]:
            answer = quiet.ask(method.upper(), path.replace("{ref}", "x").replace("{site}", "x"), role=None)
            assert answer.status_code == 401, (method, path)
