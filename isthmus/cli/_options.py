"""Options that many commands share, and the parsing of their values."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from isthmus import nouns

Json = Annotated[bool, typer.Option("--json", help="Print JSON, exactly as the API answers it.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is done.")]
Timeout = Annotated[
    float,
    typer.Option("--timeout", min=0, metavar="SECONDS", help="How long to wait before giving up (exit 4)."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check everything and say what would be; change nothing.")
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Its name or id.")]
Labelled = Annotated[
    list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="Only with it; again for more.")
]
NewName = Annotated[str, typer.Argument(metavar="NAME", help="A name: a-z, 0-9, dot and hyphen, up to 63.")]


class Switch(StrEnum):
    """Have it so, or not any more."""

    ON = "on"
    OFF = "off"


class Visibility(StrEnum):
    """Who sees and uses what has an owner."""

    PRIVATE = "private"
    SHARED = "shared"


Owner = Annotated[str | None, typer.Option("--project", help="Whose it is. Default: the broker's own.")]
Visible = Annotated[
    Visibility | None,
    typer.Option(
        "--visibility", help="Who uses it. Default: private with --project, otherwise shared with all."
    ),
]


def noun(command: str) -> typer.Typer:
    """The command group of one noun of the table, by its word in the shell."""
    line = next(row.line for row in nouns.NOUNS if row.command == command)
    return typer.Typer(help=line, no_args_is_help=True, rich_markup_mode=None, add_completion=False)


def pairs(texts: Iterable[str], option: str) -> dict[str, str]:
    """``k=v`` texts as a mapping."""
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"{text!r} is not KEY=VALUE", param_hint=option)
        found[key] = value
    return found


def values(texts: Iterable[str], option: str) -> dict[str, Any]:
    """``k=v`` texts as a mapping, each value read as JSON where it is JSON (``4``, ``true``, ``["a"]``)."""
    return {key: _value(text) for key, text in pairs(texts, option).items()}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def read_text(path: str, option: str) -> str:
    """The content of a file, or of standard input for ``-``."""
    try:
        if path == "-":
            return typer.get_text_stream("stdin").read()
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise typer.BadParameter(f"cannot read {path}: {error.strerror}", param_hint=option) from None
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{path} is not UTF-8 text", param_hint=option) from None


def seconds(text: str, option: str) -> float:
    """Seconds of ``90s``, ``15m``, ``1h30m``, ``2d``."""
    if not re.fullmatch(r"(?:\d+(?:\.\d+)?[smhd])+", text):
        raise typer.BadParameter(f"{text!r} is no duration: write 90s, 15m, 1h30m or 2d", param_hint=option)
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    return sum(float(amount) * units[unit] for amount, unit in re.findall(r"(\d+(?:\.\d+)?)([smhd])", text))


def moment(text: str, option: str) -> datetime:
    """A time with its zone, or a duration from now."""
    if re.fullmatch(r"[\d.smhd]+", text):
        return datetime.now(UTC) + timedelta(seconds=seconds(text, option))
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no time: write 2026-12-24T18:00+01:00, or 3h", param_hint=option
        ) from None
    return found if found.tzinfo else found.astimezone()
