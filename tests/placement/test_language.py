"""The expression language: what it means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from placement import language
from placement.grammar import FUNCTIONS
from placement.language import Expression, ExpressionError, parse, unknown_names
from placement.match import match
from placement.program import Meaning, Program
from placement.reader import MAX_LENGTH
from placement.request import Request
from placement.show import show
from placement.table import HostTable
from placement.value import AttributeValue, truth_of

Row = dict[str, AttributeValue]
VMAttributes = Mapping[str, Any]

HOST: Row = {
    "name": "kvm-7",
    "site": "campus",
    "hypervisor": "kvm",
    "cpu_total": 16,
    "cpu_free": 3,
    "mem_free_mb": 2048.0,
    "price_hour": 0.008,
    "elastic": False,
    "cpu_flags": ["sse4_2", "avx2"],
    "temp_c": None,
    "queue.length": 4,
}
VM = {"vcpus": 2, "labels": {"data": "restricted", "a b": "x"}, "zones": ["campus", "z2"], "name": "web"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3", 7.0),
        ("(1 + 2) * 3", 9.0),
        ("10 - 4 - 3", 3.0),
        ("3 / 16", 0.1875),
        ("7 % 4", 3.0),
        ("-7 % 4", 1.0),
        ("-2 * -3", 6.0),
        ("1e3 + .5", 1000.5),
        ("1 / 0", None),
        ("1 % 0", None),
        ("-price_hour", -0.008),
        ("2 < 3 == true", 1.0),
        ("1 + 1 == 2 && 2 * 2 > 3", 1.0),
        ("false || true && false", 0.0),
        ("!false && false", 0.0),
        ("!(false && false)", 1.0),
        ("true ? 1 : false ? 2 : 3", 1.0),
        ("elastic ? 1 : 2", 2.0),
        ("temp_c ? 1 : 2", None),
        ('"b" > "a"', 1.0),
        ('hypervisor == "kvm"', 1.0),
        ("hypervisor == 'kvm'", 1.0),
        ('hypervisor != "KVM"', 1.0),
        ("hypervisor == 3", None),
        ('cpu_flags == "avx2"', None),
        ("hypervisor && true", None),
        ('"avx2" in cpu_flags', 1.0),
        ('"avx512f" in cpu_flags', 0.0),
        ('"kvm" in hypervisor', None),
        ('hypervisor in ["xen", "kvm"]', 1.0),
        ("cpu_total in [8, 8 * 2]", 1.0),
        ("cpu_total in []", 0.0),
        ("site in vm.zones", 1.0),
        ('name ~ "kvm-*"', 1.0),
        ('name ~ "kvm-?"', 1.0),
        ('name ~ "[a-j]*"', 0.0),
        ('name ~ "KVM*"', 0.0),
        ('cpu_flags ~ "avx*"', 1.0),
        ('cpu_total ~ "1*"', None),
        ("vm.vcpus <= cpu_free", 1.0),
        ('vm.labels["data"] == "restricted"', 1.0),
        ('vm.labels["a b"]', "x"),
        ('vm.labels["none"]', None),
        ('vm.vcpus["none"]', None),
        ('"data" in vm.labels', 1.0),
        ("host.cpu_free + 1", 4.0),
        ("queue.length * 2", 8.0),
        ("temp_c < 30", None),
        ("!(temp_c < 30)", None),
        ("temp_c < 30 && false", 0.0),
        ("temp_c < 30 || true", 1.0),
        ("temp_c < 30 && true", None),
        ("temp_c < 30 || false", None),
        ("defined(temp_c)", 0.0),
        ("!defined(temp_c) || temp_c < 30", 1.0),
        ("min(3, 1, 2)", 1.0),
        ("max(cpu_free, vm.vcpus)", 3.0),
        ("max(cpu_free)", 3.0),
        ("min(1, temp_c)", None),
        ("abs(-3) + floor(1.5) + ceil(1.5)", 6.0),
        ("size(cpu_flags)", 2.0),
        ("size(name)", 5.0),
        ("size(3)", None),
        ('has(cpu_flags, "avx2")', 1.0),
        (r'"a\"b\\c"', 'a"b\\c'),
        ("1 <\n  2", 1.0),
    ],
)
def test_expression_has_the_documented_value_on_one_host_and_on_a_table(text: str, value: object) -> None:
    expression = parse(text)
    assert expression.interpret(HOST, VM) == value
    table = HostTable.from_rows([HOST, {}])
    truth = value if value in (0.0, 1.0) or isinstance(value, float) else None
    assert expression.truth(table, VM)[0] == bool(truth)
    assert expression.undefined(table, VM)[0] == (truth is None)
    score = expression.score(table, VM)[0]
    assert score == value if isinstance(value, float) else math.isnan(score)


MANY: list[Row] = [
    {"name": "a", "site": "x", "n": 0, "m": 2, "l": ["a", "x"], "x": "a", "flag": True},
    {"name": "b", "site": "b", "n": 3, "m": 0, "l": [], "x": 3, "flag": False},
    {"name": "x", "n": -1.5, "m": 7, "l": ["b"], "x": ["x"]},
    {"site": "a", "flag": True, "x": "z"},
    {"name": "z", "site": "z", "n": 3, "m": 3, "l": ["z", "q"], "flag": False},
    {},
]


@pytest.mark.parametrize(
    "text",
    [
        "n / m",
        "1 / n",
        "m % n",
        "n / 0 > 1",
        "n != m",
        "!(n == m)",
        "name == site",
        "name != site",
        "!(name < site)",
        "name in l",
        "!(site in l)",
        "l == l",
        "x == name",
        "x != 3",
        "x in l || l ~ x",
        "name ~ site",
        '(flag ? name : site) == "a"',
        '(flag ? "q" : name) in ["q", "z"]',
        "(flag ? l : x) ~ name",
        "(flag ? n : x) > 1",
        "size(flag ? l : name)",
        "name in vm.zones",
        "vm.name in l",
        "vm.name == name",
        "vm.name < name",
        "defined(x) && !defined(flag ? n : m)",
        "min(n, m) + max(n, 1) * abs(n) - floor(n / 2)",
        "n < m ? n : name",
        "flag && n || m",
        "!flag || x",
    ],
)
def test_table_of_different_hosts_says_of_each_what_the_interpreter_says(text: str) -> None:
    vm = {"name": "b", "zones": ["a", "z"]}
    assert_agree(text, MANY, vm)


def assert_agree(text: str, rows: Sequence[Row], vm: VMAttributes) -> None:
    expression = parse(text)
    table = HostTable.from_rows(rows)
    for _ in range(2):  # the second time from what was kept
        values = [expression.interpret(row, vm) for row in rows]
        truths = [truth_of(value) for value in values]
        scores = [value if isinstance(value, float) else math.nan for value in values]
        assert expression.truth(table, vm).tolist() == [truth is True for truth in truths]
        assert expression.undefined(table, vm).tolist() == [truth is None for truth in truths]
        np.testing.assert_array_equal(expression.score(table, vm), scores)
    assert_programs_agree(expression, table, vm, truths, scores)
    for requirement, rank in ((text, text), (None, text), (text, None)):
        wants = [Request("a", 0, 0, requirement=requirement, rank=rank, attributes=vm)] * 3
        assert match(table.copy(), wants) == match(table.copy(), wants, kernel=None)


def assert_programs_agree(
    expression: Expression,
    table: HostTable,
    vm: VMAttributes,
    truths: Sequence[bool | None],
    scores: Sequence[float],
) -> None:
    """What decisions use says the same: for all hosts, for some, and for some of those."""
    rows = np.arange(len(table))[::2]
    with np.errstate(all="ignore"):
        meanings: list[tuple[bool, Meaning]] = [(True, "true"), (False, "false")]
        for wanted, meaning in meanings:
            program = Program(expression.root, meaning)
            expected = np.array([truth is wanted for truth in truths])
            for _ in range(2):
                assert np.broadcast_to(program.whole(table, (), vm), len(table)).tolist() == expected.tolist()
            some = program.bind(table, (), vm, rows)
            assert np.broadcast_to(some.now(), len(rows)).tolist() == expected[rows].tolist()
            fewer = some.narrow(np.array([0]))
            assert np.broadcast_to(fewer.now(), 1).tolist() == expected[:1].tolist()
        number = Program(expression.root, "number")
        some = number.bind(table, (), vm, rows)
        np.testing.assert_array_equal(np.broadcast_to(some.now(), len(rows)), np.array(scores)[rows])
        np.testing.assert_array_equal(np.broadcast_to(some.narrow(np.array([0])).now(), 1), scores[:1])
        together = np.ones(len(table), dtype=bool)
        for term in expression.terms:  # these have places for literals
            together &= term.shape.truth.whole(table, term.literals, vm)
        assert together.tolist() == [truth is True for truth in truths]
        if len(expression.terms) == 1:
            term = expression.terms[0]
            numbers = term.shape.number.bind(table, term.literals, vm, rows).now()
            np.testing.assert_array_equal(np.broadcast_to(numbers, len(rows)), np.array(scores)[rows])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("n < 1 && s == 'a'", 'n < 2.5e1 && s == "b"'),
        ("-1 - -n", "-2 - -n"),
        ("n / 2", "n / 0"),
        ('"a" in l', '"b" in l'),
        ("(n > 1 ? 2 : 3) % 4", "(n > 7 ? 0 : 1) % 0"),
        (r's == "a\"b"', 's == "1 && 2"'),
        ('vm.labels["a"] == "1"', 'vm.labels["b"] == "1"'),
        ("n in [1, 2]", "n in [3, 4]"),
        ('n == 1 || s == "a"', 'n == 2 || s == "b"'),
    ],
)
def test_texts_that_differ_in_literals_only_do_not_take_each_others_values(first: str, second: str) -> None:
    rows: list[Row] = [
        {"n": number, "s": text, "l": [text]}
        for number, text in ((1, "a"), (2, "b"), (3, "1 && 2"), (8, 'a"b'))
    ]
    vm = {"labels": {"a": "1", "b": "2"}}
    for text in (first, second, first):
        assert_agree(text, rows, vm)


def test_texts_of_one_shape_share_their_code() -> None:
    first, second = parse("cpu_free > 1 && site == 'a'"), parse("cpu_free > 22 && site == 'other'")
    assert [term.shape for term in first.terms] == [term.shape for term in second.terms]
    assert [term.literals for term in second.terms] == [(22.0,), ("other",)]
    third = parse("cpu_free > 'a' && site == 'other'")
    assert third.terms[0].shape is not first.terms[0].shape, "another kind of literal"


def test_the_place_in_a_text_is_its_own_though_its_shape_was_seen() -> None:
    parse("nonsuch < 1")
    (warning,) = unknown_names(parse("4 > 123456 && nonsuch < 2"), {"cpu_free"})
    assert (warning.offset, warning.column) == (14, 15)
    with pytest.raises(ExpressionError) as caught:
        parse("cpu_free > 123456 && cpu_free > && 1")
    assert caught.value.offset == 32


def test_conjuncts_are_the_terms_of_the_top_level_and_with_their_own_text() -> None:
    expression = parse('(a || b) && name == "x && y" && (c > 1 && (d))')
    assert [term.text for term in expression.conjuncts()] == ["(a || b)", 'name == "x && y"', "c > 1", "(d)"]
    assert [term.text for term in parse("a || b && c").conjuncts()] == ["a || b && c"]
    assert [term.text for term in parse("((a && b))").conjuncts()] == ["a", "b"]


def test_names_tell_host_from_vm() -> None:
    expression = parse('vm.vcpus < cpu_free && vm.labels["x"] == host.site && defined(queue.length)')
    assert expression.host_names == {"cpu_free", "site", "queue.length"}
    assert expression.vm_names == {"vcpus", "labels"}


def test_equal_text_is_parsed_once() -> None:
    assert parse("cpu_free > 1") is parse("cpu_free > 1")


@pytest.mark.parametrize("level", ["({} ? b : c)", "({} == b)", "(!{} || b)", "({} + b > c)"])
def test_nested_conditions_do_not_take_twice_as_long_with_every_level(level: str) -> None:
    text = "cpu_free"
    for _ in range(45):
        text = level.format(text)
    assert_agree(text, [{"cpu_free": 1, "b": 1, "c": 0}, {"cpu_free": 0, "b": 1}], {})


def test_long_chain_of_terms_is_no_nesting() -> None:
    text = " && ".join(f"a{index} > {index}" for index in range(500))
    assert len(parse(text).conjuncts()) == 500


def test_unknown_name_is_warned_of_with_the_nearest_known_one() -> None:
    expression = parse('cpu_fre > 1 &&\n "x" in FOO && vm.label["a"] == "b" && cpu_free > 1')
    warnings = unknown_names(expression, {"cpu_free", "cpu_total"}, {"labels", "vcpus"})
    assert [(warning.line, warning.column, warning.mend) for warning in warnings] == [
        (1, 1, 'did you mean "cpu_free"?'),
        (2, 9, ""),
        (2, 16, 'did you mean "vm.labels"?'),
    ]
    assert unknown_names(expression, {"cpu_free", "cpu_fre", "FOO"}) == []


def test_a_price_below_one_orders_hosts() -> None:
    table = HostTable.from_rows([{"price_hour": 0.03}, {"price_hour": 0.008}, {"price_hour": 0.02}])
    assert list(np.argsort(-parse("-price_hour").score(table, {}))) == [1, 2, 0]


def test_kept_results_do_not_outlive_a_change_of_what_they_read() -> None:
    table = HostTable.from_rows([{"cpu_free": 2, "cpu_total": 4}])
    expression = parse("cpu_free / cpu_total > 0.4 && cpu_total > 3")
    assert expression.truth(table, {})[0]
    column = table.numbers("cpu_free")
    assert column is not None
    column[0] = 1
    assert not expression.truth(table, {})[0]


def test_the_memory_of_parsed_expressions_is_bounded() -> None:
    """Anybody who may ask for a VM may send ever new expressions: 200 bytes are kept for each character."""
    most = language._SHORT * language._parse_short.cache_parameters()["maxsize"]
    most += MAX_LENGTH * language._parse_long.cache_parameters()["maxsize"]
    assert 200 * (most + language._SHAPES_LENGTH) <= 550e6
    for number in range(3 * language._SHAPES_LENGTH // 200):
        parse(f"{'a' * 180}{number} > 1")
    assert language._shapes.length <= language._SHAPES_LENGTH
    assert language._shapes.length == sum(len(part) for key in language._shapes.known for part in key)
    long = " || ".join(["a"] * 200)
    assert parse(long) is parse(long)
    assert parse("a > 1") is parse("a > 1")


def test_the_documentation_names_every_function_and_metric(pytestconfig: pytest.Config) -> None:
    text = (pytestconfig.rootpath / "docs/reference/expressions.md").read_text()
    assert [name for name in sorted(FUNCTIONS) if f"`{name}(" not in text] == []


# Random expressions on random hosts: the columns and the interpreter must agree, to the last bit.

numbers = st.one_of(
    st.integers(-3, 5),
    st.sampled_from([0.5, 0.1, 1e-3, 2.5, 1e300, -7.25, math.inf]),
    st.booleans(),
    st.none(),
)
words = st.one_of(st.sampled_from(["", "a", "ab", "kvm", "kvm-1", "b*"]), st.none())
lists = st.one_of(st.lists(st.sampled_from(["a", "ab", "kvm"]), max_size=3), st.none())
anything = st.one_of(numbers, words, lists)
hosts = st.lists(
    st.fixed_dictionaries(
        {"n": numbers, "m": numbers, "cpu_free": numbers, "s": words, "t": words, "l": lists, "x": anything}
    ),
    min_size=1,
    max_size=5,
)
vms = st.fixed_dictionaries(
    {},
    optional={
        "n": numbers,
        "s": words,
        "l": lists,
        "labels": st.dictionaries(st.sampled_from("ab"), words, max_size=2),
    },
)
NUMBER, TEXT, LIST, TRUTH = "number", "text", "list", "truth"
LEAVES = {
    NUMBER: ["0", "2.5", "n", "m", "n", "m", "cpu_free", "vm.n", "x"],
    TEXT: ['"a"', '"kvm-*"', '"ab"', '""', "s", "t", "vm.s", 'vm.labels["a"]', "x"],
    LIST: ["l", "vm.l", "vm.labels", "x"],
    TRUTH: ["true", "false", "n", "x", "defined(x)"],
}


@st.composite
def expressions(draw: st.DrawFn, kind: str, depth: int) -> str:
    """The text of an expression that mostly has the given kind; now and then one of another kind slips in."""
    if draw(st.integers(0, 14)) == 0:
        kind = draw(st.sampled_from([NUMBER, TEXT, LIST, TRUTH]))
    if depth == 0 or draw(st.integers(0, 4)) == 0:
        return draw(st.sampled_from(LEAVES[kind]))

    def part(of: str) -> str:
        return draw(expressions(of, depth - 1))

    forms = ["choose"]
    if kind == NUMBER:
        forms += ["arithmetic", "arithmetic", "minus", "many", "one", "size"]
    if kind == TRUTH:
        forms += ["and", "or", "not", "compare", "compare", "words", "glob", "member", "in", "defined"]
    form = draw(st.sampled_from(forms))
    if form == "choose":
        return f"({part(TRUTH)} ? {part(kind)} : {part(kind)})"
    if form == "arithmetic":
        return f"({part(NUMBER)} {draw(st.sampled_from('+-*/%'))} {part(NUMBER)})"
    if form == "minus":
        return f"-{part(NUMBER)}"
    if form == "many":
        return f"{draw(st.sampled_from(['min', 'max']))}({part(NUMBER)}, {part(NUMBER)})"
    if form == "one":
        return f"{draw(st.sampled_from(['abs', 'floor', 'ceil', 'min']))}({part(NUMBER)})"
    if form == "size":
        return f"size({part(draw(st.sampled_from([TEXT, LIST])))})"
    if form in ("and", "or"):
        return f"({part(TRUTH)} {'&&' if form == 'and' else '||'} {part(TRUTH)})"
    if form == "not":
        return f"!{part(TRUTH)}"
    if form in ("compare", "words"):
        operator = draw(st.sampled_from(["==", "!=", "<", "<=", ">", ">="]))
        of = NUMBER if form == "compare" else TEXT
        return f"({part(of)} {operator} {part(of)})"
    if form == "glob":
        return f"({part(TEXT)} ~ {part(TEXT)})"
    if form == "member":
        return f"({part(TEXT)} in {part(LIST)})"
    if form == "in":
        of = draw(st.sampled_from([NUMBER, TEXT]))
        return f"({part(of)} in [{part(of)}, {part(of)}])"
    return f"defined({part(draw(st.sampled_from([NUMBER, TEXT, LIST, TRUTH])))})"


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=st.one_of(expressions(TRUTH, 4), expressions(NUMBER, 4)), rows=hosts, vm=vms)
def test_columns_and_interpreter_agree_on_random_expressions_and_hosts(
    text: str, rows: list[Row], vm: VMAttributes
) -> None:
    assert_agree(text, rows, vm)


@settings(max_examples=150, deadline=None)
@given(text=expressions(TRUTH, 3), rows=hosts, vm=vms)
def test_conjuncts_together_say_what_the_whole_says(text: str, rows: list[Row], vm: VMAttributes) -> None:
    whole = parse(f"{text} && n > 0 && ({text} || defined(s))")
    table = HostTable.from_rows(rows)
    together = np.ones(len(rows), dtype=bool)
    for term in whole.conjuncts():
        assert parse(term.text).truth(table, vm).tolist() == term.truth(table, vm).tolist()
        together &= term.truth(table, vm)
    assert together.tolist() == whole.truth(table, vm).tolist()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=st.one_of(expressions(TRUTH, 4), expressions(NUMBER, 4)), rows=hosts, vm=vms)
def test_a_tree_that_is_shown_means_the_same(text: str, rows: list[Row], vm: VMAttributes) -> None:
    expression = parse(text)
    again = parse(show(expression.root))
    for row in rows:
        assert repr(again.interpret(row, vm)) == repr(expression.interpret(row, vm)), show(expression.root)
