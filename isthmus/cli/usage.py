"""``isthmus usage``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from isthmus.cli._options import Json, moment, noun
from isthmus.cli._output import put_list
from isthmus.cli._session import client_of

app = noun("usage")

_COLUMNS: dict[str, Any] = {
    "PROJECT": lambda usage: usage.project,
    "SITE": lambda usage: usage.site,
    "VMS": lambda usage: usage.vms,
    "VM HOURS": lambda usage: round(usage.vm_hours, 2),
    "VCPU HOURS": lambda usage: round(usage.vcpu_hours, 2),
    "GIB HOURS": lambda usage: round(usage.gib_hours, 2),
    "DISK GIB HOURS": lambda usage: round(usage.disk_gib_hours, 2),
    "GPU HOURS": lambda usage: round(usage.gpu_hours, 2),
    "COST": lambda usage: round(usage.cost, 4),
}


@app.callback()
def usage() -> None:
    """What projects used, and what it cost."""


@app.command("list")
def list_usage(
    ctx: typer.Context,
    since: Annotated[
        str | None,
        typer.Option(
            "--since", metavar="TIME", help="2026-12-01T00:00+00:00. Default: the month's beginning, UTC."
        ),
    ] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Default: now.")] = None,
    json: Json = False,
) -> None:
    """List what the project used, by site; for admins every project."""
    rows = client_of(ctx).usage.list(
        since=moment(since, "--since") if since else None, until=moment(until, "--until") if until else None
    )
    put_list(rows, _COLUMNS, json, "nothing was used in that time")
