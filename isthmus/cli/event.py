"""``isthmus event``."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from isthmus.cli._options import Json, noun
from isthmus.cli._output import cell, put, put_json_line, put_list
from isthmus.cli._session import client_of

app = noun("event")

Target = Annotated[str | None, typer.Option("--target", help="Only about that thing: an id.")]
Kind = Annotated[str | None, typer.Option("--kind", help="Only of that kind, e.g. vm.placed.")]
After = Annotated[int | None, typer.Option("--after", metavar="SEQ", help="Only after that one.")]

_COLUMNS: dict[str, Any] = {
    "SEQ": lambda event: event.seq,
    "TIME": lambda event: event.time,
    "KIND": lambda event: event.kind,
    "TARGET": lambda event: event.target,
    "MESSAGE": lambda event: event.message,
}


@app.command("list")
def list_events(
    ctx: typer.Context,
    after: After = None,
    target: Target = None,
    kind: Kind = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 50,
    json: Json = False,
) -> None:
    """List the newest events, oldest first; or those after a SEQ."""
    events = client_of(ctx).events.list(after=after, target=target, kind=kind, limit=limit)
    put_list(events, _COLUMNS, json, "no events")


@app.command()
def follow(
    ctx: typer.Context, after: After = None, target: Target = None, kind: Kind = None, json: Json = False
) -> None:
    """Print events as they come, until interrupted; with --json one object per line."""
    for event in client_of(ctx).events.follow(after=after, target=target, kind=kind):
        if json:
            put_json_line(event)
        else:
            put(f"{cell(event.time)}  {cell(event.kind)}  {cell(event.target)}  {cell(event.message)}")
            sys.stdout.flush()
