"""``isthmus image``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from isthmus.cli._options import Json, Name, NewName, Owner, Switch, Visible, noun, pairs
from isthmus.cli._output import age, put, put_json, put_record, size
from isthmus.cli._progress import Progress
from isthmus.cli._session import client_of
from isthmus.cli._verbs import add_delete, add_list, add_show

app = noun("image")

_COLUMNS: dict[str, Any] = {
    "FAMILY": lambda image: image.family or image.name,
    "VERSION": lambda image: image.version,
    "PROJECT": lambda image: image.project,
    "VISIBILITY": lambda image: image.visibility,
    "STATE": lambda image: "deprecated" if image.deprecated_at else image.state,
    "FORMAT": lambda image: image.format,
    "SIZE": lambda image: size(image.size_bytes),
    "ARCH": lambda image: image.architecture,
    "SITES": lambda image: image.sites,
    "AGE": lambda image: age(image.created_at),
    "REASON": lambda image: image.status_reason,
}


@app.command()
def create(
    ctx: typer.Context,
    name: NewName,
    path: Annotated[
        str,
        typer.Option("--path", help="The disk file, on the broker's machine."),
    ],
    format: Annotated[str | None, typer.Option("--format", help="qcow2 (the default) or raw.")] = None,
    architecture: Annotated[str | None, typer.Option("--architecture", help="x86_64 by default.")] = None,
    kernel: Annotated[
        str | None, typer.Option("--kernel", help="A kernel file there, to boot directly.")
    ] = None,
    initrd: Annotated[str | None, typer.Option("--initrd", help="An initrd file there.")] = None,
    cmdline: Annotated[str | None, typer.Option("--cmdline", help="The kernel's command line.")] = None,
    min_disk: Annotated[
        int | None,
        typer.Option(
            "--min-disk", min=0, metavar="GIB", help="The least disk of its VMs. Default: the image's own."
        ),
    ] = None,
    login_user: Annotated[
        str | None, typer.Option("--login-user", help="The user that its guests let in, for people to read.")
    ] = None,
    project: Owner = None,
    visibility: Visible = None,
    site: Annotated[
        list[str] | None, typer.Option("--site", metavar="SITE=ID", help="Its id at a cloud site (an AMI).")
    ] = None,
    json: Json = False,
) -> None:
    """Import an image. Of a family that is there it becomes the next version."""
    with Progress(f"importing {name}"):
        image = client_of(ctx).images.create(
            name,
            path,
            format=format,
            architecture=architecture,
            kernel=kernel,
            initrd=initrd,
            cmdline=cmdline,
            min_disk_gb=min_disk,
            login_user=login_user,
            project=project,
            visibility=visibility.value if visibility is not None else None,
            sites=pairs(site, "--site") if site else None,
        )
    if json:
        put_json(image)
    else:
        put(f"{image.name} is {image.state} ({image.id})")


add_list(app, "images", _COLUMNS, "List images.", "no images; `isthmus image create` imports one")


def _record(image: Any) -> dict[str, Any]:
    return {
        "name": image.name,
        "family": image.family,
        "version": image.version,
        "id": image.id,
        "project": image.project,
        "visibility": image.visibility,
        "deprecated": image.deprecated_at,
        "state": image.state,
        "reason": image.status_reason,
        "format": image.format,
        "size": size(image.size_bytes),
        "sha256": image.sha256,
        "architecture": image.architecture,
        "direct kernel": image.direct_kernel,
        "cmdline": image.cmdline,
        "min disk GiB": image.min_disk_gb,
        "login user": image.login_user,
        "sites": image.sites,
        "labels": image.labels,
        "created": image.created_at,
    }


add_show(app, "images", _record, "Show one image.")


@app.command()
def map(
    ctx: typer.Context,
    name: Name,
    site: Annotated[
        list[str],
        typer.Argument(metavar="SITE=ID...", help="Its id at that cloud site; SITE= takes it away."),
    ],
    json: Json = False,
) -> None:
    """Say which id an image has at which cloud site."""
    images = client_of(ctx).images
    image = images.get(name)
    sites = {key: value for key, value in {**image.sites, **pairs(site, "SITE=ID")}.items() if value}
    image = images.map(image.id, sites)
    if json:
        put_json(image)
    else:
        put_record({image.name: [f"{key}: {value}" for key, value in image.sites.items()]})


@app.command()
def deprecate(
    ctx: typer.Context,
    name: Name,
    switch: Annotated[
        Switch, typer.Argument(metavar="on|off", help="No longer what the bare name means, or again.")
    ] = Switch.ON,
    json: Json = False,
) -> None:
    """Have a family's bare name mean this version no more (on), or again (off). It can be used as before."""
    image = client_of(ctx).images.deprecate(name, switch is Switch.ON)
    if json:
        put_json(image)
    else:
        put(f"{image.family}@{image.version} is {'' if image.deprecated_at else 'not '}deprecated")


add_delete(app, "images", "Remove an image. Refused while VMs use it.")
