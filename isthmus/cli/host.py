"""``isthmus host``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from isthmus.cli._options import DryRun, Json, Name, Switch, noun
from isthmus.cli._output import cell, put, put_json, put_list, put_record
from isthmus.cli._session import client_of
from isthmus.cli.rebalance import put_plan

app = noun("host")

_COLUMNS: dict[str, Any] = {
    "NAME": lambda host: host.name,
    "SITE": lambda host: host.site,
    "STATE": lambda host: host.state,
    "VCPUS FREE": lambda host: _room(host.vcpus_free, host.vcpus_total),
    "MEM FREE MB": lambda host: _room(host.mem_free_mb, host.mem_total_mb),
    "VMS": lambda host: host.vms,
    "PRICE/H": lambda host: host.attributes.get("price_hour"),
    "REASON": lambda host: host.status_reason,
}


_ENDLESS = 1e8
"""More than any host has: a cloud without a quota."""


def _room(free: float, total: float) -> str | None:
    return None if total > _ENDLESS else f"{free:.0f}/{total:.0f}"


@app.command("list")
def list_hosts(
    ctx: typer.Context,
    site: Annotated[str | None, typer.Option("--site", help="Only that site's.")] = None,
    json: Json = False,
) -> None:
    """List hosts."""
    put_list(client_of(ctx).hosts.list(site=site), _COLUMNS, json, "no hosts; `isthmus site add` adds some")


@app.command()
def show(ctx: typer.Context, name: Name, json: Json = False) -> None:
    """Show one host, with the attributes that requirements and ranks may name."""
    host = client_of(ctx).hosts.get(name)
    if json:
        put_json(host)
        return
    put_record(
        {
            "name": host.name,
            "id": host.id,
            "site": host.site,
            "state": host.state,
            "reason": host.status_reason,
            "in maintenance": host.in_maintenance,
            "elastic": host.elastic,
            "vcpus": f"{cell(host.vcpus_free)} free of {cell(host.vcpus_total)}",
            "memory": f"{host.mem_free_mb:.0f} MiB free of {host.mem_total_mb:.0f}",
            "vms": host.vms,
            "seen": host.seen_at,
            "attributes": [f"{key} = {cell(value)}" for key, value in sorted(host.attributes.items())],
        }
    )


@app.command()
def maintenance(
    ctx: typer.Context,
    name: Name,
    switch: Annotated[Switch, typer.Argument(metavar="on|off", help="Into it, or out of it.")] = Switch.ON,
    json: Json = False,
) -> None:
    """Have a host take no new VM (on), or take them again (off). What runs there goes on."""
    host = client_of(ctx).hosts.maintenance(name, switch is Switch.ON)
    if json:
        put_json(host)
    else:
        put(f"{host.name} is {host.state}")


@app.command()
def drain(ctx: typer.Context, name: Name, dry_run: DryRun = False, json: Json = False) -> None:
    """Put a host into maintenance and begin to move all that runs there to other hosts of its site."""
    plan = client_of(ctx).migrations.drain(name, dry_run=dry_run)
    if json:
        put_json(plan)
        return
    put_plan(plan)
    if dry_run:
        put("nothing was changed")
