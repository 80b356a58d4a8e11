"""A bound on request bodies, before anything reads them."""

from __future__ import annotations

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 1 << 20
"""The largest request of the API is a policy file of 256 KiB, which JSON may at worst spell four times as long."""


class _TooLarge(Exception):
    pass


class BodyLimit:
    """Answers 413 to a body of more than ``MOST_BYTES``, whether it says its length or not."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"")
        if length.isdigit() and int(length) > MOST_BYTES:
            await self._refuse(scope, receive, send)
            return
        read = 0
        begun = refused = False

        async def counting() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > MOST_BYTES:
                raise _TooLarge
            return message

        async def answering(message: Message) -> None:
            nonlocal begun, refused
            if read > MOST_BYTES and not begun:
                # The framework made its own answer of the exception: ours is the true one.
                refused = begun = True
                await self._refuse(scope, receive, send)
            elif not refused:
                begun = True
                await send(message)

        try:
            await self._app(scope, counting, answering)
        except _TooLarge:
            if begun:
                raise
            await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = {
            "code": "too_large",
            "message": f"the request's body is longer than {MOST_BYTES} bytes",
            "hint": "",
            "details": {},
        }
        await JSONResponse({"error": error}, 413, {"Connection": "close"})(scope, receive, send)
