"""Bearer tokens of the native API. Only the hash of a secret is stored."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from broker import access, event, project
from broker.actor import GATEWAY, Actor
from broker.broker import Broker
from broker.errors import Forbidden, NotFound, Unauthenticated
from broker.store import TokenRow

_KNOWN_S = 5.0
"""How long a token is believed that nobody said has changed: one that another broker revokes is told of, but by a message that
may be lost."""
_MOST_KNOWN = 10_000


def hash_of(secret: str) -> str:
    """The stored form of a secret (SHA-256; the secret has 256 random bits)."""
    return hashlib.sha256(secret.encode()).hexdigest()


def add(
    broker: Broker,
    session: Session,
    *,
    name: str,
    project_id: str,
    role: str,
    gateway_id: str | None = None,
    expires_in_s: int | None = None,
) -> tuple[TokenRow, str]:
    """Write a new token in the caller's transaction; (row, secret)."""
    secret = f"ist_{secrets.token_urlsafe(32)}"
    now = broker.clock.now()
    row = TokenRow(
        id=broker.new_id("tok"),
        name=name,
        project_id=project_id,
        role=role,
        gateway_id=gateway_id,
        hash=hash_of(secret),
        created_at=now,
        expires_at=now + timedelta(seconds=expires_in_s) if expires_in_s else None,
    )
    session.add(row)
    return row, secret


def create(
    broker: Broker,
    actor: Actor,
    *,
    name: str,
    project_ref: str | None = None,
    role: str = "member",
    expires_in_s: int | None = None,
) -> tuple[TokenRow, str]:
    """A new token and its secret, shown once. Others than admins make tokens of their own project and role at most."""
    access.require(actor, "token.create")
    with broker.store.transaction() as session:
        owner = project.find(session, actor, project_ref or actor.project_id)
        access.require(actor, "token.create", owner.id)
        access.require_role(actor, role, owner.id)
        row, secret = add(
            broker, session, name=name, project_id=owner.id, role=role, expires_in_s=expires_in_s
        )
        row.project = owner
        event.record(
            broker,
            session,
            "token.created",
            row.id,
            f"token {name} ({role}) made by {actor.name}",
            project_id=owner.id,
        )
    return row, secret


def list_tokens(broker: Broker, actor: Actor) -> Sequence[TokenRow]:
    """Tokens of people and programs; by name. Not those of gateways."""
    access.require(actor, "token.list")
    query = select(TokenRow).where(TokenRow.role != GATEWAY).order_by(TokenRow.name, TokenRow.id)
    query = access.visible(query, actor, TokenRow, "token.list")
    with broker.store.reading() as session:
        return list(session.scalars(query))


def delete(broker: Broker, actor: Actor, token_id: str) -> None:
    """Revoke a token: at once here, and as soon as they hear of it in other brokers, or within ``_KNOWN_S``. Raises NotFound."""
    access.require(actor, "token.delete")
    with broker.store.transaction() as session:
        row = session.get(TokenRow, token_id)
        if row is None or not access.sees(actor, row.project_id, "token.list"):
            raise NotFound("token", token_id)
        access.require(actor, "token.delete", row.project_id)
        if not access.covers(actor, row.role, row.project_id):
            raise Forbidden("only an admin may revoke the token of an admin or a gateway")
        event.record(
            broker,
            session,
            "token.deleted",
            row.id,
            f"token {row.name} revoked by {actor.name}",
            project_id=row.project_id,
        )
        session.delete(row)


class Known:
    """Whom this process has let in lately, so that not every request reads its token."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._actors: dict[str, tuple[Actor, datetime, int]] = {}
        """Hash -> its actor, until when that is believed, and the count of changes of tokens before it was read."""

    def get(self, secret: str) -> Actor | None:
        """The caller behind a secret, without a look at the store; None when it takes one."""
        changes = self._broker.store.changes
        actor, until, seen = self._actors.get(hash_of(secret), (None, None, 0))
        if until is None or seen != changes.tokens or not changes.whole or until <= self._broker.clock.now():
            return None
        return actor

    def add(self, row: TokenRow, seen: int) -> Actor:
        """Who a token lets in; ``seen``: the count of changes of tokens before it was read."""
        actor = actor_of(row)
        if self._broker.store.changes.whole:
            if len(self._actors) >= _MOST_KNOWN:
                self._actors.clear()
            until = self._broker.clock.now() + timedelta(seconds=_KNOWN_S)
            self._actors[row.hash] = actor, min(until, row.expires_at or until), seen
        return actor


def authenticate(broker: Broker, secret: str) -> Actor:
    """The caller behind a bearer secret. Raises Unauthenticated."""
    known = broker.part(Known)
    if (actor := known.get(secret)) is not None:
        return actor
    seen = broker.store.changes.tokens
    with broker.store.reading() as session:
        row = session.scalar(select(TokenRow).where(TokenRow.hash == hash_of(secret)))
    if row is None:
        raise Unauthenticated("the token is not valid", hint="make one with `isthmus token create`")
    if row.expires_at is not None and row.expires_at <= broker.clock.now():
        raise Unauthenticated(
            f"the token {row.name} has expired", hint="make one with `isthmus token create`"
        )
    return known.add(row, seen)


def actor_of(row: TokenRow) -> Actor:
    """Who a token lets in: an actor with the one grant that it carries."""
    return Actor(project_id=row.project_id, role=row.role, name=row.name, gateway_id=row.gateway_id)
