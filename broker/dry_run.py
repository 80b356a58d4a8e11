"""Dry runs: the code that carries a request out checks all that it checks, and nothing of it stays.

While one is on, each transaction of the store is flushed, so that the database has its say, and rolled back; no signal is
set, no operation is handed to the engine, no event is recorded. What is run must neither ask a provider for an effect
nor write a file: a request whose code does so before it is an operation has no dry run.

It is on for the call that asked for it and for what runs in that call's context, and for nobody else: other threads, and
other requests of the same thread, have contexts of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_ON: ContextVar[bool] = ContextVar("dry_run", default=False)


@contextmanager
def nothing_stays() -> Iterator[None]:
    """Have nothing stay of what runs inside."""
    before = _ON.set(True)
    try:
        yield
    finally:
        _ON.reset(before)


def is_on() -> bool:
    """Whether what runs here is a dry run."""
    return _ON.get()
