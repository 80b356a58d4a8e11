"""Waiting for something to become so, with an end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class TimeOver(Exception):
    """Something did not happen in its time; the text says what."""


def until(condition: Callable[[], T], timeout_s: float, what: str, *, pause_s: float = 0.1) -> T:
    """Ask ``condition`` again and again until its answer counts as true, and return it. Raises TimeOver."""
    end = time.monotonic() + timeout_s
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > end:
            raise TimeOver(f"{what}: not within {timeout_s:g} s")
        time.sleep(pause_s)
