"""The live timeline, and the broker's events in it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

import isthmus
from lab.timeline import Timeline, Watcher
from lab.wait import TimeOver


def event(seq: int, kind: str, message: str) -> isthmus.Event:
    return isthmus.Event(
        seq=seq, time=datetime(2026, 1, 1, tzinfo=UTC), kind=kind, target="vm-1", message=message
    )


class Events:
    """A broker's events. The first look breaks off, as when the broker is killed."""

    def __init__(self, known: list[isthmus.Event]) -> None:
        self.known = known
        self.asked_after: list[int | None] = []
        self.over = threading.Event()

    def list(self, limit: int) -> Iterator[isthmus.Event]:
        return iter(self.known[:1][-limit:])

    def follow(self, after: int | None) -> Iterator[isthmus.Event]:
        self.asked_after.append(after)
        for each in self.known:
            if each.seq > (after or 0):
                yield each
                if len(self.asked_after) == 1:
                    raise isthmus.ConnectionFailed("the broker is away")
        self.over.wait(10)
        yield event(5, "vm.placed", "late")
        threading.Event().wait()  # as the real one, it never ends by itself


@pytest.fixture
def events() -> Iterator[Events]:
    known = [
        event(1, "vm.placed", "old"),
        event(2, "vm.placed", "web placed on a"),
        event(3, "token.created", "a token"),
        event(4, "vm.running", "web runs on a"),
    ]
    source = Events(known)
    yield source
    source.over.set()


def test_a_line_has_the_seconds_since_the_start() -> None:
    now = iter([100.0, 112.34, 113.0])
    lines: list[str] = []
    timeline = Timeline(lines.append, lambda: next(now))
    timeline.say("guest boots")
    timeline.step("guest is up")
    assert lines == ["   12.3 s   guest boots", "   13.0 s * guest is up"]


def test_new_events_that_matter_are_told_once_though_the_broker_was_away(events: Events) -> None:
    lines: list[str] = []
    watcher = Watcher(SimpleNamespace(events=events), Timeline(lines.append, lambda: 0.0))  # type: ignore[arg-type]
    assert watcher.until("vm.running", "web").message == "web runs on a"
    assert [line.split("s   ")[1] for line in lines] == ["web placed on a", "web runs on a"]
    assert events.asked_after == [1, 2]


def test_waiting_for_an_event_that_does_not_come_ends(events: Events) -> None:
    watcher = Watcher(SimpleNamespace(events=events), Timeline(lambda line: None))  # type: ignore[arg-type]
    with pytest.raises(TimeOver, match=r"event policy\.opened"):
        watcher.until("policy.opened", timeout_s=0.1)


def test_a_silenced_watcher_tells_nothing(events: Events) -> None:
    lines: list[str] = []
    watcher = Watcher(SimpleNamespace(events=events), Timeline(lines.append))  # type: ignore[arg-type]
    watcher.until("vm.running")
    watcher.silence()
    told = len(lines)
    events.over.set()
    watcher.until("vm.placed", "late")
    assert len(lines) == told
