"""``?dry_run=true``: a request that begins an operation is checked like any other, and answered with what would be."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

from fastapi import Query, Request
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import QueryParams
from starlette.responses import Response

from broker.errors import InvalidRequest
from broker.request import Answer
from isthmus import schema

_NAME = "dry_run"
_BOOL = TypeAdapter(bool)

DryRun = Annotated[
    bool, Query(description="Check everything, change nothing, and answer with what would be.")
]

BEGINS: dict[str, Any] = {
    "status_code": 202,
    "response_model": schema.VMOperation,
    "responses": {200: {"model": schema.DryRun, "description": "A dry run: what would be."}},
}
"""How a route is declared that begins an operation on a VM."""


async def refuse_where_there_is_none(request: Request) -> None:
    """Raise InvalidRequest for a dry run of a request that has none: to carry it out is the last thing that was meant."""
    if _NAME not in request.query_params or request.method == "GET":
        return
    if _NAME not in inspect.signature(request.scope["route"].endpoint).parameters:
        raise InvalidRequest(
            "this request has no dry run",
            hint="only those that begin an operation have one: leave `dry_run` out",
        )


def is_asked(query: QueryParams) -> bool:
    """Whether a query asks for a dry run."""
    try:
        return _BOOL.validate_python(query.get(_NAME, False))
    except ValidationError:
        return False  # and the route refuses it


def without(query: str) -> str:
    """The query of the request itself, of which this is a dry run."""
    return "&".join(part for part in query.split("&") if part.partition("=")[0] != _NAME)


def told(view: schema.DryRun) -> Response:
    """The answer to a dry run."""
    return Response(view.model_dump_json(), media_type="application/json")


def repeated(known: Answer) -> Response:
    """The answer to a dry run of a request that was carried out already: it would be answered with ``known`` again."""
    try:
        before = schema.VMOperation.model_validate_json(known.body)
    except ValidationError:
        return Response(known.body, media_type="application/json")  # a plan, which tells what was begun
    vm, operation = before.vm, before.operation
    return told(
        schema.DryRun(
            action=operation.kind,
            vm=vm,
            operation=operation.id,
            message=f"nothing would begin: {operation.kind} of {vm.name} was begun by the same request before",
        )
    )
