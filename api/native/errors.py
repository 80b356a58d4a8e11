"""Every refusal in the one shape ``{"error": {"code", "message", "hint", "details"}}``."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from broker import errors
from isthmus.schema import Error
from isthmus.schema.error import problems

log = structlog.get_logger()

REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Error, "description": "The request has a mistake."},
    401: {"model": Error, "description": "No valid token."},
    403: {"model": Error, "description": "The role or the quota does not allow it."},
    404: {"model": Error, "description": "There is no such thing."},
    409: {"model": Error, "description": "The present state of things does not allow it."},
    413: {"model": Error, "description": "The request is too large."},
    500: {"model": Error, "description": "A mistake of the broker's own."},
    503: {"model": Error, "description": "Not now: try again."},
}

_STATUSES: tuple[tuple[type[errors.BrokerError], int], ...] = (
    (errors.InvalidRequest, 400),
    (errors.Unauthenticated, 401),
    (errors.Forbidden, 403),
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.Unavailable, 503),
)


def install(app: FastAPI) -> None:
    """Have every error of the app answered in the one shape."""
    app.add_exception_handler(errors.BrokerError, refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _not_routed)
    app.add_exception_handler(Exception, _internal)


def _answer(
    status: int,
    code: str,
    message: str,
    hint: str = "",
    details: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    error = {"code": code, "message": message, "hint": hint, "details": dict(details or {})}
    return JSONResponse({"error": error}, status, dict(headers or {}))


def refused(request: Request, error: Exception) -> Response:
    """The broker's refusal on the wire."""
    assert isinstance(error, errors.BrokerError)  # noqa: S101
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
    headers = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "1"}}.get(status)
    if status == 500:
        log.error("request.failed", method=request.method, path=request.url.path, error=error.message)
    return _answer(status, error.code, error.message, error.hint, error.details, headers)


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    found = problems(error.errors())
    message = "; ".join(f"{problem['loc']}: {problem['message']}" for problem in found)
    return _answer(400, "invalid_request", message, details={"errors": found})


def _not_routed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    if error.status_code == 404:
        return _answer(404, "route_not_found", f"there is no {request.url.path}", "the API lives below /v1")
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return _answer(
            405,
            "method_not_allowed",
            f"{request.url.path} does not know {request.method}",
            f"it knows {allowed}" if allowed else "",
            headers=error.headers,
        )
    if error.status_code == 400:
        return _answer(400, "invalid_request", str(error.detail), headers=error.headers)
    phrase = HTTPStatus(error.status_code).phrase.lower()
    return _answer(error.status_code, phrase.replace(" ", "_"), str(error.detail), headers=error.headers)


def _internal(request: Request, error: Exception) -> Response:
    log.error("request.failed", method=request.method, path=request.url.path, exc_info=error)
    return _answer(500, "internal", "a mistake of the broker's own", "its log says more; please report it")
