"""Operations are objects one can wait on."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

import isthmus


def test_waiting_asks_until_it_is_over(client: Any, broker: Any, make: Any, time: Any) -> None:
    running, done = make["operation"](), make["operation"](state="done", phase="")
    broker.on("GET", "/v1/operations/op-1", running, running, running, done)
    seen: list[str] = []
    operation = client.operations.get("op-1").wait(on_update=lambda op: seen.append(op.state))
    assert operation.state is isthmus.OperationState.DONE
    assert seen == ["running", "running", "done"]
    assert [dict(asked.query).get("wait") for asked in broker.asked] == [None, "2.0", "2.0", "2.0"]
    assert time.slept == [2.0, 2.0]


def test_a_failure_says_why_and_keeps_the_operation(client: Any, broker: Any, make: Any) -> None:
    broker.on("GET", "/v1/operations/op-1", make["operation"](state="failed", error="no room anywhere"))
    with pytest.raises(isthmus.OperationFailed, match="no room anywhere") as caught:
        client.operations.get("op-1").wait()
    assert caught.value.operation is not None
    assert caught.value.operation.id == "op-1"


def test_when_the_time_is_over_it_says_how_to_go_on(client: Any, broker: Any, make: Any, time: Any) -> None:
    broker.on("GET", "/v1/operations/op-1", make["operation"]())
    with pytest.raises(isthmus.OperationTimeout, match="starting on a") as caught:
        client.operations.get("op-1").wait(timeout=5)
    assert time.now == 5
    assert "isthmus operation wait op-1" in caught.value.hint


def test_a_broker_that_restarts_is_waited_for(client: Any, broker: Any, make: Any, time: Any) -> None:
    away = [httpx2.ConnectError("refused")] * 20
    broker.on("GET", "/v1/operations/op-1", make["operation"](), *away, make["operation"](state="done"))
    assert client.operations.get("op-1").wait(timeout=60).state == "done"


def test_a_broker_that_stays_away_is_given_up(client: Any, broker: Any, make: Any, time: Any) -> None:
    broker.on("GET", "/v1/operations/op-1", make["operation"](), httpx2.ConnectError("refused"))
    with pytest.raises(isthmus.ConnectionFailed):
        client.operations.get("op-1").wait(timeout=600)
    assert 25 < time.now < 40
    begun = time.now
    broker.on("GET", "/v1/operations/op-1", make["operation"](), httpx2.ConnectError("refused"))
    with pytest.raises(isthmus.ConnectionFailed):
        client.operations.get("op-1").wait(timeout=5)
    assert time.now - begun < 8


def test_no_timeout_waits_on(client: Any, broker: Any, make: Any, time: Any) -> None:
    broker.on("GET", "/v1/operations/op-1", *[make["operation"]()] * 2000, make["operation"](state="done"))
    client.operations.get("op-1").wait(timeout=None)
    assert time.now > 3000


def test_what_is_over_is_not_asked_about_again(client: Any, broker: Any, make: Any) -> None:
    broker.on("GET", "/v1/operations/op-1", make["operation"](state="done"))
    operation = client.operations.get("op-1")
    operation.wait()
    assert len(broker.asked) == 1


def test_operations_are_listed_by_target_and_state(client: Any, broker: Any, make: Any) -> None:
    broker.on("GET", "/v1/operations", [make["operation"]()])
    assert [op.id for op in client.operations.list(target="vm-1", state="running")] == ["op-1"]
    assert broker.asked[0].query == [("limit", "1000"), ("target", "vm-1"), ("state", "running")]
