"""The verbs that are alike for most nouns: ``list``, ``show`` and ``delete``, made of what differs between them.

``plural`` is the noun's attribute of the client. A noun whose verb takes options of its own spells it out in its file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import typer

from isthmus.cli._options import Json, Labelled, Name, pairs
from isthmus.cli._output import Columns, put, put_json, put_list, put_record
from isthmus.cli._session import client_of
from isthmus.nouns import LABELLED


def add_list(app: typer.Typer, plural: str, columns: Columns[Any], help: str, none: str) -> None:
    """``list``, with ``--json``, and ``--label`` for what carries labels. ``none`` is said on standard error when there
    is nothing."""

    def list_all(ctx: typer.Context, json: Json = False) -> None:
        put_list(getattr(client_of(ctx), plural).list(), columns, json, none)

    def list_labelled(ctx: typer.Context, label: Labelled = None, json: Json = False) -> None:
        found = getattr(client_of(ctx), plural).list(labels=pairs(label or [], "--label"))
        put_list(found, columns, json, none)

    app.command("list", help=help)(list_labelled if plural in LABELLED.values() else list_all)


def add_show(app: typer.Typer, plural: str, record: Callable[[Any], Mapping[str, Any]], help: str) -> None:
    """``show NAME``, with ``--json``. ``record`` gives the fields for people."""

    def show(ctx: typer.Context, name: Name, json: Json = False) -> None:
        thing = getattr(client_of(ctx), plural).get(name)
        if json:
            put_json(thing)
        else:
            put_record(record(thing))

    app.command("show", help=help)(show)


def add_delete(app: typer.Typer, plural: str, help: str, done: str = "deleted") -> None:
    """``delete NAME``. ``done`` is what it is afterwards."""

    def delete(ctx: typer.Context, name: Name) -> None:
        getattr(client_of(ctx), plural).delete(name)
        put(f"{name} is {done}")

    app.command("delete", help=help)(delete)
