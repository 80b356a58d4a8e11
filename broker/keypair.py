"""SSH public keys that VMs let in."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Unpack

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key
from sqlalchemy import select
from sqlalchemy.orm import Session

from broker import access, event, label, listing
from broker.actor import Actor
from broker.broker import Broker
from broker.errors import Exists, InvalidRequest, NotFound
from broker.store import LABELS, KeyPairRow


def create(
    broker: Broker,
    actor: Actor,
    *,
    name: str,
    public_key: str,
    labels: Mapping[str, str] | None = None,
) -> KeyPairRow:
    """Import a public key into the caller's project. Raises Exists, InvalidRequest."""
    access.require(actor, "keypair.create", actor.project_id)
    line = public_key.strip()
    if "\n" in line:
        raise InvalidRequest(
            "a public key is one line", hint="give the content of a file like ~/.ssh/id_ed25519.pub"
        )
    try:
        key = load_ssh_public_key(line.encode())
    except (ValueError, UnsupportedAlgorithm):
        hint = "give the content of a file like ~/.ssh/id_ed25519.pub"
        if "PRIVATE KEY" in line:
            hint = "this is a PRIVATE key: keep it to yourself and give the .pub file"
        raise InvalidRequest("this is not an OpenSSH public key", hint=hint) from None
    blob = base64.b64decode(key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()[1])
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    with broker.store.transaction() as session:
        if session.get(KeyPairRow, (actor.project_id, name)):
            raise Exists("keypair", name)
        row = KeyPairRow(
            project_id=actor.project_id,
            name=name,
            id=broker.new_id("key"),
            public_key=line,
            fingerprint=f"SHA256:{digest}",
            created_at=broker.clock.now(),
        )
        session.add(row)
        event.record(
            broker, session, "keypair.created", name, f"key pair {name} imported", project_id=actor.project_id
        )
        session.flush()
        session.refresh(row)
        label.give(session, row, labels)
    return row


def find(session: Session, actor: Actor, ref: str) -> KeyPairRow:
    """A key pair of the caller's project, by name or id. Raises NotFound."""
    mine = KeyPairRow.project_id == actor.project_id
    query = select(KeyPairRow).where(mine, (KeyPairRow.name == ref) | (KeyPairRow.id == ref))
    row = session.scalar(query.options(LABELS))
    if row is None:
        raise NotFound("keypair", ref)
    return row


def get(broker: Broker, actor: Actor, name: str) -> KeyPairRow:
    """One key pair. Raises NotFound."""
    access.require(actor, "keypair.get", actor.project_id)
    with broker.store.reading() as session:
        return find(session, actor, name)


def list_key_pairs(broker: Broker, actor: Actor, **which: Unpack[listing.Which]) -> Sequence[KeyPairRow]:
    """The project's key pairs, by name."""
    access.require(actor, "keypair.list", actor.project_id)
    query = select(KeyPairRow).order_by(KeyPairRow.name)
    query = access.visible(query, actor, KeyPairRow, "keypair.list", here=True)
    with broker.store.reading() as session:
        found = listing.narrowed(query.options(LABELS), KeyPairRow, which, by=KeyPairRow.name)
        return session.scalars(found).all()


def delete(broker: Broker, actor: Actor, name: str) -> None:
    """Forget a key; VMs that were started with it keep it. Raises NotFound."""
    access.require(actor, "keypair.delete", actor.project_id)
    with broker.store.transaction() as session:
        row = find(session, actor, name)
        session.delete(row)
        event.record(
            broker,
            session,
            "keypair.deleted",
            row.name,
            f"key pair {row.name} deleted",
            project_id=actor.project_id,
        )
