"""Long polls: a request that waits holds no thread and no transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, TypeVar

from fastapi import Query
from starlette.concurrency import run_in_threadpool

from broker.broker import Broker

T = TypeVar("T")

Wait = Annotated[
    float, Query(ge=0, le=30, allow_inf_nan=False, description="Hold the answer back up to so many seconds.")
]

LOOK_AGAIN_S = 1.0
"""Another broker on the same database signals in its own process only."""


async def until(
    broker: Broker,
    signal: str,
    look: Callable[[], T],
    good: Callable[[T], bool],
    wait_s: float,
) -> T:
    """What ``look`` sees once it is ``good``, or when ``wait_s`` seconds are over. ``look`` may block: it runs in a
    thread, at the start, at every signal and after each ``LOOK_AGAIN_S`` seconds."""
    loop = asyncio.get_running_loop()
    woken = asyncio.Event()
    deadline = loop.time() + wait_s

    def wake() -> None:
        loop.call_soon_threadsafe(woken.set)

    end = broker.signals.listen(signal, wake)
    try:
        while True:
            woken.clear()
            seen = await run_in_threadpool(look)
            left = deadline - loop.time()
            if good(seen) or left <= 0:
                return seen
            with suppress(TimeoutError):
                await asyncio.wait_for(woken.wait(), min(left, LOOK_AGAIN_S))
    finally:
        end()
