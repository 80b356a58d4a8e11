"""Signals: what waits for a name is woken by that name, and by no other."""

from __future__ import annotations

import threading

from broker.signals import Signals


def test_a_wait_ends_at_the_signal_that_it_is_for() -> None:
    signals = Signals()
    seen = signals.count("place")
    found: list[int] = []
    waiter = threading.Thread(target=lambda: found.append(signals.wait("place", seen, 30)))
    waiter.start()
    signals.set("policy")
    signals.set("place")
    waiter.join(10)
    assert found == [signals.count("place")]


def test_a_signal_that_came_before_the_wait_is_not_slept_over() -> None:
    signals = Signals()
    seen = signals.count("place")
    signals.set("place")
    assert signals.wait("place", seen, 30) > seen


def test_a_wait_without_a_signal_ends_in_its_time_and_leaves_no_listener() -> None:
    signals = Signals()
    signals.set("policy")
    assert signals.wait("place", 0, 0.01) == 0
    assert signals._listeners == {}
