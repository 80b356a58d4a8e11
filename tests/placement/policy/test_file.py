"""The policy file: what it says, and every mistake at its place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placement.policy import METRICS, Policy, PolicyError, Problem, parse

HEAD = "version: 1\nburst:\n  to: [cloud]\n"
OPEN = "  open: {any: ['local.cpu_used > 0.9']}\n"
CLOSE = "  close: {all: ['local.cpu_used < 0.6'], for: 15m}\n"


def problems(text: str) -> list[Problem]:
    with pytest.raises(PolicyError) as caught:
        parse(text, "p.yaml")
    return caught.value.problems


def test_the_example_parses_and_means_what_it_says(pytestconfig: pytest.Config) -> None:
    policy = parse((pytestconfig.rootpath / "examples/policy.yaml").read_text(), "examples/policy.yaml")
    assert policy.version == 1
    assert policy.placement.rank is not None
    assert policy.placement.rank.host_names == {"elastic", "price_hour", "cpu_free", "cpu_total"}
    burst = policy.burst
    assert burst is not None
    assert burst.to == ("aws-eu", "partner")
    assert (burst.open.mode, [clause.text for clause in burst.open.clauses]) == (
        "any",
        ["queue.wait_p95 > 60", "local.cpu_used > 0.90"],
    )
    assert (burst.close.mode, burst.close.for_s, burst.dwell_s) == ("all", 900.0, 1200.0)
    assert burst.never is not None
    assert burst.never.vm_names == {"labels"}
    assert (burst.returns, burst.billing_boundary_s) == ("drain", 3600.0)
    assert (burst.limits.vms, burst.limits.vcpus) == (50, 200)


def test_policy_without_burst_is_valid() -> None:
    policy = parse("version: 1\n")
    assert policy == Policy(1, policy.placement, None, "version: 1\n", "policy.yaml")


@pytest.mark.parametrize(
    ("text", "line", "column", "message", "mend"),
    [
        ("", 1, 1, "the policy is empty", "begin with version: 1"),
        (
            "- 1",
            1,
            1,
            "the policy must be a mapping, not a list",
            "keys are version, placement, queue, burst, budget, spot, deadline",
        ),
        ("placement: {}\n", 1, 1, 'the policy has no "version"', "add version: 1"),
        ("version: 2\n", 1, 10, "version 2 is not supported", "this broker reads version 1"),
        ("version: one\n", 1, 10, 'must be a whole number, not "one"', ""),
        (
            "version: 1\nzz: {}\n",
            2,
            1,
            'unknown key "zz" in the policy',
            "keys are version, placement, queue, burst, budget, spot, deadline",
        ),
        (
            "version: 1\nplacment: {}\n",
            2,
            1,
            'unknown key "placment" in the policy',
            'did you mean "placement"?',
        ),
        ("version: 1\nversion: 1\n", 2, 1, '"version" is there twice', "keep one"),
        (
            "version: 1\nspot: {on_interruption: easy}\n",
            2,
            25,
            '"easy" is not known here',
            "one of relaunch, fallback, none",
        ),
        ("version: 1\nplacement: {rank: 'a = 1'}\n", 2, 22, 'unknown operator "="', "write == to compare"),
        ("version: 1\nplacement: {rank: a = 1}\n", 2, 21, 'unknown operator "="', "write == to compare"),
        (
            'version: 1\nplacement: {rank: "\\"x\\" = 1"}\n',
            2,
            26,
            'unknown operator "="',
            "write == to compare",
        ),
        (
            "version: 1\nplacement: {rank: '''x'' = 1'}\n",
            2,
            26,
            'unknown operator "="',
            "write == to compare",
        ),
        (
            "version: 1\nplacement:\n  rank: |\n    1 +\n      2 = 3\n",
            5,
            9,
            'unknown operator "="',
            "write == to compare",
        ),
        (
            "version: 1\nplacement:\n  rank: >-\n    1 +\n    2\n    = 3\n",
            6,
            5,
            'unknown operator "="',
            "write == to compare",
        ),
        (
            "version: 1\nplacement:\n  rank: '1 +\n    2 = 3'\n",
            4,
            7,
            'unknown operator "="',
            "write == to compare",
        ),
        (
            "version: 1\nplacement:\n  rank: ''''' '''''\n",
            3,
            15,
            "an operator is missing before \"''\"",
            "",
        ),
        ("version: 1\nplacement: {rank: '1 +'}\n", 2, 23, 'an operand is missing after "+"', ""),
        ("version: 1\nplacement: {rank: }\n", 2, 18, "must be an expression, not nothing", ""),
        ("version: 1\nplacement: {rank: [1]}\n", 2, 19, "must be an expression, not a list", ""),
        (
            'version: 1\nplacement: {rank: \'vm.lables["x"] == "y"\'}\n',
            2,
            20,
            'a VM has no attribute "lables"',
            'did you mean "vm.labels"?',
        ),
        (
            HEAD + OPEN,
            3,
            3,
            'burst has no "close"',
            "say when, as in close: {all: ['local.cpu_used < 0.60'], for: 15m}",
        ),
        (HEAD + OPEN + CLOSE + "  dwell: 20\n", 6, 10, '"20" is no duration', 'add a unit, as in "20s"'),
        (
            HEAD + OPEN + CLOSE + "  dwell: soon\n",
            6,
            10,
            '"soon" is no duration',
            "write 90s, 15m, 1h30m or 2d",
        ),
        (HEAD + OPEN + CLOSE + "  dwel: 20m\n", 6, 3, 'unknown key "dwel" in burst', 'did you mean "dwell"?'),
        (
            HEAD + OPEN + CLOSE + "  return: drian\n",
            6,
            11,
            '"drian" is no way to return',
            "one of drain, recreate, never",
        ),
        (
            HEAD + OPEN + CLOSE + "  limits: {vms: -1}\n",
            6,
            17,
            "must not be negative",
            "0 allows none; leave it out for no limit",
        ),
        (
            HEAD + OPEN + CLOSE + "  never: 'cpu_free > 1'\n",
            6,
            11,
            'unknown name "cpu_free"',
            "",
        ),
        (
            HEAD + CLOSE + "  open: {any: ['local.cpu_usd > 0.9']}\n",
            5,
            17,
            'unknown name "local.cpu_usd"',
            'did you mean "local.cpu_used"?',
        ),
        (
            HEAD + CLOSE + "  open: {any: ['local.cpu_used > 90']}\n",
            5,
            34,
            "local.cpu_used is a fraction from 0 to 1, not > 90",
            "write 0.9",
        ),
        (
            HEAD + CLOSE + "  open: {}\n",
            5,
            9,
            "open has neither any nor all",
            "give one of them a list of conditions",
        ),
        (
            HEAD + CLOSE + "  open: {any: []}\n",
            5,
            15,
            "no condition",
            "for instance ['local.cpu_used > 0.90']",
        ),
        (
            HEAD + OPEN + "  close: {all: ['local.cpu_used < 0.95']}\n",
            5,
            10,
            "open and close both hold when local.cpu_used is between 0.9 and 0.95: the burst would flap",
            "leave a gap between the two thresholds of local.cpu_used",
        ),
        (
            HEAD + CLOSE + "  open: {all: ['queue.length > 5', 'queue.length < 3']}\n",
            5,
            9,
            "open can never hold: no queue.length satisfies all of its conditions",
            "use any instead of all, or change a threshold",
        ),
    ],
)
def test_mistake_is_found_at_its_place_with_its_mend(
    text: str, line: int, column: int, message: str, mend: str
) -> None:
    assert problems(text) == [Problem("p.yaml", line, column, message, mend)]


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("version: [1\nburst: 2\n", 2, 6),
        ("version: 1\n\tburst: 2\n", 2, 1),
        ("version: *one\n", 1, 10),
        ("version: 1\n---\nversion: 1\n", 2, 1),
        ("version: \x01\n", 1, 10),
    ],
)
def test_what_is_no_yaml_is_one_problem_at_its_place(text: str, line: int, column: int) -> None:
    (problem,) = problems(text)
    assert problem.message.startswith("not YAML: ")
    assert (problem.line, problem.column) == (line, column)


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_file() -> None:
    text = """version: 1
