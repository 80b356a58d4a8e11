"""``isthmus peer``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from isthmus.cli._options import Json, noun
from isthmus.cli._output import age, put_list, size
from isthmus.cli._session import client_of

app = noun("peer")

_COLUMNS: dict[str, Any] = {
    "VM": lambda peer: peer.vm_name or peer.vm,
    "GATEWAY": lambda peer: peer.gateway,
    "NETWORK": lambda peer: peer.network,
    "STATE": lambda peer: peer.state,
    "ADDRESS": lambda peer: peer.address,
    "HANDSHAKE": lambda peer: age(peer.last_handshake_at),
    "RECEIVED": lambda peer: size(peer.rx_bytes),
    "SENT": lambda peer: size(peer.tx_bytes),
}


@app.callback()
def peer() -> None:
    """Burst VMs' ends of the tunnels."""


@app.command("list")
def list_peers(
    ctx: typer.Context,
    gateway: Annotated[str | None, typer.Option("--gateway", help="Only of that gateway.")] = None,
    vm: Annotated[str | None, typer.Option("--vm", help="Only of that VM.")] = None,
    json: Json = False,
) -> None:
    """List peers."""
    put_list(
        client_of(ctx).peers.list(gateway=gateway, vm=vm),
        _COLUMNS,
        json,
        "no peers: no VM has burst through a gateway",
    )
