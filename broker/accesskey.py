"""Access keys of the EC2 face."""

from __future__ import annotations

import secrets
import string
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select

from broker import event, project
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
    actor.require(role)
    secret = secrets.token_urlsafe(30)
    alphabet = string.ascii_uppercase + "234567"
    with broker.store.transaction() as session:
        owner = project.find(session, actor, project_ref or actor.project_id)
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
    actor.require("member")
    query = select(AccessKeyRow).order_by(AccessKeyRow.created_at, AccessKeyRow.id)
    if not actor.is_admin:
        query = query.where(AccessKeyRow.project_id == actor.project_id)
    with broker.store.reading() as session:
        return list(session.scalars(query))


def delete(broker: Broker, actor: Actor, key_id: str) -> None:
    """Revoke a key at once. Raises NotFound."""
    actor.require("member")
    with broker.store.transaction() as session:
        row = session.get(AccessKeyRow, key_id)
        if row is None or not (actor.is_admin or row.project_id == actor.project_id):
            raise NotFound("accesskey", key_id)
        actor.require(row.role)
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
    actor = Actor(project_id=row.project_id, role=row.role, name=row.id)
    return OpenKey(actor=actor, secret=broker.sealer.open(row.sealed_secret), account=row.project.account)
