"""The host table."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from placement.language import parse
from placement.request import Request
from placement.table import HostTable
from placement.value import AttributeValue

Row = dict[str, AttributeValue]


def test_table_gives_back_what_it_was_made_of() -> None:
    rows: list[Row] = [
        {"name": "a", "cpu_free": 2, "elastic": True, "flags": ["x", "y"], "mixed": 1},
        {"name": "b", "cpu_free": None, "flags": ("x",), "mixed": "text", "big": 10**400},
        {"name": "c", "cpu_free": math.nan, "flags": None, "mixed": ["z"]},
    ]
    table = HostTable.from_rows(rows)
    assert len(table) == 3
    assert list(table) == [
        {"name": "a", "cpu_free": 2.0, "elastic": 1.0, "flags": ("x", "y"), "mixed": 1.0},
        {"name": "b", "flags": ("x",), "mixed": "text", "big": math.inf},
        {"name": "c", "mixed": ("z",)},
    ]
    assert table.names == {"name", "cpu_free", "elastic", "flags", "mixed", "big"}


def test_take_consumes_capacity_of_one_host_and_counts_the_vm() -> None:
    table = HostTable.from_rows(
        [
            {
                "cpu_free": 4,
                "mem_free_mb": 100,
                "disk_free_gb": 10,
                "gpu_free": 1,
                "running_vms": 0,
                "cpu_total": 4,
            }
        ]
        * 2
    )
    table.take(1, Request("a", cpu=1.5, mem_mb=60, disk_gb=4, gpus=1))
    assert table.row(0)["cpu_free"] == 4.0
    assert table.row(1) == {
        "cpu_free": 2.5,
        "mem_free_mb": 40.0,
        "disk_free_gb": 6.0,
        "gpu_free": 0.0,
        "running_vms": 1.0,
        "cpu_total": 4.0,
    }


def test_copy_can_be_consumed_without_touching_the_original() -> None:
    table = HostTable.from_rows([{"cpu_free": 4, "mem_free_mb": 100}])
    copy = table.copy()
    copy.take(0, Request("a", cpu=1, mem_mb=10))
    assert (table.value(0, "cpu_free"), copy.value(0, "cpu_free")) == (4.0, 3.0)


def test_capacity_that_is_no_number_is_undefined() -> None:
    table = HostTable.from_rows([{"cpu_free": "many"}, {"cpu_free": 1}])
    assert [table.value(index, "cpu_free") for index in (0, 1)] == [None, 1.0]


def test_empty_table_has_no_rows() -> None:
    assert len(HostTable.from_rows([])) == 0
    assert HostTable.from_rows([]).names == frozenset()


values = st.one_of(st.none(), st.integers(0, 3), st.sampled_from(["x", "y"]), st.just(["x", "y"]))
cells = st.dictionaries(st.sampled_from(["cpu_free", "running_vms", "site", "flags", "n"]), values)
moments = st.integers(1, 4).flatmap(
    lambda hosts: st.lists(st.lists(cells, min_size=hosts, max_size=hosts), min_size=2, max_size=4)
)
ASKED = ['site == "x"', '"x" in flags && n >= 1', "cpu_free > n", "n / running_vms"]


@settings(max_examples=300, deadline=None)
@given(moments)
def test_table_that_follows_another_is_as_if_it_were_new(times: list[list[Row]]) -> None:
    before, table = times[0], HostTable.from_rows(times[0])
    for now in times[1:]:
        table, old = table.following(before, now), list(table)
        fresh = HostTable.from_rows(now)
        assert list(table) == list(fresh)
        assert table.names == fresh.names
        for text in ASKED:  # twice: computed, and kept
            for _ in range(2):
                assert parse(text).truth(table, {}).tolist() == parse(text).truth(fresh, {}).tolist()
        assert len(old) == len(before)
        before = now


def test_what_is_kept_stays_while_only_capacity_changes() -> None:
    first: list[Row] = [
        {"site": "a", "cpu_free": 4, "running_vms": 0},
        {"site": "b", "cpu_free": 4, "running_vms": 0},
    ]
    table = HostTable.from_rows(first)
    parse('site == "a"').truth(table, {})
    second: list[Row] = [{**first[0], "cpu_free": 1}, first[1]]
    later = table.following(first, second)
    assert later.kept is table.kept
    assert later.column("site") is table.column("site")
    later.take(1, Request("a", 1, 0))
    assert table.row(1)["cpu_free"] == 4, "nobody else's is consumed"
    assert table.row(1)["running_vms"] == 0
    moved: list[Row] = [{**second[0], "site": "b"}, second[1]]
    assert later.following(second, moved).kept is not table.kept
