"""Conditions that open and close the burst: whether both may hold at once."""

from __future__ import annotations

from placement.policy import parse

HEAD = "version: 1\nburst:\n  to: [cloud]\n"


def test_open_and_close_of_all_clauses_may_overlap_where_another_metric_keeps_them_apart() -> None:
    text = (
        HEAD
        + "  open: {all: ['local.cpu_used > 0.5', 'queue.length > 5']}\n"
        + "  close: {all: ['local.cpu_used < 0.9', 'queue.length == 0']}\n"
    )
    assert parse(text).burst is not None
