"""The match: the same as the plain greedy, host by host and VM by VM."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement.kernel import KERNEL, Kernel
from placement.language import parse
from placement.match import Matcher, feasible, match
from placement.request import Decision, Request
from placement.table import HostTable
from placement.value import AttributeValue, truth_of

CAPACITY = ("cpu_free", "mem_free_mb", "disk_free_gb", "gpu_free")


def greedy(rows: list[dict[str, Any]], requests: list[Request], eligible: list[bool]) -> list[Decision]:
    """The definition of the match, in plain Python over plain dictionaries, with the interpreter for expressions."""
    rows = [dict(row) for row in rows]
    decisions = []
    for request in requests:
        found: list[tuple[float, int, float | None]] = []
        for index, row in enumerate(rows):
            amounts = zip(CAPACITY, (request.cpu, request.mem_mb, request.disk_gb, request.gpus), strict=True)
            if not eligible[index] or any(
                amount > 0 and (row.get(name) is None or row[name] < amount) for name, amount in amounts
            ):
                continue
            if request.requirement:
                value = parse(request.requirement).interpret(row, request.attributes)
                if truth_of(value) is not True:
                    continue
            rank = parse(request.rank).interpret(row, request.attributes) if request.rank else None
            rank = rank if isinstance(rank, float) and rank > -np.inf else None
            found.append((-np.inf if rank is None else rank, index, rank))
        found.sort(key=lambda candidate: (-candidate[0], candidate[1]))
        if not found:
            decisions.append(Decision(request.id, None))
            continue
        best, second = found[0], found[1] if len(found) > 1 else (0, None, None)
        decisions.append(Decision(request.id, best[1], best[2], second[1], second[2]))
        row = rows[best[1]]
        amounts = zip(CAPACITY, (request.cpu, request.mem_mb, request.disk_gb, request.gpus), strict=True)
        for name, amount in (*amounts, ("running_vms", -1)):
            if row.get(name) is not None:
                row[name] -= amount
    return decisions


small = st.integers(0, 6)
rows_strategy = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "cpu_free": small,
            "cpu_total": small,
            "mem_free_mb": small,
            "disk_free_gb": small,
            "gpu_free": st.integers(0, 2),
            "running_vms": small,
            "price_hour": st.sampled_from([0.008, 0.02, 0.03]),
            "site": st.sampled_from(["campus", "cloud"]),
            "cpu_flags": st.sampled_from([["avx2"], ["avx2", "avx512f"], []]),
        },
    ),
    max_size=8,
)
requests_strategy = st.lists(
    st.builds(
        Request,
        id=st.just("vm"),
        cpu=st.integers(0, 3),
        mem_mb=st.integers(0, 3),
        disk_gb=st.sampled_from([0, 0, 1]),
        gpus=st.sampled_from([0, 0, 1]),
        requirement=st.sampled_from(
            [
                None,
                "cpu_free > 1",
                '"avx512f" in cpu_flags',
                '!(site == "cloud")',
                'running_vms < 3 && site == "campus"',
                "price_hour < vm.budget",
                'vm.labels["site"] == site || cpu_free > cpu_total / 2',
                "false",
            ]
        ),
        rank=st.sampled_from(
            [
                None,
                "-price_hour",
                "cpu_free",
                "-running_vms",
                "cpu_free / cpu_total - price_hour",
                "vm.budget * cpu_free",
            ]
        ),
        attributes=st.sampled_from([{}, {"budget": 0.025, "labels": {"site": "cloud"}}, {"budget": -1}]),
    ),
    max_size=12,
)


engines = pytest.mark.parametrize("kernel", [None, KERNEL], ids=["numpy", "kernel"])


@engines
@settings(max_examples=300, deadline=None)
@given(
    rows=rows_strategy,
    requests=requests_strategy,
    eligible=st.lists(st.booleans() | st.just(True), min_size=8, max_size=8),
)
def test_match_equals_the_plain_greedy(
    kernel: Kernel | None, rows: list[dict[str, Any]], requests: list[Request], eligible: list[bool]
) -> None:
    mask = np.array(eligible[: len(rows)], dtype=bool)
    table = HostTable.from_rows(rows)
    expected = greedy(rows, requests, eligible)
    assert match(table.copy(), requests, eligible=mask, kernel=kernel) == expected
    assert match(table.copy(), requests, eligible=lambda request: mask, kernel=kernel) == expected
    matcher = Matcher(table.copy(), kernel=kernel)  # the original was not consumed
    assert [matcher.place(request, mask) for request in requests] == expected


requirements = [
    None,
    "running_vms < 4",
    'cpu_free > 1 && site != "cloud"',
    "cpu_free % 2 == 1",  # true again when one more is taken
    '(cpu_free > 2 ? site : "campus") == "campus"',  # a text that changes: no numpy code
    "mem_free_mb / cpu_free >= vm.share",
    'site in vm.labels || defined(price_hour) && "avx2" in cpu_flags',
]
ranks = [
    None,
    "1 / running_vms",  # undefined on an empty host
    "cpu_free - 0.5 * mem_free_mb",
    "-cpu_free % 3",
    "price_hour",
    "price_hour > 0.01 ? min(cpu_free, mem_free_mb) : -1e999",
    "size(cpu_flags) * cpu_free",
    '(cpu_free > 2 ? site : "campus") == "cloud"',
    "1e999 - 1e999",
    "2",
]
repeated = st.lists(
    st.builds(
        Request,
        id=st.just("vm"),
        cpu=st.integers(0, 2),
        mem_mb=st.integers(0, 2),
        gpus=st.sampled_from([0, 0, 1]),
        requirement=st.sampled_from(requirements),
        rank=st.sampled_from(ranks),
        attributes=st.sampled_from([{}, {"share": 1, "labels": {"cloud": "x"}}]),
    ),
    min_size=1,
    max_size=3,
).flatmap(lambda kinds: st.lists(st.sampled_from(kinds), max_size=40))


@engines
@settings(max_examples=300, deadline=None)
@given(rows=rows_strategy, requests=repeated, masked=st.booleans())
def test_kinds_that_come_again_are_placed_as_if_they_were_new(
    kernel: Kernel | None, rows: list[dict[str, Any]], requests: list[Request], masked: bool
) -> None:
    mask = np.arange(len(rows)) % 3 != 1 if masked else None
    eligible = [not masked or index % 3 != 1 for index in range(len(rows))]
    expected = greedy(rows, requests, eligible)
    table = HostTable.from_rows(rows)
    assert match(table.copy(), requests, eligible=mask, kernel=kernel) == expected
    alone = match(table.copy(), requests, eligible=mask, runners_up=False, kernel=kernel)
    assert [(d.host, d.rank) for d in alone] == [(d.host, d.rank) for d in expected]
    assert all(decision.runner_up is None for decision in alone)


@engines
def test_kind_keeps_its_order_while_hosts_fill_up_and_rows_are_dropped(kernel: Kernel | None) -> None:
    rows = [{"cpu_free": 1 + index % 5, "mem_free_mb": 50, "price_hour": index % 7} for index in range(60)]
    wants = ["cpu_free - price_hour", "-cpu_free", "-price_hour"]
    requests = [
        Request(str(number), 1 + number % 2, 1, rank=wants[number % 3], requirement="price_hour < 6")
        for number in range(150)
    ]
    assert match(HostTable.from_rows(rows), requests, kernel=kernel) == greedy(rows, requests, [True] * 60)


def hosts(*free: float, **more: AttributeValue) -> HostTable:
    return HostTable.from_rows([{"cpu_free": cpu, "mem_free_mb": 1000, **more} for cpu in free])


def test_each_placement_sees_the_ones_before_it() -> None:
    table = hosts(4, 3)
    requests = [Request(str(number), cpu=1, mem_mb=1, rank="cpu_free") for number in range(8)]
    assert [decision.host for decision in match(table, requests)] == [0, 0, 1, 0, 1, 0, 1, None]
    left = table.numbers("cpu_free")
    assert left is not None
    assert left.tolist() == [0.0, 0.0]


def test_requirement_on_what_is_consumed_sees_the_placements_before() -> None:
    table = hosts(9, 9, running_vms=0)
    requests = [Request(str(number), 1, 1, requirement="running_vms < 2") for number in range(5)]
    assert [decision.host for decision in match(table, requests)] == [0, 0, 1, 1, None]


def test_ties_go_to_the_lowest_index_and_the_runner_up_is_named() -> None:
    (decision,) = match(hosts(2, 2, 2), [Request("a", 1, 1, rank="1")])
    assert decision == Decision("a", host=0, rank=1.0, runner_up=1, runner_up_rank=1.0)


def test_undefined_rank_is_the_lowest_but_still_places() -> None:
    table = HostTable.from_rows(
        [{"cpu_free": 1, "mem_free_mb": 9}, {"cpu_free": 1, "mem_free_mb": 9, "price_hour": 1e9}]
    )
    decisions = match(table, [Request(name, 1, 1, rank="-price_hour") for name in "ab"])
    assert [(decision.host, decision.rank, decision.runner_up) for decision in decisions] == [
        (1, -1e9, 0),
        (0, None, None),
    ]


def test_missing_capacity_refuses_only_who_needs_it() -> None:
    table = HostTable.from_rows([{"cpu_free": 8, "mem_free_mb": 100}])
    assert [d.host for d in match(table.copy(), [Request("a", 1, 1), Request("b", 1, 1, disk_gb=1)])] == [
        0,
        None,
    ]
    assert match(HostTable.from_rows([{"mem_free_mb": 1}]), [Request("a", 1, 1)])[0].host is None
    assert match(HostTable.from_rows([{"mem_free_mb": 1}]), [Request("a", 0, 1)])[0].host == 0


def test_largest_vm_of_an_instance_type_limits_it_whatever_the_quota() -> None:
    table = hosts(100, 100, vm_cpu_max=None)
    limited = HostTable.from_rows(
        [{"cpu_free": 100, "mem_free_mb": 9999, "vm_cpu_max": 2, "vm_mem_max_mb": 512}]
    )
    big, small = Request("big", cpu=4, mem_mb=1), Request("small", cpu=2, mem_mb=512)
    assert [d.host for d in match(limited, [big, small, small])] == [None, 0, 0]
    assert match(table, [big])[0].host == 0


def test_eligible_mask_of_one_request_does_not_bind_another() -> None:
    masks = {"a": np.array([False, True]), "b": None}
    decisions = match(hosts(4, 1), [Request("a", 1, 1), Request("b", 1, 1)], eligible=lambda r: masks[r.id])
    assert [decision.host for decision in decisions] == [1, 0]


def test_request_that_cannot_be_read_does_not_keep_others_from_being_placed() -> None:
    bad, good = match(hosts(4), [Request("bad", 1, 1, requirement="cpu_free = 2"), Request("good", 1, 1)])
    assert bad.host is None
    assert "write ==" in bad.error
    assert good.host == 0


def test_requests_that_differ_only_in_what_they_read_of_the_vm_are_judged_apart() -> None:
    table = HostTable.from_rows([{"cpu_free": 9, "mem_free_mb": 9, "site": site} for site in ("x", "y")])
    wants = [
        Request(site, 1, 1, requirement='vm.labels["s"] == site', attributes={"labels": {"s": site}})
        for site in "yxy"
    ]
    assert [decision.host for decision in match(table, wants)] == [1, 0, 1]


def test_no_hosts_is_no_placement() -> None:
    assert match(HostTable.from_rows([]), [Request("a", 1, 1, rank="cpu_free")]) == [Decision("a", None)]


def test_feasible_is_what_match_chooses_from() -> None:
    request = Request("a", 2, 1, requirement="cpu_free < 5")
    assert feasible(hosts(1, 2, 5), request).tolist() == [False, True, False]
    with pytest.raises(ValueError, match="unknown operator"):
        feasible(hosts(1), Request("a", 1, 1, requirement="a = 1"))
