"""``isthmus operation``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from isthmus.cli._options import Json, Timeout, noun
from isthmus.cli._output import age, put, put_json, put_list, put_record
from isthmus.cli._progress import Progress
from isthmus.cli._session import client_of

app = noun("operation")

Id = Annotated[str, typer.Argument(metavar="ID", help="The operation's id.")]

_COLUMNS: dict[str, Any] = {
    "ID": lambda operation: operation.id,
    "KIND": lambda operation: operation.kind,
    "TARGET": lambda operation: operation.target,
    "STATE": lambda operation: operation.state,
    "PHASE": lambda operation: operation.phase,
    "AGE": lambda operation: age(operation.created_at),
    "MESSAGE": lambda operation: operation.error or operation.message,
}


@app.command("list")
def list_operations(
    ctx: typer.Context,
    target: Annotated[str | None, typer.Option("--target", help="Only on that thing: an id.")] = None,
    state: Annotated[str | None, typer.Option("--state", help="running, done, failed or cancelled.")] = None,
    json: Json = False,
) -> None:
    """List operations."""
    put_list(client_of(ctx).operations.list(target=target, state=state), _COLUMNS, json, "no operations")


@app.command()
def show(ctx: typer.Context, id: Id, json: Json = False) -> None:
    """Show one operation."""
    operation = client_of(ctx).operations.get(id)
    if json:
        put_json(operation)
        return
    put_record(
        {
            "id": operation.id,
            "kind": operation.kind,
            "target": operation.target,
            "state": operation.state,
            "phase": operation.phase,
            "message": operation.message,
            "error": operation.error,
            "attempt": operation.attempt,
            "created": operation.created_at,
            "ended": operation.ended_at,
        }
    )


@app.command()
def wait(ctx: typer.Context, id: Id, timeout: Timeout = 600, json: Json = False) -> None:
    """Wait until an operation is over."""
    with Progress(f"waiting for {id}") as progress:
        operation = client_of(ctx).operations.get(id).wait(timeout, on_update=progress.update)
    if json:
        put_json(operation)
    else:
        put(f"{operation.kind} of {operation.target} is {operation.state}")
