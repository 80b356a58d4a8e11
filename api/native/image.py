"""``/v1/images``."""

from __future__ import annotations

from fastapi import APIRouter

from api.native.auth import Caller, TheBroker
from api.native.label import Label, wanted
from api.native.paging import Limit, Ref, Token, cut
from broker import image
from broker.store import ImageRow
from isthmus import schema

router = APIRouter(prefix="/v1/images", tags=["image"])


@router.post("", status_code=201)
def create_image(broker: TheBroker, caller: Caller, body: schema.ImageCreate) -> schema.Image:
    """Copy a disk file of the broker's machine into the catalogue. Admins only."""
    return _answer(
        image.create(
            broker,
            caller,
            name=body.name,
            path=body.path,
            format=body.format,
            architecture=body.architecture,
            kernel=body.kernel,
            initrd=body.initrd,
            cmdline=body.cmdline,
            sites=body.sites,
            labels=body.labels,
        )
    )


@router.get("")
def list_images(
    broker: TheBroker,
    caller: Caller,
    label: Label = [],  # noqa: B006
    limit: Limit = 100,
    page: Token = None,
) -> schema.Page[schema.Image]:
    """All images, by name."""
    rows, following = cut(
        image.list_images(broker, caller, labels=wanted(label)), lambda row: (row.name,), limit, page
    )
    return schema.Page(items=[_answer(row) for row in rows], next=following)


@router.get("/{ref}")
def get_image(broker: TheBroker, caller: Caller, ref: Ref) -> schema.Image:
    """One image."""
    return _answer(image.get(broker, caller, ref))


@router.patch("/{ref}")
def update_image(broker: TheBroker, caller: Caller, ref: Ref, body: schema.ImageUpdate) -> schema.Image:
    """Say under which id each cloud site knows this image. Admins only."""
    return _answer(image.map_sites(broker, caller, ref, body.sites))


@router.delete("/{ref}", status_code=204)
def delete_image(broker: TheBroker, caller: Caller, ref: Ref) -> None:
    """Remove an image that no VM uses. Admins only."""
    image.delete(broker, caller, ref)


def _answer(row: ImageRow) -> schema.Image:
    return schema.Image(
        id=row.id,
        name=row.name,
        state=row.state,
        status_reason=row.status_reason,
        format=row.format,
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        architecture=row.architecture,
        direct_kernel=bool(row.kernel),
        cmdline=row.cmdline,
        sites=row.sites,
        labels=row.labels,
        created_at=row.created_at,
    )
