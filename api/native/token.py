"""``/v1/tokens``."""

from __future__ import annotations

from fastapi import APIRouter

from api.native.auth import Caller, TheBroker
from api.native.paging import Limit, Ref, Token, cut
from broker import token
from broker.store import TokenRow
from isthmus import schema

router = APIRouter(prefix="/v1/tokens", tags=["token"])


@router.post("", status_code=201)
def create_token(broker: TheBroker, caller: Caller, body: schema.TokenCreate) -> schema.TokenCreated:
    """Make a token. Its secret is answered this once."""
    row, secret = token.create(
        broker,
        caller,
        name=body.name,
        project_ref=body.project,
        role=body.role,
        expires_in_s=body.expires_in_s,
    )
    return schema.TokenCreated(token=_answer(row), secret=secret)


@router.get("")
def list_tokens(
    broker: TheBroker, caller: Caller, limit: Limit = 100, page: Token = None
) -> schema.Page[schema.Token]:
    """The project's tokens without their secrets, by name."""
    rows, following = cut(token.list_tokens(broker, caller), lambda row: (row.name, row.id), limit, page)
    return schema.Page(items=[_answer(row) for row in rows], next=following)


@router.delete("/{id}", status_code=204)
def delete_token(broker: TheBroker, caller: Caller, id: Ref) -> None:
    """Revoke a token at once."""
    token.delete(broker, caller, id)


def _answer(row: TokenRow) -> schema.Token:
    return schema.Token(
        id=row.id,
        name=row.name,
        project=row.project.name,
        role=schema.Role(row.role),
        created_at=row.created_at,
        expires_at=row.expires_at,
    )
