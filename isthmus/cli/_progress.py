"""A line on standard error while something takes more than a second; only where a person looks."""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from isthmus.client.operation import Operation

_AFTER_S = 1.0


class Progress:
    """``with Progress("creating web") as progress: ...``: a spinner after one second, gone at the end."""

    def __init__(self, text: str) -> None:
        self._what = text
        self._text = text
        self._status: Any = None
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._timer = threading.Timer(_AFTER_S, self._start)
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
            with self._lock:
                self._timer = None
                if self._status is not None:
                    self._status.stop()

    def update(self, operation: Operation) -> None:
        """Show where the operation stands."""
        stand = ": ".join(part for part in (operation.phase, operation.message) if part)
        with self._lock:
            self._text = f"{self._what} ({stand})" if stand else self._what
            if self._status is not None:
                self._status.update(_plain(self._text))

    def _start(self) -> None:
        from rich.console import Console
        from rich.status import Status

        with self._lock:
            if self._timer is not None:  # not over in the meantime
                self._status = Status(_plain(self._text), console=Console(stderr=True))
                self._status.start()


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text("".join(c if c.isprintable() else " " for c in text), overflow="ellipsis", no_wrap=True)
