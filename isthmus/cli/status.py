"""``isthmus status``."""

from __future__ import annotations

import typer

from isthmus.cli._options import Json
from isthmus.cli._output import put_json, put_record
from isthmus.cli._session import client_of


def app(ctx: typer.Context, json: Json = False) -> None:
    """The broker: version, counts, whether bursts are open; and who the caller is."""
    client = client_of(ctx)
    status = client.status()
    if json:
        put_json(status)
        return
    put_record(
        {
            "broker": f"{client.url} ({status.broker_id}, version {status.version})",
            "you": f"{status.role} of {status.project}",
            "sites": status.sites,
            "hosts": status.hosts,
            "vms": status.vms,
            "waiting": status.queue,
            "bursts": status.burst,
        }
    )
