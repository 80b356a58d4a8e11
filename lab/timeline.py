"""What happens in the lab, as lines with the seconds since the start."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import typer

import isthmus
from lab.wait import until

TOLD = frozenset(
    {
        "policy.opened",
        "policy.closed",
        "vm.placed",
        "vm.waiting",
        "vm.unplaced",
        "vm.running",
        "vm.deleting",
        "vm.terminated",
        "peer.prepared",
        "peer.enrolled",
        "peer.refused",
        "peer.removed",
    }
)
"""The broker's events that a viewer wants to see."""


class Timeline:
    """Prints lines as they come, from any thread. ``clock`` is monotonic, in seconds."""

    def __init__(
        self, put: Callable[[str], Any] = typer.echo, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._put = put
        self._clock = clock
        self._start = clock()
        self._lock = threading.Lock()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return self._clock() - self._start

    def say(self, text: str, mark: str = " ") -> None:
        """One line; ``mark`` is one character that tells what kind of line it is."""
        with self._lock:
            self._put(f"{self.seconds:7.1f} s {mark} {text}")

    def step(self, text: str) -> None:
        """A line that something has been reached."""
        self.say(text, "*")


class Watcher:
    """Follows a broker's events in a thread of its own: tells the timeline, and lets one wait for them."""

    def __init__(self, client: isthmus.Client, timeline: Timeline) -> None:
        self._client = client
        self._timeline = timeline
        self._seen: list[isthmus.Event] = []
        self._told = True
        newest = list(client.events.list(limit=1))
        self._after = newest[-1].seq if newest else 0
        threading.Thread(target=self._follow, name="lab-events", daemon=True).start()

    def until(self, kind: str, about: str = "", timeout_s: float = 60.0) -> isthmus.Event:
        """Wait for an event of that kind whose message has ``about`` in it. Raises TimeOver."""

        def find() -> isthmus.Event | None:
            return next((each for each in self._seen if each.kind == kind and about in each.message), None)

        found = until(find, timeout_s, f"event {kind} {about}".strip(), pause_s=0.05)
        assert found is not None  # noqa: S101
        return found

    def silence(self) -> None:
        """Tell nothing any more: the broker is about to be ended."""
        self._told = False

    def _follow(self) -> None:
        after = self._after
        while self._told:
            try:
                for event in self._client.events.follow(after):
                    after = event.seq
                    if self._told and event.kind in TOLD:
                        noun = "burst policy " if event.kind.startswith("policy.") else ""
                        self._timeline.say(f"{noun}{event.message}")
                    self._seen.append(event)
            except isthmus.IsthmusError:
                # The broker is away; it may come back.
                time.sleep(0.5)
