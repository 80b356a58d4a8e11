"""``/v1/keypairs``."""

from __future__ import annotations

from fastapi import APIRouter

from api.native.auth import Caller, TheBroker
from api.native.label import Label, wanted
from api.native.paging import Limit, Ref, Token, cut
from broker import keypair
from broker.store import KeyPairRow
from isthmus import schema

router = APIRouter(prefix="/v1/keypairs", tags=["keypair"])


@router.post("", status_code=201)
def create_keypair(broker: TheBroker, caller: Caller, body: schema.KeyPairCreate) -> schema.KeyPair:
    """Add a public key to the project."""
    return _answer(
        keypair.create(broker, caller, name=body.name, public_key=body.public_key, labels=body.labels)
    )


@router.get("")
def list_keypairs(
    broker: TheBroker,
    caller: Caller,
    label: Label = [],  # noqa: B006
    limit: Limit = 100,
    page: Token = None,
) -> schema.Page[schema.KeyPair]:
    """The project's public keys, by name."""
    rows, following = cut(
        keypair.list_key_pairs(broker, caller, labels=wanted(label)), lambda row: (row.name,), limit, page
    )
    return schema.Page(items=[_answer(row) for row in rows], next=following)


@router.get("/{ref}")
def get_keypair(broker: TheBroker, caller: Caller, ref: Ref) -> schema.KeyPair:
    """One public key."""
    return _answer(keypair.get(broker, caller, ref))


@router.delete("/{ref}", status_code=204)
def delete_keypair(broker: TheBroker, caller: Caller, ref: Ref) -> None:
    """Forget a public key; VMs that have it keep it."""
    keypair.delete(broker, caller, ref)


def _answer(row: KeyPairRow) -> schema.KeyPair:
    return schema.KeyPair(
        id=row.id,
        name=row.name,
        project=row.project.name,
        public_key=row.public_key,
        fingerprint=row.fingerprint,
        labels=row.labels,
        created_at=row.created_at,
    )
