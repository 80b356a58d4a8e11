"""Why a VM is where it is, or nowhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement.match import feasible, match
from placement.request import Request
from placement.table import HostTable
from placement.value import AttributeValue
from placement.why import Explanation, SiteExplanation, Term, explain

TABLE = HostTable.from_rows(
    [
        {
            "name": "a",
            "site": "campus",
            "cpu_free": 1,
            "cpu_total": 8,
            "mem_free_mb": 4000,
            "cpu_flags": ["avx2"],
        },
        {"name": "b", "site": "campus", "cpu_free": 0, "cpu_total": 2, "mem_free_mb": 4000, "cpu_flags": []},
        {
            "name": "c",
            "site": "cloud",
            "cpu_free": 64,
            "cpu_total": 2,
            "mem_free_mb": 4000,
            "price_hour": 0.04,
        },
        {
            "name": "d",
            "site": "cloud",
            "cpu_free": 64,
            "cpu_total": 2,
            "mem_free_mb": 4000,
            "price_hour": 0.02,
        },
    ]
)


def site(explanation: Explanation, name: str) -> SiteExplanation:
    return next(found for found in explanation.sites if found.site == name)


def test_each_term_counts_the_hosts_it_refused_and_those_where_it_was_undefined() -> None:
    request = Request("vm", 2, 500, requirement='"avx2" in cpu_flags && price_hour < 0.03')
    found = explain(TABLE, request)
    assert (found.hosts, found.feasible) == (4, 0)
    campus = site(found, "campus")
    assert (campus.hosts, campus.feasible) == (2, 0)
    assert campus.terms == (
        Term("cpu_free >= 2", 2),
        Term('"avx2" in cpu_flags', 1),
        Term("price_hour < 0.03", 2, undefined=2),
    )
    assert campus.verdict == (
        "no host is known to satisfy price_hour < 0.03: what it asks for is undefined on all 2"
    )
    assert site(found, "cloud").terms == (
        Term('"avx2" in cpu_flags', 2, undefined=2),
        Term("price_hour < 0.03", 1),
    )
    assert found.summary == (
        'none of 4 hosts can take it: "avx2" in cpu_flags (3 hosts), price_hour < 0.03 (3 hosts), cpu_free >= 2 (2 hosts)'
    )


def test_nearest_miss_is_the_host_with_the_fewest_refusals_and_says_what_it_lacks() -> None:
    found = explain(TABLE, Request("vm", 2, 500, requirement="price_hour < 0.01"))
    nearest = site(found, "cloud").nearest
    assert nearest is not None
    assert (nearest.host, nearest.name, nearest.lacks) == (
        3,
        "d",
        ("price_hour < 0.01 (price_hour is 0.02)",),
    )
    campus = site(found, "campus").nearest
    assert campus is not None
    assert campus.lacks == ("cpu_free >= 2 (cpu_free is 1)", "price_hour < 0.01 (price_hour is undefined)")


@pytest.mark.parametrize(
    ("request_", "admit"),
    [
        (
            Request("vm", 2, 500, requirement="price_hour < 0.01"),
            "write price_hour <= 0.02 instead of price_hour < 0.01: that admits d",
        ),
        (Request("vm", 2, 500, requirement='site == "campus"'), "free 1 core on a, or ask for at most 1"),
        (
            Request("vm", 3, 500, requirement='name == "b"'),
            'drop name == "b": that admits 2 hosts, c among them',
        ),
        (
            Request("vm", 3, 500, requirement='name == "b" && site != "cloud"'),
            "add a host with at least 3 cores: b has 2 in all",
        ),
        (Request("vm", 1, 500, disk_gb=1), "have the site of a report disk_free_gb"),
        (
            Request("vm", 3, 9000, requirement='site == "campus"'),
            "no single change is enough; a lacks cpu_free >= 3 (cpu_free is 1) and mem_free_mb >= 9000 (mem_free_mb is 4000)",
        ),
    ],
)
def test_admit_is_the_smallest_change_that_would_admit_a_host(request_: Request, admit: str) -> None:
    assert explain(TABLE, request_).admit == admit


def test_hosts_that_were_ruled_out_count_under_the_callers_reason() -> None:
    eligible = np.array([True, False, False, False])
    reasons = [
        None,
        "unreachable: no route to host",
        "the burst policy is closed",
        "the burst policy is closed",
    ]
    found = explain(TABLE, Request("vm", 2, 500), eligible=eligible, reasons=reasons)
    assert site(found, "cloud").terms == (Term("the burst policy is closed", 2),)
    assert site(found, "cloud").verdict == "2 hosts refused: the burst policy is closed"
    assert Term("unreachable: no route to host", 1) in site(found, "campus").terms
    assert found.admit == "free 1 core on a, or ask for at most 1"


def test_placed_vm_is_told_its_host_rank_and_runner_up() -> None:
    request = Request("vm", 1, 500, rank="cpu_free")
    (decision,) = match(TABLE.copy(), [request])
    found = explain(TABLE, request, decision=decision)
    assert found.summary == "placed on c with rank 64, 3 of 4 hosts feasible; runner-up d with rank 64"
    assert found.admit == ""
    assert site(found, "campus").verdict == "1 of 2 hosts could take it"


def test_too_small_an_instance_type_is_a_term_of_its_own() -> None:
    table = HostTable.from_rows([{"name": "t", "cpu_free": 64, "mem_free_mb": 9, "vm_cpu_max": 2}])
    found = explain(table, Request("vm", 4, 1))
    assert site(found, "(no site)").terms == (Term("vm_cpu_max >= 4", 1),)
    assert found.admit == "ask for at most 2 instead of 4 (vm_cpu_max of t)"


def test_no_hosts_at_all_is_said() -> None:
    found = explain(HostTable.from_rows([]), Request("vm", 1, 1))
    assert (found.sites, found.admit) == ((), "")
    assert found.summary == "there is no host: add a site, or wait for one to answer"


attribute = st.integers(0, 5) | st.none()


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"cpu_free": attribute, "mem_free_mb": attribute, "a": attribute, "s": st.sampled_from("xy")}
        ),
        max_size=6,
    ),
    st.integers(0, 4),
    st.sampled_from([None, "a > 2", 'a > 2 && s == "x"', 'cpu_free < 3 && (a == 1 || s ~ "y")']),
)
def test_explanation_counts_agree_with_the_match(
    rows: list[dict[str, AttributeValue]], cpu: int, requirement: str | None
) -> None:
    table = HostTable.from_rows(rows)
    request = Request("vm", cpu, 1, requirement=requirement)
    found = explain(table, request)
    assert found.feasible == feasible(table, request).sum()
    assert found.feasible == sum(part.feasible for part in found.sites)
    assert bool(found.admit) == (bool(rows) and not found.feasible)
    for part in found.sites:
        assert all(0 <= term.undefined <= term.refused <= part.hosts for term in part.terms)
        assert (part.nearest is None) == bool(part.feasible)
