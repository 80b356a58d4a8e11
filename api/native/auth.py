"""Who asks: a bearer token becomes the broker's ``Actor``."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool

from broker import token
from broker.actor import Actor
from broker.broker import Broker
from broker.errors import Unauthenticated

_bearer = HTTPBearer(
    auto_error=False, description="A token as `isthmus init` or `isthmus token create` gives it."
)


async def _broker(request: Request) -> Broker:
    # Asynchronous for what it saves: a dependency that is not goes through a thread, at every request.
    broker: Broker = request.app.state.broker
    return broker


TheBroker = Annotated[Broker, Depends(_broker)]


async def _actor(
    broker: TheBroker, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Actor:
    if credentials is None:
        raise Unauthenticated(
            "this needs a token",
            hint="send `Authorization: Bearer ist_...`; `isthmus init` made the first one",
        )
    secret = credentials.credentials
    # Whom this process knows needs no thread; only a look at the store does.
    known = broker.part(token.Known).get(secret)
    return known if known is not None else await run_in_threadpool(token.authenticate, broker, secret)


Caller = Annotated[Actor, Depends(_actor)]
"""The authenticated caller; what it may do is the broker's to say."""
