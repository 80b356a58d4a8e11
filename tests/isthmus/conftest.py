"""A broker of a few lines behind the SDK: it answers from the schema's models and remembers what it was asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest
from pydantic import BaseModel

import isthmus
from isthmus import schema

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def vm(**changes: Any) -> schema.VM:
    values: dict[str, Any] = {
        "id": "vm-1",
        "name": "web",
        "project": "default",
        "state": "pending",
        "image": "tiny",
        "flavor": "small",
        "vcpus": 1,
        "mem_mb": 256,
        "disk_gb": 1,
        "operation": "op-1",
        "created_at": NOW,
    }
    return schema.VM(**{**values, **changes})


def operation(**changes: Any) -> schema.Operation:
    values: dict[str, Any] = {
        "id": "op-1",
        "kind": "vm.create",
        "target": "vm-1",
        "state": "running",
        "phase": "launch",
        "message": "starting on a",
        "created_at": NOW,
    }
    return schema.Operation(**{**values, **changes})


Answer = BaseModel | list[BaseModel] | httpx2.Response | Exception | None


@dataclass
class Asked:
    method: str
    path: str
    query: list[tuple[str, str]]
    body: Any
    headers: dict[str, str]


@dataclass
class FakeBroker:
    """``on(method, path, *answers)``: one after the other, the last one for ever. A list is a page."""

    answers: dict[tuple[str, str], list[Answer]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)

    def on(self, method: str, path: str, *answers: Answer) -> FakeBroker:
        self.answers[method, path] = list(answers)
        return self

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.raw_path.decode().partition("?")[0]
        self.asked.append(
            Asked(
                request.method,
                path,
                list(request.url.params.multi_items()),
                json.loads(request.content) if request.content else None,
                dict(request.headers),
            )
        )
        queue = self.answers.get((request.method, path))
        if queue is None:
            return refusal(404, "not_found", f"no route {request.method} {path}")
        answer = queue.pop(0) if len(queue) > 1 else queue[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx2.Response):
            return answer
        if answer is None:
            return httpx2.Response(204)
        if isinstance(answer, list):
            items = [item.model_dump(mode="json") for item in answer]
            return httpx2.Response(200, json={"items": items, "next": None})
        return httpx2.Response(200, json=answer.model_dump(mode="json"))


def refusal(status: int, code: str, message: str, hint: str = "", **details: Any) -> httpx2.Response:
    error = schema.Error(error=schema.ErrorDetail(code=code, message=message, hint=hint, details=details))
    return httpx2.Response(status, json=error.model_dump(mode="json"))


class FakeTime:
    """A clock that only moves when somebody sleeps, or when a request takes its time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker()


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def client(broker: FakeBroker, time: FakeTime) -> isthmus.Client:
    keys = iter(f"key-{i}" for i in range(1000))
    return isthmus.Client(
        "http://broker:8770",
        "ist_secret",
        transport=httpx2.MockTransport(broker),
        environ={},
        sleep=time.sleep,
        clock=time.clock,
        random=lambda: 0.5,
        new_key=lambda: next(keys),
    )


@pytest.fixture
def make() -> dict[str, Callable[..., Any]]:
    """The makers of answers, for tests in other modules (a conftest cannot be imported here)."""
    return {"vm": vm, "operation": operation, "refusal": refusal}
