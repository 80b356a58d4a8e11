"""``/v1/accesskeys``."""

from __future__ import annotations

from fastapi import APIRouter

from api.native.auth import Caller, TheBroker
from api.native.paging import Limit, Ref, Token, cut
from broker import accesskey
from broker.store import AccessKeyRow
from isthmus import schema

router = APIRouter(prefix="/v1/accesskeys", tags=["accesskey"])


@router.post("", status_code=201)
def create_accesskey(
    broker: TheBroker, caller: Caller, body: schema.AccessKeyCreate
) -> schema.AccessKeyCreated:
    """Make an access key for the EC2 face. Its secret is answered this once."""
    row, secret = accesskey.create(broker, caller, project_ref=body.project, role=body.role)
    return schema.AccessKeyCreated(access_key=_answer(row), secret=secret)


@router.get("")
def list_accesskeys(
    broker: TheBroker, caller: Caller, limit: Limit = 100, page: Token = None
) -> schema.Page[schema.AccessKey]:
    """The project's access keys without their secrets."""
    rows, following = cut(accesskey.list_access_keys(broker, caller), lambda row: (row.id,), limit, page)
    return schema.Page(items=[_answer(row) for row in rows], next=following)


@router.delete("/{id}", status_code=204)
def delete_accesskey(broker: TheBroker, caller: Caller, id: Ref) -> None:
    """Revoke an access key at once."""
    accesskey.delete(broker, caller, id)


def _answer(row: AccessKeyRow) -> schema.AccessKey:
    return schema.AccessKey(
        id=row.id, project=row.project.name, role=schema.Role(row.role), created_at=row.created_at
    )
