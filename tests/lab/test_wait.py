"""Waiting with an end."""

from __future__ import annotations

import pytest

from lab.wait import TimeOver, until


def test_waiting_gives_the_first_answer_that_counts() -> None:
    answers = iter([None, "", "here"])
    assert until(lambda: next(answers), 5, "an answer", pause_s=0) == "here"


def test_waiting_ends_and_says_for_what() -> None:
    with pytest.raises(TimeOver, match=r"^rain: not within 0\.01 s$"):
        until(lambda: False, 0.01, "rain", pause_s=0.001)
