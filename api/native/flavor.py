"""``/v1/flavors``."""

from __future__ import annotations

from fastapi import APIRouter

from api.native.auth import Caller, TheBroker
from api.native.label import Label, wanted
from api.native.paging import Limit, Ref, Token, cut
from broker import flavor
from broker.size import Size
from broker.store import FlavorRow
from isthmus import schema

router = APIRouter(prefix="/v1/flavors", tags=["flavor"])


@router.post("", status_code=201)
def create_flavor(broker: TheBroker, caller: Caller, body: schema.FlavorCreate) -> schema.Flavor:
    """Add a size. Admins only."""
    return _answer(
        flavor.create(
            broker,
            caller,
            name=body.name,
            size=Size.of(body),
            labels=body.labels,
        )
    )


@router.get("")
def list_flavors(
    broker: TheBroker,
    caller: Caller,
    label: Label = [],  # noqa: B006
    limit: Limit = 100,
    page: Token = None,
) -> schema.Page[schema.Flavor]:
    """All sizes, smallest first."""
    rows, following = cut(
        flavor.list_flavors(broker, caller, labels=wanted(label)),
        lambda row: (row.vcpus, row.mem_mb, row.name),
        limit,
        page,
    )
    return schema.Page(items=[_answer(row) for row in rows], next=following)


@router.get("/{ref}")
def get_flavor(broker: TheBroker, caller: Caller, ref: Ref) -> schema.Flavor:
    """One size."""
    return _answer(flavor.get(broker, caller, ref))


@router.delete("/{ref}", status_code=204)
def delete_flavor(broker: TheBroker, caller: Caller, ref: Ref) -> None:
    """Remove a size; VMs keep theirs. Admins only."""
    flavor.delete(broker, caller, ref)


def _answer(row: FlavorRow) -> schema.Flavor:
    return schema.Flavor(
        id=row.id,
        name=row.name,
        **row.size.as_dict(),
        labels=row.labels,
    )
