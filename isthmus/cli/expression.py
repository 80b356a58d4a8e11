"""``isthmus expression``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from isthmus.cli._options import Json, noun
from isthmus.cli._output import cell, put, put_json, put_table
from isthmus.cli._session import client_of

app = noun("expression")


class Dialect(StrEnum):
    """Whose language it is."""

    ISTHMUS = "isthmus"
    OPENNEBULA = "opennebula"


@app.callback()
def expression() -> None:
    """Requirements and ranks, looked at before they are used."""


@app.command()
def check(
    ctx: typer.Context,
    text: Annotated[
        str, typer.Argument(metavar="EXPR", help="A requirement, or with --rank a rank, in quotes.")
    ],
    rank: Annotated[bool, typer.Option("--rank", help="It is a rank, not a requirement.")] = False,
    dialect: Annotated[
        Dialect,
        typer.Option(
            "--dialect",
            help="opennebula: SCHED_REQUIREMENTS, SCHED_RANK, or packing, striping, load-aware, fixed.",
        ),
    ] = Dialect.ISTHMUS,
    json: Json = False,
) -> None:
    """Read an expression, translate OpenNebula's, and show what it is worth on each host now."""
    found = client_of(ctx).expressions.check(
        text, kind="rank" if rank else None, dialect=None if dialect is Dialect.ISTHMUS else dialect.value
    )
    if json:
        put_json(found)
        return
    put(cell(found.text))
    for warning in found.warnings:
        put(f"warning: {cell(warning)}")
    if not found.hosts:
        put("there are no hosts yet")
        return
    put()
    words: dict[float | None, str] = {None: "undefined"}
    if not rank:
        words |= {1.0: "yes", 0.0: "no"}
    put_table(
        ["HOST", "RANK" if rank else "MATCHES"],
        [[cell(one.host), words.get(one.value, cell(one.value))] for one in found.hosts],
    )
