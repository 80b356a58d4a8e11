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
    "VMS": lambda project: project.quota.vms,
    "VCPUS": lambda project: project.quota.vcpus,
    "MEM MB": lambda project: project.quota.mem_mb,
    "ACCOUNT": lambda project: project.account,
    "AGE": lambda project: age(project.created_at),
}


@app.command()
def create(
    ctx: typer.Context,
    name: NewName,
    vms: Annotated[int | None, typer.Option("--vms", min=0, help="Quota; none is no limit.")] = None,
    vcpus: Annotated[int | None, typer.Option("--vcpus", min=0, help="Quota; none is no limit.")] = None,
    mem_mb: Annotated[
        int | None, typer.Option("--mem-mb", min=0, help="Quota in MiB; none is no limit.")
    ] = None,
    json: Json = False,
) -> None:
    """Add a project."""
    project = client_of(ctx).projects.create(name, vms=vms, vcpus=vcpus, mem_mb=mem_mb)
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
        "vms at most": project.quota.vms,
        "vcpus at most": project.quota.vcpus,
        "MiB at most": project.quota.mem_mb,
        "labels": project.labels,
        "created": project.created_at,
    }


add_show(app, "projects", _record, "Show one project.")


add_delete(app, "projects", "Remove a project. Refused while it has VMs.")
