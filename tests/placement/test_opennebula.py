"""OpenNebula's scheduler expressions, read as a dialect."""

from __future__ import annotations

import pytest

from placement.language import ExpressionError, parse
from placement.opennebula import warnings
from placement.show import show
from placement.table import HostTable
from placement.value import AttributeValue, truth_of

HOST: dict[str, AttributeValue] = {
    "name": "kvm-7",
    "hypervisor": "kvm",
    "cpu_total": 8,
    "cpu_free": 5,
    "mem_free_mb": 2048,
    "running_vms": 3,
    "a": 1,
    "b": 1,
    "c": 0,
    "n": 5,
    "price_hour": 0.008,
    "flags": ["avx2", "sse"],
    "clusters.id": ["0", "12"],
}


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ('HYPERVISOR = "kvm"', True),
        ("HYPERVISOR = kvm", True),
        ('NAME = "kvm-*"', True),
        ('NAME != "kvm-*"', False),
        ('NAME = "xen-*" | A = 1', True),
        ("FREE_CPU > 400", True),
        ("FREE_CPU > 500", False),
        ("FREE_MEMORY > 2000000", True),
        ("USED_CPU = 300", True),
        ("A = 1 | B = 1 & C = 1", False),  # one precedence, from the left
        ("A = 1 | (B = 1 & C = 1)", True),
        ("!C = 1 | A = 1", True),
        ("MISSING = 1", None),
        ("MISSING != 1", None),
        ('FLAGS @> "avx2"', True),
        ('FLAGS @> "avx512*"', False),
        ('"CLUSTERS/ID" @> 12', True),
        ("N > -1", True),
        ('!(N < 3) & HYPERVISOR = "kvm"', True),
    ],
)
def test_requirement_means_here_what_it_means_there(text: str, truth: bool | None) -> None:
    expression = parse(text, dialect="opennebula")
    assert truth_of(expression.interpret(HOST, {})) is truth
    assert bool(expression.truth(HostTable.from_rows([HOST]), {})[0]) is (truth is True)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("- RUNNING_VMS", -3.0),
        ("RUNNING_VMS", 3.0),
        ("FREE_CPU", 500.0),
        ("10 / 4", 2.5),
        ("- N * 2", -10.0),
        ("N -2", 3.0),
        ("-PRICE_HOUR", -0.008),
        ("(N + 1) * 2 - 1", 11.0),
        ("MISSING + 1", None),
    ],
)
def test_rank_is_a_float_and_missing_is_undefined(text: str, value: float | None) -> None:
    assert parse(text, dialect="opennebula").interpret(HOST, {}) == value


def test_conjuncts_keep_the_text_of_the_dialect() -> None:
    expression = parse('A = 1 & (B = 2 | C = 3) & NAME = "x*"', dialect="opennebula")
    assert [term.text for term in expression.conjuncts()] == ["A = 1", "(B = 2 | C = 3)", 'NAME = "x*"']


@pytest.mark.parametrize(
    ("text", "column", "mend"),
    [
        ("N >= 5", 3, "write > with a smaller number, as OpenNebula does"),
        ("A = 1 && B = 1", 7, "write &, as OpenNebula does"),
        ("A == 1", 3, "write =, as OpenNebula does"),
        ("(A = 1", 1, 'add ")"'),
    ],
)
def test_mistake_is_shown_at_its_place(text: str, column: int, mend: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse(text, dialect="opennebula")
    assert (caught.value.column, caught.value.mend) == (column, mend)


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        ('HYPERVISOR = "kvm" & FREE_CPU > 200', 'hypervisor == "kvm" && cpu_free * 100 > 200'),
        ("A = 1 | B = 1 & C = 1", "(a == 1 || b == 1) && c == 1"),
        ('NAME = "kvm-*"', 'name ~ "kvm-*"'),
        ("packing", "running_vms"),
        ("striping", "-running_vms"),
        ("load-aware", "cpu_free * 100"),
        ("- N * 2", "-n * 2"),
    ],
)
def test_it_is_shown_in_our_own_language(text: str, ours: str) -> None:
    assert show(parse(text, dialect="opennebula").root) == ours


@pytest.mark.parametrize(
    ("text", "rank", "said"),
    [
        ("A = 1 | B = 1 & C = 1", False, "one precedence"),
        ("MAX_MEM > 5000000000", False, "32 bits"),
        ("GPU = 1", False, "negation for true"),
        ("PRIORITY", True, "takes 0"),
        ("FREE_CPU / 300", True, "whole numbers"),
    ],
)
def test_a_warning_says_where_it_means_something_else(text: str, rank: bool, said: str) -> None:
    found = warnings(text, parse(text, dialect="opennebula").root, rank=rank)
    assert any(said in warning for warning in found), found
    assert (
        warnings('HYPERVISOR = "kvm"', parse('HYPERVISOR = "kvm"', dialect="opennebula").root, rank=False)
        == []
    )


@pytest.mark.parametrize(("text", "mend"), [("CURRENT_VMS = 42", "--affinity"), ("A = $B", "value itself")])
def test_what_cannot_be_kept_is_refused_with_what_to_use(text: str, mend: str) -> None:
    with pytest.raises(ExpressionError) as refused:
        parse(text, dialect="opennebula")
    assert mend in refused.value.mend
