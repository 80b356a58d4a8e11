"""Steps take turns at what they do themselves."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from broker.engine.slots import Slots


@pytest.mark.parametrize("count", [1, 3])
def test_so_many_threads_hold_a_slot_at_a_time_and_each_gets_one(count: int) -> None:
    slots, lock = Slots(count), threading.Lock()
    now = most = 0

    def work(_number: int) -> None:
        nonlocal now, most
        with slots.held():
            with lock:
                now += 1
                most = max(most, now)
            with lock:
                now -= 1

    with ThreadPoolExecutor(8) as threads:
        assert len(list(threads.map(work, range(200)))) == 200
    assert 1 <= most <= count


def test_slot_that_is_lent_is_another_threads_and_comes_back() -> None:
    slots, asks, answered = Slots(1), threading.Event(), threading.Event()

    def ask() -> None:
        with slots.held(), slots.lent():
            asks.set()
            assert answered.wait(10)

    asking = threading.Thread(target=ask)
    asking.start()
    assert asks.wait(10)
    with slots.held():  # although one asks
        answered.set()
        asking.join(0.05)
        assert asking.is_alive()  # it goes on when it has its slot again
    asking.join(10)
    assert not asking.is_alive()


def test_slot_comes_back_from_a_step_that_fails_while_it_is_lent() -> None:
    slots = Slots(1)
    with pytest.raises(LookupError), slots.held(), slots.lent():
        raise LookupError
    _is_alone(slots)


def test_thread_without_a_slot_has_none_to_lend() -> None:
    slots = Slots(1)
    with slots.lent():
        _is_alone(slots)


def _is_alone(slots: Slots) -> None:
    """Whoever holds the one slot keeps another thread waiting, and it has it after that."""

    def take() -> None:
        with slots.held():
            pass

    other = threading.Thread(target=take)
    with slots.held():
        other.start()
        other.join(0.05)
        assert other.is_alive()
    other.join(10)
    assert not other.is_alive()
