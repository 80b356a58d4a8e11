"""``/metrics``: Prometheus text. Requests are counted as they end; the broker's numbers are read when asked for."""

from __future__ import annotations

import time
from collections.abc import Mapping
from http import HTTPMethod
from types import MappingProxyType

from fastapi import APIRouter, Request
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.native.auth import Caller, TheBroker
from broker import retention, status
from broker.status import BudgetView, StatusView

router = APIRouter(tags=["metrics"])

_METHODS = frozenset(HTTPMethod)
"""Any word may stand for a method in HTTP; a series of its own for each would let anybody fill our memory."""


class Requests:
    """What the face was asked. One registry per app: two brokers in a process do not share numbers."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ["method", "route", "status"]
        self.total = Counter(
            "isthmus_http_requests", "Requests of the native API.", labels, registry=self.registry
        )
        self.seconds = Histogram(
            "isthmus_http_request_seconds",
            "From request to answer; long polls include their waiting.",
            ["method", "route"],
            registry=self.registry,
        )


class Counting:
    """Counts each request under its route's template, so that ids do not multiply the series."""

    def __init__(self, app: ASGIApp, requests: Requests) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        status = 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if route != "none" and scope["method"] in _METHODS else "none"
            self._requests.total.labels(method, route, status).inc()
            self._requests.seconds.labels(method, route).observe(time.perf_counter() - begun)


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {"description": "Prometheus text.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    },
)
def get_metrics(request: Request, broker: TheBroker, caller: Caller) -> Response:
    """The broker's and this face's numbers, as the caller may see them."""
    view, money = status.status(broker, caller), status.budget(broker, caller)
    requests: Requests = request.app.state.requests
    return Response(
        generate_latest(requests.registry)
        + generate_latest(_gauges(view, money, retention.totals(broker, caller))),
        media_type=CONTENT_TYPE_LATEST,
    )


def _gauges(
    view: StatusView, money: BudgetView | None, pruned: Mapping[str, int] = MappingProxyType({})
) -> CollectorRegistry:
    registry = CollectorRegistry()
    for name, text, value in (
        ("isthmus_sites", "Sites.", view.sites),
        ("isthmus_hosts", "Hosts, elastic ones included.", view.hosts),
        ("isthmus_vms", "VMs that are not terminated.", view.vms),
        ("isthmus_vms_waiting", "VMs that wait for a host.", view.queue),
        ("isthmus_burst_open", "1 while the policy lets VMs burst.", view.burst == "open"),
    ):
        Gauge(name, text, registry=registry).set(value)
    for name, text in (
        ("limit", "The hard limit of this month."),
        ("spent", "Spent in clouds this month."),
        ("bound", "Spent or bound to be, when all VMs leave clouds now."),
        ("forecast", "What the month will cost when all VMs stay."),
        ("rate", "What an hour of all VMs in clouds costs now."),
    ):
        gauge = Gauge(f"isthmus_budget_{name}", text, ["currency"], registry=registry)
        amount: float | None = getattr(money, name, None)
        if money is not None and amount is not None:
            gauge.labels(money.currency).set(amount)
    counter = Counter(
        "isthmus_pruned", "Rows that were kept long enough, and went.", ["kind"], registry=registry
    )
    for kind, count in pruned.items():
        counter.labels(kind).inc(count)
    return registry
