"""Lists come in pages that neither repeat nor hide an item."""

from __future__ import annotations

from typing import Any

import pytest


def pages(world: Any, path: str, limit: int) -> list[list[Any]]:
    found, token = [], None
    while True:
        query = f"{'&' if '?' in path else '?'}limit={limit}" + (f"&page={token}" if token else "")
        answer = world.ask("GET", path + query)
        assert answer.status_code == 200, answer.text
        found.append(answer.json()["items"])
        token = answer.json()["next"]
        if token is None:
            return found


def test_a_list_is_whole_over_its_pages(world: Any) -> None:
    for i in range(7):
        size = {"name": f"f{i}", "vcpus": 8 - i % 3, "mem_mb": 256, "disk_gb": 1}
        assert world.ask("POST", "/v1/flavors", size).status_code == 201
    in_one = pages(world, "/v1/flavors", 1000)[0]
    by_three = pages(world, "/v1/flavors", 3)
    assert [len(page) for page in by_three] == [3, 3, 1]
    assert [item for page in by_three for item in page] == in_one
    assert [len(page) for page in pages(world, "/v1/flavors", 7)] == [7]


def test_items_that_come_and_go_between_pages_neither_repeat_nor_hide_others(world: Any) -> None:
    for name in "bdfh":
        world.ask("POST", "/v1/flavors", {"name": name, "vcpus": 1, "mem_mb": 256, "disk_gb": 1})
    first = world.ask("GET", "/v1/flavors?limit=2").json()
    assert [item["name"] for item in first["items"]] == ["b", "d"]
    world.ask("DELETE", "/v1/flavors/d")
    world.ask("POST", "/v1/flavors", {"name": "a", "vcpus": 1, "mem_mb": 256, "disk_gb": 1})
    second = world.ask("GET", f"/v1/flavors?limit=2&page={first['next']}").json()
    assert [item["name"] for item in second["items"]] == ["f", "h"]
    assert second["next"] is None


@pytest.mark.parametrize("path", ["/v1/vms", "/v1/operations", "/v1/events?after=0"])
def test_vms_operations_and_events_are_paged_by_the_broker(furnished: Any, path: str) -> None:
    for i in range(5):
        made = furnished.ask("POST", "/v1/vms", {"name": f"vm{i}", "image": "tiny", "flavor": "small"})
        furnished.client().operations.get(made.json()["operation"]["id"]).wait(30)
    whole = pages(furnished, path, 1000)[0]
    assert len(whole) >= 5
    by_two = [item for page in pages(furnished, path, 2) for item in page]
    assert by_two == whole


@pytest.mark.parametrize("path", ["/v1/vms", "/v1/operations", "/v1/events", "/v1/flavors"])
@pytest.mark.parametrize("token", ["W10", "bm8", "eyJ9", "W1tdXQ", "x" * 1024, "Ww" * 512])
def test_a_page_token_of_anybodys_making_is_a_mistake_of_the_asker(
    furnished: Any, path: str, token: str
) -> None:
    assert furnished.ask("GET", f"{path}?page={token}").status_code in (200, 400)


def test_hosts_are_paged_by_site_and_name(world: Any) -> None:
    for site in ("b", "a"):
        body = {"name": site, "kind": "simulated", "options": {"hosts": 3}}
        assert world.ask("POST", "/v1/sites", body).status_code == 201
    found = [(host["site"], host["name"]) for page in pages(world, "/v1/hosts", 2) for host in page]
    assert found == sorted(found)
    assert len(found) == 6
    assert len(pages(world, "/v1/hosts?site=a", 2)) == 2
