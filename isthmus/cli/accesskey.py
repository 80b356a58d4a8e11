"""``isthmus accesskey``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from isthmus.cli._options import Json, noun
from isthmus.cli._output import age, note, put, put_json
from isthmus.cli._session import client_of
from isthmus.cli._verbs import add_list

app = noun("accesskey")

_COLUMNS: dict[str, Any] = {
    "ID": lambda key: key.id,
    "PROJECT": lambda key: key.project,
    "ROLE": lambda key: key.role,
    "AGE": lambda key: age(key.created_at),
}


@app.command()
def create(
    ctx: typer.Context,
    project: Annotated[str | None, typer.Option("--project", help="Default: the caller's own.")] = None,
    role: Annotated[str, typer.Option("--role", help="admin, member or reader.")] = "member",
    json: Json = False,
) -> None:
    """Make an access key for boto3 and awscli. Its secret is shown this once."""
    created = client_of(ctx).accesskeys.create(project=project, role=role)
    if json:
        put_json(created)
    else:
        note("shown this once, in the form of a shell's environment:")
        put(f"AWS_ACCESS_KEY_ID={created.access_key.id}")
        put(f"AWS_SECRET_ACCESS_KEY={created.secret}")


add_list(
    app,
    "accesskeys",
    _COLUMNS,
    "List access keys, without their secrets.",
    "no access keys; `isthmus accesskey create` makes one",
)


@app.command()
def delete(
    ctx: typer.Context, id: Annotated[str, typer.Argument(metavar="ID", help="The access key's id.")]
) -> None:
    """Revoke an access key."""
    client_of(ctx).accesskeys.delete(id)
    put(f"{id} is revoked")
