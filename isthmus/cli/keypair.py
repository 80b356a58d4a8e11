"""``isthmus keypair``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from isthmus.cli._options import Json, Name, NewName, noun, read_text
from isthmus.cli._output import age, put, put_json, put_list, put_record
from isthmus.cli._session import client_of

app = noun("SSH public keys that VMs let in.")

_COLUMNS: dict[str, Any] = {
    "NAME": lambda keypair: keypair.name,
    "FINGERPRINT": lambda keypair: keypair.fingerprint,
    "AGE": lambda keypair: age(keypair.created_at),
}


@app.command()
def create(
    ctx: typer.Context,
    name: NewName,
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="The public key, e.g. ~/.ssh/id_ed25519.pub; - for standard input."
        ),
    ],
    json: Json = False,
) -> None:
    """Add a public key."""
    text = read_text(file, "FILE").strip()
    if "PRIVATE KEY" in text:
        raise typer.BadParameter("that is a private key; give the .pub file", param_hint="FILE")
    keypair = client_of(ctx).keypairs.create(name, text)
    if json:
        put_json(keypair)
    else:
        put(f"{keypair.name} is added ({keypair.fingerprint})")


@app.command("list")
def list_keypairs(ctx: typer.Context, json: Json = False) -> None:
    """List key pairs."""
    put_list(
        client_of(ctx).keypairs.list(), _COLUMNS, json, "no key pairs; `isthmus keypair create` adds one"
    )


@app.command()
def show(ctx: typer.Context, name: Name, json: Json = False) -> None:
    """Show one key pair."""
    keypair = client_of(ctx).keypairs.get(name)
    if json:
        put_json(keypair)
        return
    put_record(
        {
            "name": keypair.name,
            "project": keypair.project,
            "fingerprint": keypair.fingerprint,
            "public key": keypair.public_key,
            "created": keypair.created_at,
        }
    )


@app.command()
def delete(ctx: typer.Context, name: Name) -> None:
    """Remove a key pair. VMs that have it keep it."""
    client_of(ctx).keypairs.delete(name)
    put(f"{name} is deleted")
