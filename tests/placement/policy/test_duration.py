"""Durations, read and shown."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from placement.policy.duration import duration, show_duration


@given(st.integers(0, 10_000_000))
def test_shown_duration_reads_back_as_itself(seconds: int) -> None:
    assert duration(show_duration(seconds)) == seconds
