"""``isthmus gateway``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isthmus.cli._options import Json, Name, NewName, noun
from isthmus.cli._output import age, note, put, put_json
from isthmus.cli._session import client_of
from isthmus.cli._verbs import add_delete, add_list, add_show

if TYPE_CHECKING:
    from isthmus.client.gateway import GatewayCreated

app = noun("gateway")

_COLUMNS: dict[str, Any] = {
    "NAME": lambda gateway: gateway.name,
    "SITE": lambda gateway: gateway.site,
    "NETWORK": lambda gateway: gateway.network,
    "ENDPOINT": lambda gateway: gateway.endpoint,
    "STATE": lambda gateway: gateway.state,
    "PEERS": lambda gateway: gateway.peers,
    "APPLIED": lambda gateway: f"{gateway.applied_generation}/{gateway.generation}",
    "SEEN": lambda gateway: age(gateway.seen_at),
}


@app.command()
def create(
    ctx: typer.Context,
    name: NewName,
    site: Annotated[str, typer.Option("--site", help="The site whose hosts it serves.")],
    network: Annotated[str, typer.Option("--network", help="The private network.")],
    endpoint: Annotated[
        str,
        typer.Option(
            "--endpoint", metavar="ADDRESS:PORT", help="What burst VMs dial: its public UDP address."
        ),
    ],
    token_file: Annotated[
        str | None,
        typer.Option("--token-file", help="Write the agent's token there (0600) instead of showing it."),
    ] = None,
    json: Json = False,
) -> None:
    """Add a gateway. Its agent's token is shown this once."""
    client = client_of(ctx)
    created = client.gateways.create(name, site=site, network=network, endpoint=endpoint)
    if _put_token(created, f"{created.gateway.name} is added ({created.gateway.id})", token_file, json):
        return
    note(
        "hint: on that machine: isthmus agent --broker https://BROKER:8770 --ca CA.PEM "
        f"--token-file {token_file or 'FILE'}"
    )


@app.command()
def renew_token(
    ctx: typer.Context,
    name: Name,
    token_file: Annotated[
        str | None,
        typer.Option("--token-file", help="Write the new token there (0600) instead of showing it."),
    ] = None,
    json: Json = False,
) -> None:
    """Give a gateway's agent a new token, shown this once. The one before is dead at once."""
    renewed = client_of(ctx).gateways.renew_token(name)
    if not _put_token(renewed, f"{renewed.gateway.name} has a new token", token_file, json):
        note("hint: put it into the agent's --token-file on that machine, and start the agent again")


add_list(app, "gateways", _COLUMNS, "List gateways.", "no gateways; `isthmus gateway create` adds one")


def _record(gateway: Any) -> dict[str, Any]:
    return {
        "name": gateway.name,
        "id": gateway.id,
        "site": gateway.site,
        "network": gateway.network,
        "endpoint": gateway.endpoint,
        "state": gateway.state,
        "reason": gateway.status_reason,
        "public key": gateway.public_key,
        "generation": f"{gateway.applied_generation} applied of {gateway.generation}",
        "peers": gateway.peers,
        "agent": gateway.software,
        "reads documents": ", ".join(str(version) for version in gateway.document_versions),
        "features": ", ".join(gateway.features),
        "seen": gateway.seen_at,
        "labels": gateway.labels,
        "created": gateway.created_at,
    }


add_show(app, "gateways", _record, "Show one gateway.")


add_delete(app, "gateways", "Remove a gateway. Refused while VMs are reached through it.")


def _put_token(created: GatewayCreated, words: str, token_file: str | None, json: bool) -> bool:
    """Show what was made, with the token unless it goes to a file; whether that was all, as JSON."""
    if token_file:
        _write_secret(token_file, created.token)
        created.token = ""
    if json:
        put_json(created)
        return True
    put(words)
    if not token_file:
        note("the agent's token, shown this once:")
        put(created.token)
    return False


def _write_secret(path: str, secret: str) -> None:
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(secret + "\n")
    except OSError as error:
        note(f"error: cannot write {path}: {error.strerror}; the token follows, keep it")
        put(secret)
        raise typer.Exit(1) from None
