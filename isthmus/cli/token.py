"""``isthmus token``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from isthmus.cli._options import Json, NewName, noun
from isthmus.cli._output import age, note, put, put_json
from isthmus.cli._session import client_of
from isthmus.cli._verbs import add_list

app = noun("token")

_COLUMNS: dict[str, Any] = {
    "ID": lambda token: token.id,
    "NAME": lambda token: token.name,
    "PROJECT": lambda token: token.project,
    "ROLE": lambda token: token.role,
    "AGE": lambda token: age(token.created_at),
    "EXPIRES": lambda token: token.expires_at,
}


@app.command()
def create(
    ctx: typer.Context,
    name: NewName,
    project: Annotated[str | None, typer.Option("--project", help="Default: the caller's own.")] = None,
    role: Annotated[str, typer.Option("--role", help="admin, member or reader.")] = "member",
    expires_in: Annotated[
        int | None, typer.Option("--expires-in", metavar="SECONDS", min=60, help="Default: never.")
    ] = None,
    json: Json = False,
) -> None:
    """Make a token. It is shown this once."""
    created = client_of(ctx).tokens.create(name, project=project, role=role, expires_in_s=expires_in)
    if json:
        put_json(created)
    else:
        note(f"token {created.token.name} ({created.token.id}), {created.token.role}; shown this once:")
        put(created.secret)


add_list(app, "tokens", _COLUMNS, "List tokens, without their secrets.", "no tokens")


@app.command()
def delete(
    ctx: typer.Context, id: Annotated[str, typer.Argument(metavar="ID", help="The token's id.")]
) -> None:
    """Revoke a token."""
    client_of(ctx).tokens.delete(id)
    put(f"{id} is revoked")
