"""A POST that comes again under its ``Idempotency-Key`` is answered as before."""

from __future__ import annotations

import json
import re
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.native import dry_run
from api.native.errors import refused
from broker import request, token
from broker.actor import Actor
from broker.broker import Broker
from broker.errors import BrokerError, InvalidRequest

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_OWN = re.compile(r"/v1/vms|/v1/agent/.*")
"""What remembers its requests itself, or is the same when repeated."""


class Repeats:
    """Remembers what was answered to a POST with a key, when it changed anything. Inside of the bound on bodies."""

    def __init__(self, app: ASGIApp, broker: Broker) -> None:
        self._app = app
        self._broker = broker

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection."""
        key = Headers(scope=scope).get("idempotency-key") if scope["type"] == "http" else None
        if key is None or scope["method"] != "POST" or _OWN.fullmatch(scope["path"]):
            await self._app(scope, receive, send)
            return
        asked = Request(scope, receive)
        body = await asked.body()
        sent = False

        async def again() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        actor = await run_in_threadpool(self._actor, asked)
        if actor is None:
            await self._app(scope, again, send)  # which says what is wrong with the token
            return
        try:
            response = await self._answer(scope, again, asked, actor, key, _content(body))
        except BrokerError as error:
            response = refused(asked, error)
        await response(scope, receive, send)

    async def _answer(
        self, scope: Scope, receive: Receive, asked: Request, actor: Actor, key: str, content: Any
    ) -> Response:
        if not _KEY.fullmatch(key):
            raise InvalidRequest("Idempotency-Key: 1 to 255 printable characters without spaces are a key")
        action = f"POST {scope['path']}"
        query = dry_run.without(asked.url.query)
        one = request.Remembering(self._broker, actor, key, action, [query, content])
        known = await run_in_threadpool(one.known)
        if known is None:
            with one:
                try:
                    response = await _buffered(self._app, scope, receive)
                except BaseException:
                    await run_in_threadpool(one.drop)
                    raise
            if 200 <= response.status_code < 300:
                text = bytes(response.body).decode()
                await run_in_threadpool(one.keep, request.Answer(response.status_code, text))
                return response
            await run_in_threadpool(one.drop)
            if response.status_code not in (409, 503):
                return response
            # Of two at once, the one that lost has the winner's answer, if that is there.
            known = await run_in_threadpool(one.known)
            if known is None:
                return response
        if dry_run.is_asked(asked.query_params):
            return dry_run.repeated(known)
        return Response(known.body, known.status, media_type="application/json" if known.body else None)

    def _actor(self, asked: Request) -> Actor | None:
        scheme, _, secret = asked.headers.get("authorization", "").partition(" ")
        try:
            return token.authenticate(self._broker, secret) if scheme.lower() == "bearer" else None
        except BrokerError:
            return None


async def _buffered(app: ASGIApp, scope: Scope, receive: Receive) -> Response:
    """The app's whole answer: those to a POST are small."""
    response = Response()
    body = b""

    async def send(message: Message) -> None:
        nonlocal body
        if message["type"] == "http.response.start":
            response.status_code = message["status"]
            response.raw_headers = list(message["headers"])
        elif message["type"] == "http.response.body":
            body += message.get("body", b"")

    await app(scope, receive, send)
    response.body = body
    return response


def _content(body: bytes) -> Any:
    """The body as it is told from others: two spellings of one JSON are one."""
    try:
        return json.loads(body)
    except ValueError:
        return body.hex()
