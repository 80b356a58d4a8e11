"""``isthmus auth``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from isthmus.cli._options import Json, noun
from isthmus.cli._output import cell, put, put_json, put_list, put_record
from isthmus.cli._session import client_of

app = noun("auth")

_COLUMNS: dict[str, Any] = {
    "PERMISSION": lambda permission: permission.name,
    "SCOPE": lambda permission: permission.scope,
    "ROLES": lambda permission: permission.roles,
    "WHAT IT IS": lambda permission: permission.description,
}


@app.command()
def can(
    ctx: typer.Context,
    who: Annotated[
        str, typer.Argument(metavar="WHO", help="me, a token's name or id, or an access key's id.")
    ],
    action: Annotated[str, typer.Argument(metavar="ACTION", help="A permission, such as vm.delete.")],
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="WHAT",
            help="A thing by its name or id, or as noun:ref, such as vm:web; or a project. Default: the project of WHO.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Say whether somebody may do something, and which grant decides it. Exit 1 when not."""
    answer = client_of(ctx).auth.can(action, what, who=who)
    if json:
        put_json(answer)
    else:
        put(f"{'yes' if answer.allowed else 'no'}: {cell(answer.reason)}")
        put_record(
            {
                "who": answer.who,
                "action": answer.action,
                "what": answer.what,
                "grants": [f"{grant.role} in {_place(grant.project)}" for grant in answer.grants],
                "needed": f"{' or '.join(answer.roles)}, {_SCOPES.get(answer.scope, answer.scope)}",
            }
        )
    if not answer.allowed:
        raise typer.Exit(1)


@app.command()
def permissions(
    ctx: typer.Context,
    role: Annotated[
        str | None, typer.Option("--role", help="Those that reader, member, admin or gateway has.")
    ] = None,
    json: Json = False,
) -> None:
    """List what may be permitted, and to which roles."""
    put_list(client_of(ctx).auth.permissions(role), _COLUMNS, json, "no permissions")


_SCOPES = {
    "project": "in the thing's project",
    "any": "in any project",
    "broker": "in every project",
    "gateway": "for the own gateway",
}


def _place(project: str) -> str:
    return "every project" if project == "*" else f"project {project}"
