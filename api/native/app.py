"""The ASGI app of the native API: the routes of every noun of the table, and of what is no noun."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.routing import APIRoute

from api.native import agent, dry_run, metrics, status
from api.native.body import BodyLimit
from api.native.errors import REFUSALS, install
from api.native.repeat import Repeats
from broker.broker import Broker
from isthmus.nouns import NOUNS


def create_app(broker: Broker) -> FastAPI:
    """The native API of one broker. The OpenAPI document is at ``/v1/openapi.json``; it needs no token."""
    app = FastAPI(
        title="Isthmus",
        summary="One API for VMs, networks and storage over your own hosts and the clouds you rent.",
        version="1",
        openapi_url="/v1/openapi.json",
        docs_url=None,  # its page would load scripts from a foreign host
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
        responses=REFUSALS,
        dependencies=[Depends(dry_run.refuse_where_there_is_none)],
    )
    app.state.broker = broker
    app.state.requests = metrics.Requests()
    app.include_router(status.router)
    for noun in NOUNS:
        app.include_router(import_module(f"api.native.{noun.name}").router)
    for other in (agent, metrics):
        app.include_router(other.router)
    install(app)
    app.add_middleware(Repeats, broker=broker)
    app.add_middleware(BodyLimit)
    app.add_middleware(metrics.Counting, requests=app.state.requests)
    _document = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            _without_422(_document())
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]
    return app


def _operation_id(route: APIRoute) -> str:
    return route.name


def _without_422(document: dict[str, Any]) -> None:
    """A request with a mistake is answered 400 here, so the framework's own 422 is not documented."""
    for methods in document["paths"].values():
        for described in methods.values():
            described["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
