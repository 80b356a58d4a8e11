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
    """Copy a disk file of the broker's machine into the catalogue, as the next version of its family. Admins only."""
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
            min_disk_gb=body.min_disk_gb,
            login_user=body.login_user,
            project_ref=body.project,
            visibility=body.visibility,
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
    """All versions of the project's images and of those that are shared, by family."""
    rows, following = cut(image.list_images(broker, caller, labels=wanted(label)), image.order, limit, page)
    return schema.Page(items=[_answer(row) for row in rows], next=following)


@router.get("/{ref}")
def get_image(broker: TheBroker, caller: Caller, ref: Ref) -> schema.Image:
    """One image, by id, `family@version`, or family: its newest version that is not deprecated."""
    return _answer(image.get(broker, caller, ref))


@router.patch("/{ref}")
def update_image(broker: TheBroker, caller: Caller, ref: Ref, body: schema.ImageUpdate) -> schema.Image:
    """Say under which id each cloud site knows this image, or whether its bare name may mean it. Admins only."""
    row = None
    if body.sites is not None:
        row = image.map_sites(broker, caller, ref, body.sites)
    if body.deprecated is not None:
        row = image.deprecate(broker, caller, row.id if row is not None else ref, body.deprecated)
    return _answer(row if row is not None else image.get(broker, caller, ref))


@router.delete("/{ref}", status_code=204)
def delete_image(broker: TheBroker, caller: Caller, ref: Ref) -> None:
    """Remove an image that no VM uses. Admins only."""
    image.delete(broker, caller, ref)


def _answer(row: ImageRow) -> schema.Image:
    realisations = [
        schema.Realisation(
            site=one.site.name,
            state=one.state,
            status_reason=one.status_reason,
            ref=one.ref,
            bytes=one.bytes,
            created_at=one.created_at,
            updated_at=one.updated_at,
        )
        for one in sorted(row.realisations, key=lambda one: one.site.name)
    ]
    return schema.Image(
        id=row.id,
        name=row.name,
        family=row.family,
        version=row.version,
        project=row.project.name if row.project is not None else None,
        visibility=row.visibility,
        state=row.state,
        status_reason=row.status_reason,
        format=row.format,
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        architecture=row.architecture,
        direct_kernel=bool(row.kernel),
        cmdline=row.cmdline,
        min_disk_gb=row.min_disk_gb,
        login_user=row.login_user,
        deprecated_at=row.deprecated_at,
        sites={one.site: one.ref for one in realisations},
        realisations=realisations,
        labels=row.labels,
        created_at=row.created_at,
    )
