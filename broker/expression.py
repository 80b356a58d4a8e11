"""Requirements and ranks, looked at before they are used; also those of OpenNebula."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from broker import access, host
from broker.actor import Actor
from broker.broker import Broker
from broker.errors import InvalidExpression
from placement import opennebula
from placement.language import Expression, ExpressionError, parse, unknown_names
from placement.show import show
from placement.table import HostTable

Dialect = Literal["isthmus", "opennebula"]
Kind = Literal["requirement", "rank"]


@dataclass(frozen=True)
class ExpressionView:
    """``text``: what it says in the language of Isthmus. ``hosts``: name, and the requirement's truth or the rank (None where
    undefined); best first."""

    text: str
    warnings: Sequence[str]
    hosts: Sequence[tuple[str, float | None]]


def check(
    broker: Broker, actor: Actor, text: str, *, kind: Kind = "requirement", dialect: Dialect = "isthmus"
) -> ExpressionView:
    """Read an expression, translate it, and say what it is worth on each host now. Raises InvalidExpression."""
    access.require(actor, "expression.check")
    expression = _parsed(kind, text, dialect)
    views = host.list_hosts(broker, actor)
    table = HostTable.from_rows([view.attributes for view in views])
    warnings = []
    if dialect == "opennebula":
        warnings += opennebula.warnings(text, expression.root, rank=kind == "rank")
    warnings += [
        f"{warning.message}" + (f": {warning.mend}" if warning.mend else "")
        for warning in unknown_names(expression, table.names)
    ]
    worth = expression.score(table, {})
    if kind == "requirement":
        worth = np.where(np.isnan(worth), np.nan, (worth != 0).astype(np.float64))
    order = np.argsort(-np.nan_to_num(worth, nan=-np.inf), kind="stable")
    names = [f"{view.row.site.name}/{view.row.name}" for view in views]
    return ExpressionView(
        show(expression.root),
        warnings,
        [(names[index], None if np.isnan(worth[index]) else float(worth[index])) for index in order],
    )


def check_text(field: str, text: str | None) -> None:
    """Raise InvalidExpression for a requirement or rank with a mistake; ``field`` is what it was given as."""
    if text is not None:
        _parsed(field, text, "isthmus")


def _parsed(field: str, text: str, dialect: Dialect) -> Expression:
    try:
        return parse(text, dialect)
    except ExpressionError as error:
        raise InvalidExpression(
            f"{field}: line {error.line}, column {error.column}: {error.message}",
            hint=error.mend or "docs/reference/expressions.md has the language",
            details={
                "field": field,
                "line": error.line,
                "column": error.column,
                "message": error.message,
                "text": error.text,
                "mend": error.mend,
            },
        ) from None
