"""``isthmus network``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from isthmus.cli._options import Json, Name, NewName, Owner, Visible, noun
from isthmus.cli._output import cell, put, put_json, put_record, put_table
from isthmus.cli._session import client_of
from isthmus.cli._verbs import add_delete, add_list

app = noun("network")

_COLUMNS: dict[str, Any] = {
    "NAME": lambda network: network.name,
    "PROJECT": lambda network: network.project,
    "VISIBILITY": lambda network: network.visibility,
    "CIDR": lambda network: network.cidr,
    "SUBNETS": lambda network: [f"{subnet.site} {subnet.cidr}" for subnet in network.subnets],
    "LEASED": lambda network: sum(subnet.leased for subnet in network.subnets),
}

Site = Annotated[str, typer.Argument(metavar="SITE", help="The site's name or id.")]


@app.command()
def create(
    ctx: typer.Context,
    name: NewName,
    cidr: Annotated[
        str, typer.Argument(metavar="CIDR", help="The range of all its subnets, e.g. 10.10.0.0/16.")
    ],
    project: Owner = None,
    visibility: Visible = None,
    json: Json = False,
) -> None:
    """Add a network."""
    network = client_of(ctx).networks.create(
        name,
        cidr,
        project=project,
        visibility=visibility.value if visibility is not None else None,
    )
    if json:
        put_json(network)
    else:
        put(f"{network.name} is added ({network.id}); `isthmus network add-subnet` gives each site its part")


add_list(app, "networks", _COLUMNS, "List networks.", "no networks; `isthmus network create` adds one")


@app.command()
def show(ctx: typer.Context, name: Name, json: Json = False) -> None:
    """Show one network with its subnets."""
    network = client_of(ctx).networks.get(name)
    if json:
        put_json(network)
        return
    put_record(
        {
            "name": network.name,
            "id": network.id,
            "project": network.project,
            "visibility": network.visibility,
            "cidr": network.cidr,
            "labels": network.labels,
            "created": network.created_at,
        }
    )
    if network.subnets:
        put()
        put_table(
            ["SITE", "CIDR", "MODE", "GATEWAY", "BRIDGE", "DNS", "RESERVED", "MTU", "LEASED"],
            [
                [
                    cell(v)
                    for v in (s.site, s.cidr, s.mode, s.gateway, s.bridge, s.dns, s.reserved, s.mtu, s.leased)
                ]
                for s in network.subnets
            ],
        )


add_delete(app, "networks", "Remove a network. Refused while it is in use.")


@app.command("add-subnet")
def add_subnet(
    ctx: typer.Context,
    name: Name,
    site: Site,
    cidr: Annotated[str, typer.Argument(metavar="CIDR", help="A part of the network's range.")],
    mode: Annotated[
        str | None,
        typer.Option(
            "--mode",
            help="nat (the default on hosts of ours), route, bridge; tunnel (the default in a cloud).",
        ),
    ] = None,
    gateway: Annotated[
        str | None, typer.Option("--gateway", help="The VMs' gateway. Default: the first address.")
    ] = None,
    bridge: Annotated[
        str | None, typer.Option("--bridge", help="The hosts' bridge, for mode bridge.")
    ] = None,
    dns: Annotated[list[str] | None, typer.Option("--dns", help="A name server; again for more.")] = None,
    reserved: Annotated[
        list[str] | None,
        typer.Option("--reserved", metavar="ADDRESS[-ADDRESS]", help="Never leased to a VM; again for more."),
    ] = None,
    mtu: Annotated[int | None, typer.Option("--mtu", help="1420 by default.")] = None,
    json: Json = False,
) -> None:
    """Give a site its subnet of a network."""
    subnet = client_of(ctx).networks.add_subnet(
        name,
        site,
        cidr,
        mode=mode,
        gateway=gateway,
        bridge=bridge,
        dns=dns or None,
        reserved=reserved or None,
        mtu=mtu,
    )
    if json:
        put_json(subnet)
    else:
        put(f"{subnet.site} has {subnet.cidr} of {name} ({subnet.mode})")


@app.command("remove-subnet")
def remove_subnet(ctx: typer.Context, name: Name, site: Site) -> None:
    """Take a site's subnet away. Refused while addresses of it are leased."""
    client_of(ctx).networks.remove_subnet(name, site)
    put(f"{site} has no subnet of {name} any more")
