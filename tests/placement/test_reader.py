"""How a text is read, and what is said about mistakes in it."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement.language import ExpressionError, parse


@pytest.mark.parametrize(
    ("text", "line", "column", "message", "mend"),
    [
        ("", 1, 1, "the expression is empty", ""),
        ("cpu_free = 2", 1, 10, 'unknown operator "="', "write == to compare"),
        ("a &\n b", 1, 3, 'unknown operator "&"', "write &&"),
        ("a &&\n  b | c", 2, 5, 'unknown operator "|"', "write ||"),
        ("a and b", 1, 3, 'unknown operator "and"', "write &&"),
        ("not a", 1, 1, 'unknown operator "not"', "write !"),
        ("a && not b", 1, 6, 'unknown operator "not"', "write !"),
        ("a => 2", 1, 3, 'unknown operator "=>"', "write >="),
        ("a <> 2", 1, 3, 'unknown operator "<>"', "write !="),
        ("a === 2", 1, 3, 'unknown operator "==="', "write =="),
        ('a like "x*"', 1, 3, 'unknown operator "like"', "write ~"),
        ("a ==", 1, 5, 'an operand is missing after "=="', ""),
        ("(a && (b)", 1, 1, '"(" is never closed', 'add ")"'),
        ("(a && (b", 1, 7, '"(" is never closed', 'add ")"'),
        ("x in [1, 2", 1, 6, '"[" is never closed', 'add "]"'),
        ("a)", 1, 2, '")" closes nothing', ""),
        ("a ? 1", 1, 3, '"?" has no ":"', "write condition ? value : value"),
        ('a == "b', 1, 6, "this text has no closing quote", 'add " at its end'),
        ("a b", 1, 3, 'an operator is missing before "b"', ""),
        ("a $ b", 1, 3, 'unexpected "$"', ""),
        ("a && * b", 1, 6, '"*" cannot stand here', "a name, a number or a text is expected"),
        ("1 < a < 3", 1, 7, "comparisons do not chain", 'join two of them with &&, as in "a < b && b < c"'),
        ("flor(2)", 1, 1, 'unknown function "flor"', 'did you mean "floor"?'),
        ("1 + abs(2, 3)", 1, 5, "abs() takes 1 argument, not 2", ""),
        ("vm > 2", 1, 1, '"vm" alone has no value', 'name one of its attributes, as in "vm.vcpus"'),
        (
            'a ["x"]',
            1,
            1,
            '"a" has no named entries',
            'write "x" in a, or vm.labels["x"] for a label of the VM',
        ),
    ],
)
def test_mistake_is_shown_at_its_place_with_its_mend(
    text: str, line: int, column: int, message: str, mend: str
) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse(text)
    error = caught.value
    assert (error.line, error.column, error.message, error.mend) == (line, column, message, mend)
    assert error.text == text
    shown = str(error).split("\n")
    assert shown[0] == f"line {line}, column {column}: {message}"
    assert shown[1] == "  " + text.split("\n")[line - 1]
    assert shown[2] == " " * (column + 1) + "^"
    assert shown[3:] == ([mend] if mend else [])


def test_expression_error_is_a_value_error_that_survives_pickling() -> None:
    with pytest.raises(ValueError) as caught:
        parse("a = 1")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301


@pytest.mark.parametrize(
    "text",
    ["(" * 3000 + "1" + ")" * 3000, "!" * 3000 + "a", "1" + " + 1" * 2000],
    ids=["groups", "nots", "sums"],
)
def test_absurd_nesting_is_an_error_or_a_value_but_never_a_crash(text: str) -> None:
    try:
        expression = parse(text)
    except ExpressionError as error:
        assert "nested deeper" in error.message  # noqa: PT017
    else:
        assert expression.interpret({}, {}) == 1.0


def test_expression_that_is_too_long_is_refused() -> None:
    with pytest.raises(ExpressionError, match="longer than 8192 characters"):
        parse("a" * 8193)


def test_error_shows_only_the_surroundings_of_its_place_in_a_long_line() -> None:
    with pytest.raises(ExpressionError) as caught:
        parse("a && " * 200 + "b = 1" + " && a" * 200)
    _, line, caret, _ = str(caught.value).split("\n")
    assert len(line) == 102
    assert line[caret.index("^")] == "="


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab1.()[]?:\"'=!<>&|~,+-*/% \n", max_size=25))
def test_any_text_parses_or_is_an_expression_error_with_a_place_in_it(text: str) -> None:
    try:
        parse(text)
    except ExpressionError as error:
        assert error.message  # noqa: PT017
        lines = text.split("\n")
        assert 1 <= error.line <= len(lines)  # noqa: PT017
        assert 1 <= error.column <= len(lines[error.line - 1]) + 1  # noqa: PT017
