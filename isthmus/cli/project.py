"""``isthmus project``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from isthmus.cli._options import Json, NewName, noun
from isthmus.cli._output import age, put, put_json
from isthmus.cli._session import client_of
from isthmus.cli._verbs import add_delete, add_list, add_show

app = noun("project")

_COLUMNS: dict[str, Any] = {
    "NAME": lambda project: project.name,
    "VMS": lambda project: _of(project, "vms"),
    "VCPUS": lambda project: _of(project, "vcpus"),
    "MEM MB": lambda project: _of(project, "mem_mb"),
    "DISK GB": lambda project: _of(project, "disk_gb"),
    "GPUS": lambda project: _of(project, "gpus"),
    "ACCOUNT": lambda project: project.account,
    "AGE": lambda project: age(project.created_at),
}


def _of(project: Any, what: str) -> str:
    """What is used of a limit; what is used alone where there is none."""
    used, limit = getattr(project.used, what), getattr(project.quota, what)
    return str(used) if limit is None else f"{used} of {limit}"


@app.command()
def create(
    ctx: typer.Context,
    name: NewName,
    vms: Annotated[int | None, typer.Option("--vms", min=0, help="Quota; none is no limit.")] = None,
    vcpus: Annotated[int | None, typer.Option("--vcpus", min=0, help="Quota; none is no limit.")] = None,
    mem_mb: Annotated[
        int | None, typer.Option("--mem-mb", min=0, help="Quota in MiB; none is no limit.")
    ] = None,
    disk_gb: Annotated[
        int | None, typer.Option("--disk-gb", min=0, help="Quota in GiB; none is no limit.")
    ] = None,
    gpus: Annotated[int | None, typer.Option("--gpus", min=0, help="Quota; none is no limit.")] = None,
    json: Json = False,
) -> None:
    """Add a project."""
    project = client_of(ctx).projects.create(
        name, vms=vms, vcpus=vcpus, mem_mb=mem_mb, disk_gb=disk_gb, gpus=gpus
    )
    if json:
        put_json(project)
    else:
        put(
            f"{project.name} is added ({project.id}); `isthmus token create --project {project.name}` lets it in"
        )


add_list(app, "projects", _COLUMNS, "List projects.", "no projects")


def _record(project: Any) -> dict[str, Any]:
    return {
        "name": project.name,
        "id": project.id,
        "account": project.account,
        "vms": _of(project, "vms"),
        "vcpus": _of(project, "vcpus"),
        "MiB of memory": _of(project, "mem_mb"),
        "GiB of disk": _of(project, "disk_gb"),
        "gpus": _of(project, "gpus"),
        "labels": project.labels,
        "created": project.created_at,
    }


add_show(app, "projects", _record, "Show one project.")


add_delete(app, "projects", "Remove a project. Refused while it has VMs.")
