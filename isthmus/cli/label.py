"""``isthmus label``."""

from __future__ import annotations

from typing import Annotated

import typer

from isthmus.cli._options import Json, Name, noun, pairs
from isthmus.cli._output import note, put, put_record
from isthmus.cli._session import client_of
from isthmus.nouns import LABELLED

app = noun("label")

Noun = Annotated[str, typer.Argument(metavar="NOUN", help=f"What it is: {', '.join(LABELLED)}.")]


@app.command("list")
def list_labels(ctx: typer.Context, noun: Noun, name: Name, json: Json = False) -> None:
    """List the labels of one thing."""
    _put(client_of(ctx).labels.of(noun, name), name, json)


@app.command("set")
def set_labels(
    ctx: typer.Context,
    noun: Noun,
    name: Name,
    label: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="A label; it may be there.")],
    json: Json = False,
) -> None:
    """Set labels of one thing; its others stay."""
    _put(client_of(ctx).labels.update(noun, name, pairs(label, "KEY=VALUE")), name, json)


@app.command("unset")
def unset_labels(
    ctx: typer.Context,
    noun: Noun,
    name: Name,
    key: Annotated[list[str], typer.Argument(metavar="KEY...", help="A label; it need not be there.")],
    json: Json = False,
) -> None:
    """Take labels of one thing away."""
    _put(client_of(ctx).labels.update(noun, name, dict.fromkeys(key)), name, json)


def _put(labels: dict[str, str], name: str, json: bool) -> None:
    if json:
        from json import dumps

        put(dumps({"labels": labels}, indent=2, ensure_ascii=False))
    elif labels:
        put_record(labels)
    else:
        note(f"{name} has no labels; `isthmus label set` gives it some")
