"""``isthmus keypair``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from isthmus.cli._options import Json, NewName, noun, read_text
from isthmus.cli._output import age, put, put_json
from isthmus.cli._session import client_of
from isthmus.cli._verbs import add_delete, add_list, add_show

app = noun("keypair")

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


add_list(app, "keypairs", _COLUMNS, "List key pairs.", "no key pairs; `isthmus keypair create` adds one")


def _record(keypair: Any) -> dict[str, Any]:
    return {
        "name": keypair.name,
        "id": keypair.id,
        "project": keypair.project,
        "fingerprint": keypair.fingerprint,
        "public key": keypair.public_key,
        "labels": keypair.labels,
        "created": keypair.created_at,
    }


add_show(app, "keypairs", _record, "Show one key pair.")


add_delete(app, "keypairs", "Remove a key pair. VMs that have it keep it.")
