"""What commands print: aligned tables and records for people, exact JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel

T = TypeVar("T")
Columns = Mapping[str, Callable[[T], Any]]
"""Titles, and how to get each cell from an item."""


def put(text: str = "") -> None:
    """One line (or several) on standard output."""
    typer.echo(text)


def note(text: str) -> None:
    """One line on standard error: for the person, not for the pipe."""
    typer.echo(text, err=True)


def put_json(value: BaseModel) -> None:
    """One answer as JSON."""
    put(value.model_dump_json(indent=2))


def put_json_line(value: BaseModel) -> None:
    """One answer as JSON on one line, flushed: for streams."""
    put(value.model_dump_json())
    sys.stdout.flush()


def put_list(items: Iterable[T], columns: Columns[T], as_json: bool, none: str) -> None:
    """A list: a table, or a JSON array. ``none`` is said on standard error when there is nothing."""
    rows = list(items)
    if as_json:
        import json

        put(json.dumps([row.model_dump(mode="json") for row in rows], indent=2))  # type: ignore[attr-defined]
    elif rows:
        put_table(list(columns), [[cell(get(row)) for get in columns.values()] for row in rows])
    else:
        note(none)


def put_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns, two spaces apart; a column of numbers is aligned to the right."""
    widths = [max(len(title), *(len(row[i]) for row in rows)) for i, title in enumerate(titles)]
    right = [all(_is_number(row[i]) for row in rows) for i in range(len(titles))]

    def line(cells: Sequence[str]) -> str:
        aligned = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True)]
        return "  ".join(aligned).rstrip()

    put(typer.style(line(titles), bold=True))
    for row in rows:
        put(line(row))


def put_record(fields: Mapping[str, Any]) -> None:
    """One thing: a field on each line, further lines of a list below its first."""
    width = max(len(name) for name in fields) + 2
    for name, value in fields.items():
        lines = [cell(item) for item in value] if isinstance(value, list | tuple) else [cell(value)]
        for i, text in enumerate(lines or ["-"]):
            put(f"{name if i == 0 else '':{width}}{text}")


def cell(value: Any) -> str:
    """A value as a table shows it: ``-`` for none, and nothing that could steer the terminal."""
    if value is None or value == "" or value == [] or value == {}:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}" if abs(value) < 1e6 else f"{value:.0f}"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={cell(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(cell(item) for item in value)
    return "".join(c if c.isprintable() else " " for c in str(value))


def age(then: datetime | None, now: datetime | None = None) -> str:
    """How long ago, in the largest whole unit: ``8s``, ``3m``, ``5h``, ``12d``."""
    if then is None:
        return "-"
    seconds = max(0, int(((now or datetime.now(UTC)) - then).total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size or (unit == "d" and seconds >= size):
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def size(count: int) -> str:
    """Bytes in binary units."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def _is_number(text: str) -> bool:
    return text == "-" or text.replace(".", "", 1).isdigit()
