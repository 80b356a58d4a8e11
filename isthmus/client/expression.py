"""Expressions: requirements and ranks, looked at before they are used."""

from __future__ import annotations

from isthmus import schema
from isthmus.client._resource import Collection, ask


class Expressions(Collection[schema.Expression]):
    """``client.expressions``."""

    _path = "/v1/expressions"
    _model = schema.Expression

    def check(self, text: str, *, kind: str | None = None, dialect: str | None = None) -> schema.Expression:
        """What a ``requirement`` (or ``rank``) says, and what it is worth on each host now.

        ``dialect="opennebula"`` reads SCHED_REQUIREMENTS and SCHED_RANK, and says where they mean something else here.
        Raises InvalidRequest with the place of a mistake.
        """
        return self._http.post(
            schema.Expression, self._path, ask(schema.ExpressionCheck, text=text, kind=kind, dialect=dialect)
        )