placement: {rank: 'a =! 1', requirement: 'x'}
burst:
  to: []
  open: {any: ['queue.length > 5', 'queue.len > 1 &']}
  close: {all: ['local.cpu_used < 60'], for: 15}
  dwell: x
spot: {use: maybe}
"""
    places = [(problem.line, problem.column) for problem in problems(text)]
    assert places == sorted(places)
    assert [line for line, _ in places] == [2, 2, 4, 5, 6, 6, 7, 8]


def test_error_shows_file_line_column_message_and_mend() -> None:
    with pytest.raises(PolicyError) as caught:
        parse("version: 1\nplacment: {}\n", "site/policy.yaml")
    assert str(caught.value) == (
        'site/policy.yaml:2:1: unknown key "placment" in the policy (did you mean "placement"?)'
    )


@given(st.text(max_size=60))
def test_any_text_is_a_policy_or_a_list_of_problems_inside_it(text: str) -> None:
    try:
        parse(text)
    except PolicyError as error:
        assert error.problems  # noqa: PT017
        assert all(problem.line >= 1 and problem.column >= 1 for problem in error.problems)  # noqa: PT017


def test_the_documentation_names_every_metric_and_key(pytestconfig: pytest.Config) -> None:
    text = (pytestconfig.rootpath / "docs/reference/policy.md").read_text()
    keys = ["to", "open", "close", "never", "dwell", "return", "billing_boundary", "limits.vms"]
    names = [
        *METRICS,
        *(f"burst.{key}" for key in keys),
        "placement.requirements",
        "placement.rank",
        "version",
    ]
    assert [name for name in names if f"`{name}`" not in text] == []
