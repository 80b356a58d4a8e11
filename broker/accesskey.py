"""Access keys of the EC2 face."""

from __future__ import annotations

import secrets
import string
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select

from broker import access, event, project
from broker.actor import Actor
from broker.broker import Broker
from broker.errors import NotFound, Unauthenticated
from broker.store import AccessKeyRow


@dataclass(frozen=True)
class OpenKey:
    """An access key with its secret, to check a signature with. Never log it."""

    actor: Actor
    secret: str
    account: str


def create(
    broker: Broker, actor: Actor, *, project_ref: str | None = None, role: str = "member"
) -> tuple[AccessKeyRow, str]:
    """A new key and its secret, shown once."""
    access.require(actor, "accesskey.create")
    secret = secrets.token_urlsafe(30)
    alphabet = string.ascii_uppercase + "234567"
    with broker.store.transaction() as session:
        owner = project.find(session, actor, project_ref or actor.project_id)
        access.require(actor, "accesskey.create", owner.id)
        access.require_role(actor, role, owner.id)
        row = AccessKeyRow(
            id="AKIS" + "".join(secrets.choice(alphabet) for _ in range(16)),
            project_id=owner.id,
            role=role,
            sealed_secret=broker.sealer.seal(secret),
            created_at=broker.clock.now(),
        )
        session.add(row)
        row.project = owner
        event.record(
            broker,
            session,
            "accesskey.created",
            row.id,
            f"access key ({role}) made by {actor.name}",
            project_id=owner.id,
        )
    return row, secret


def list_access_keys(broker: Broker, actor: Actor) -> Sequence[AccessKeyRow]:
    """Keys of the caller's project; all of them for admins."""
    access.require(actor, "accesskey.list")
    query = select(AccessKeyRow).order_by(AccessKeyRow.created_at, AccessKeyRow.id)
    query = access.visible(query, actor, AccessKeyRow, "accesskey.list")
    with broker.store.reading() as session:
        return list(session.scalars(query))


def delete(broker: Broker, actor: Actor, key_id: str) -> None:
    """Revoke a key at once. Raises NotFound."""
    access.require(actor, "accesskey.delete")
    with broker.store.transaction() as session:
        row = session.get(AccessKeyRow, key_id)
        if row is None or not access.sees(actor, row.project_id, "accesskey.list"):
            raise NotFound("accesskey", key_id)
        access.require(actor, "accesskey.delete", row.project_id)
        access.require_role(actor, row.role, row.project_id)
        event.record(
            broker,
            session,
            "accesskey.deleted",
            row.id,
            f"access key revoked by {actor.name}",
            project_id=row.project_id,
        )
        session.delete(row)


def open_key(broker: Broker, key_id: str) -> OpenKey:
    """The key with its secret, for checking a SigV4 signature. Raises Unauthenticated when there is none."""
    with broker.store.reading() as session:
        row = session.get(AccessKeyRow, key_id)
    if row is None:
        raise Unauthenticated("the access key is not valid", hint="make one with `isthmus accesskey create`")
    secret = broker.sealer.open(row.sealed_secret)
    return OpenKey(actor=actor_of(row), secret=secret, account=row.project.account)


def actor_of(row: AccessKeyRow) -> Actor:
    """Who an access key lets in: an actor with the one grant that it carries."""
    return Actor(project_id=row.project_id, role=row.role, name=row.id)
