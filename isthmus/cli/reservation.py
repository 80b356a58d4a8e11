"""``isthmus reservation``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from isthmus.cli._options import Json, Labelled, Name, NewName, moment, noun, pairs, seconds
from isthmus.cli._output import put, put_json, put_list, put_record
from isthmus.cli._session import client_of
from isthmus.cli._verbs import add_delete

app = noun("reservation")

_COLUMNS: dict[str, Any] = {
    "NAME": lambda reservation: reservation.name,
    "STATE": lambda reservation: reservation.state,
    "FLAVOR": lambda reservation: reservation.flavor,
    "COUNT": lambda reservation: reservation.count,
    "VMS": lambda reservation: reservation.vms,
    "START": lambda reservation: reservation.start_at,
    "END": lambda reservation: reservation.end_at,
}


@app.command()
def create(
    ctx: typer.Context,
    name: NewName,
    flavor: Annotated[str, typer.Option("--flavor", help="The size of its VMs.")],
    count: Annotated[int, typer.Option("--count", min=1, help="How many VMs it has room for.")] = 1,
    start: Annotated[
        str | None,
        typer.Option("--start", metavar="TIME", help="2026-12-24T18:00+01:00, or 3h from now. Default: now."),
    ] = None,
    end: Annotated[str | None, typer.Option("--end", metavar="TIME", help="When it ends.")] = None,
    duration: Annotated[
        str | None,
        typer.Option("--duration", metavar="DURATION", help="How long it lasts, e.g. 90m; instead of --end."),
    ] = None,
    requirements: Annotated[
        str | None, typer.Option("--requirements", metavar="EXPR", help="What its hosts must be.")
    ] = None,
    json: Json = False,
) -> None:
    """Reserve room; VMs take it that are created with --reservation NAME."""
    if (end is None) == (duration is None):
        raise typer.BadParameter("say when it ends, or how long it lasts", param_hint="--end / --duration")
    start_at = moment(start, "--start") if start else None
    if end is not None:
        end_at = moment(end, "--end")
    else:
        length = timedelta(seconds=seconds(duration or "", "--duration"))
        end_at = (start_at or datetime.now(UTC)) + length
    reservation = client_of(ctx).reservations.create(
        name, flavor, end_at, count=count, start_at=start_at, requirements=requirements
    )
    if json:
        put_json(reservation)
        return
    hosts = ", ".join(f"{count} on {host}" for host, count in reservation.hosts.items())
    put(f"{reservation.name} is {reservation.state}: {hosts}")


@app.command("list")
def list_reservations(
    ctx: typer.Context,
    all: Annotated[bool, typer.Option("--all", help="Those that are over too.")] = False,
    label: Labelled = None,
    json: Json = False,
) -> None:
    """List reservations."""
    put_list(
        client_of(ctx).reservations.list(all=all, labels=pairs(label or [], "--label")),
        _COLUMNS,
        json,
        "no reservations; `isthmus reservation create` makes one",
    )


@app.command()
def show(ctx: typer.Context, name: Name, json: Json = False) -> None:
    """Show one reservation, with the hosts where its room is."""
    reservation = client_of(ctx).reservations.get(name)
    if json:
        put_json(reservation)
        return
    size = f"{reservation.vcpus} vCPUs, {reservation.mem_mb} MiB, {reservation.disk_gb} GiB disk"
    put_record(
        {
            "name": reservation.name,
            "id": reservation.id,
            "project": reservation.project,
            "state": reservation.state,
            "room": f"{reservation.count} x {reservation.flavor} ({size})",
            "hosts": [f"{host}: {count}" for host, count in reservation.hosts.items()],
            "vms": reservation.vms,
            "requirements": reservation.requirements,
            "start": reservation.start_at,
            "end": reservation.end_at,
            "labels": reservation.labels,
            "created": reservation.created_at,
        }
    )


add_delete(app, "reservations", "Cancel a reservation. VMs that stand in its room run on.", done="cancelled")
