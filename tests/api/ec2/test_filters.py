"""Filters and pages."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.ec2 import filters
from api.ec2.fault import Fault
from api.ec2.paging import _query, page, position

FIELDS = {"name": lambda item: (item["name"],), "size": lambda item: item.get("sizes", ())}
ITEMS: list[dict[str, Any]] = [
    {"name": "web-1", "tags": {"tier": "web", "Env": "prod"}, "sizes": ("1", "2")},
    {"name": "web-2", "tags": {"tier": "web"}},
    {"name": "db[1]", "tags": {"tier": "db*"}},
]


def names(*given: tuple[str, ...]) -> list[str]:
    admits = filters.matcher(
        [{"Name": name, "Values": list(values)} for name, *values in given], FIELDS, lambda item: item["tags"]
    )
    return [item["name"] for item in ITEMS if admits(item)]


def test_filters_are_anded_and_their_values_ored() -> None:
    assert names() == ["web-1", "web-2", "db[1]"]
    assert names(("name", "web-1", "db[1]")) == ["web-1", "db[1]"]
    assert names(("name", "web-1", "db[1]"), ("tag:tier", "web")) == ["web-1"]
    assert names(("size", "2")) == ["web-1"]
    assert names(("tag-key", "Env")) == ["web-1"]
    assert names(("tag-value", "web")) == ["web-1", "web-2"]
    assert names(("tag:Absent", "*")) == []


def test_star_question_mark_and_backslash_mean_what_ec2_says_and_brackets_nothing() -> None:
    assert names(("name", "web-*")) == ["web-1", "web-2"]
    assert names(("name", "web-?")) == ["web-1", "web-2"]
    assert names(("name", "WEB-*")) == []
    assert names(("name", "db[1]")) == ["db[1]"]
    assert names(("name", "*")) == ["web-1", "web-2", "db[1]"]
    assert names(("tag:tier", "db\\*")) == ["db[1]"]
    assert names(("tag:tier", "we\\*")) == []
    assert names(("tag:tier", "we\\b")) == ["web-1", "web-2"]


def test_an_unknown_filter_and_one_without_a_value_are_refused() -> None:
    for given_, words in ((("nme", "x"), "The filter 'nme' is invalid"), (("name",), "must have a value")):
        with pytest.raises(Fault, match=words) as caught:
            names(given_)
        assert caught.value.code == "InvalidParameterValue"
    with pytest.raises(Fault) as caught:
        names(("name", *map(str, range(201))))
    assert caught.value.code == "FilterLimitExceeded"


@given(st.text("ab*?\\", max_size=8), st.text("ab", max_size=8))
def test_patterns_match_like_a_regular_expression(pattern: str, text: str) -> None:
    import re

    expression, characters = "", iter(pattern)
    for character in characters:
        expression += {"*": ".*", "?": "."}.get(character) or re.escape(
            next(characters, "\\") if character == "\\" else character
        )
    assert filters.matches(filters.pattern(pattern), text) == bool(re.fullmatch(expression, text))


def test_a_pattern_of_many_stars_is_quick() -> None:
    began = time.perf_counter()
    assert not filters.matches(filters.pattern("*a" * 100 + "b"), "a" * 255)
    assert time.perf_counter() - began < 0.5


def page_of(items: list[str], **params: Any) -> tuple[list[str], str | None]:
    """The page of those after the token's position, as a query would give them."""
    after = position(params)
    return page((item for item in items if after is None or item > after), str, params, ids=["Ids"])


def pages(items: list[str], limit: int) -> list[list[str]]:
    token, found = None, []
    while True:
        some, token = page_of(items, MaxResults=limit, **({"NextToken": token} if token else {}))
        found.append(list(some))
        if token is None:
            return found


def test_pages_hold_everything_once_and_the_last_has_no_token() -> None:
    items = [f"{n:02d}" for n in range(12)]
    assert [len(some) for some in pages(items, 5)] == [5, 5, 2]
    assert [item for some in pages(items, 6) for item in some] == items
    assert page(items, str, {}) == (items, None)


def test_nothing_is_skipped_when_something_goes_between_two_pages() -> None:
    items = [f"{n:02d}" for n in range(12)]
    some, token = page_of(items, MaxResults=5)
    assert some == items[:5]
    rest, _ = page_of(items[3:], MaxResults=5, NextToken=token)
    assert rest == items[5:10]


def made_up(after: str | int) -> str:
    """A token with anything in it, for a request without parameters."""
    return base64.urlsafe_b64encode(json.dumps([after, _query({})]).encode()).decode()


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"MaxResults": 4}, "InvalidParameterValue"),
        ({"MaxResults": 1001}, "InvalidParameterValue"),
        ({"MaxResults": 5, "Ids": ["x"]}, "InvalidParameterCombination"),
        ({"NextToken": "nonsense"}, "InvalidParameterValue"),
        ({"NextToken": "Wzdd"}, "InvalidParameterValue"),
        ({"NextToken": made_up("a\x00")}, "InvalidParameterValue"),
        ({"NextToken": made_up("\ud800")}, "InvalidParameterValue"),
        ({"NextToken": made_up(5)}, "InvalidParameterValue"),
    ],
)
def test_wrong_paging_is_refused(params: dict[str, Any], code: str) -> None:
    with pytest.raises(Fault) as caught:
        page_of(["a"], **params)
    assert caught.value.code == code


def test_a_token_belongs_to_the_filters_it_was_made_for() -> None:
    items = [f"{n:02d}" for n in range(12)]
    _, token = page(items, str, {"MaxResults": 5, "Filters": [{"Name": "a", "Values": ["b"]}]})
    with pytest.raises(Fault, match="belongs to another request"):
        page_of(items, MaxResults=5, NextToken=token)
