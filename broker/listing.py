"""Which things of a list are asked for, and how many: for every noun in the same words, and looked up by the database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypedDict, TypeVar

from sqlalchemy import Select, select

from broker import label
from broker.store import LabelRow, ProjectRow

Q = TypeVar("Q", bound="Select[*tuple[Any, ...]]")


class Which(TypedDict, total=False):
    """What a list may be asked for. All that is given must hold; None asks for nothing.

    ``ids``, ``names``: it is one of these. ``titles``: one of them is its name or its label ``Name``. ``labels``: as
    ``label.Wanted`` says. ``owners``: accounts of projects, of which one has it; None among them is the broker itself.
    ``only``: column -> values, of which it has one.

    ``limit``: at most so many, in the order of their ids or, of key pairs, flavors and sites, of their names.
    ``after``: those that follow this id or name, which nothing need have any more.
    """

    ids: Sequence[str] | None
    names: Sequence[str] | None
    titles: Sequence[str] | None
    labels: label.Wanted | None
    owners: Sequence[str | None] | None
    only: Mapping[str, Sequence[Any]] | None
    after: str | None
    limit: int | None


def narrowed(
    query: Q,
    kind: Any,
    which: Which,
    *,
    by: Any = None,
    name: Any = None,
    owned: Any = None,
    beside: Mapping[str, Any] = MappingProxyType({}),
) -> Q:
    """The query, of those that are asked for.

    ``kind`` is the row's class. ``by`` is the unique column that pages follow, by default the id; ``name`` is what
    people call it by, by default the column of that name; ``owned`` is the class that has the owner, by default the
    row's own; ``beside`` are columns of other tables for ``only``.
    """
    by = kind.id if by is None else by
    query = label.filter(query, kind, which.get("labels"))
    if (wanted := which.get("ids")) is not None:
        query = query.where(kind.id.in_(wanted))
    if (wanted := which.get("names")) is not None:
        query = query.where(kind.name.in_(wanted))
    if (wanted := which.get("titles")) is not None:
        labelled = select(LabelRow.resource).where(LabelRow.key == "Name", LabelRow.value.in_(wanted))
        query = query.where((kind.name if name is None else name).in_(wanted) | kind.id.in_(labelled))
    if (owners := which.get("owners")) is not None:
        owner = kind if owned is None else owned
        of_project = owner.project.has(ProjectRow.account.in_([one for one in owners if one is not None]))
        query = query.where(of_project | owner.project_id.is_(None) if None in owners else of_project)
    for column, values in (which.get("only") or {}).items():
        query = query.where((beside[column] if column in beside else getattr(kind, column)).in_(values))
    if (after := which.get("after")) is not None:
        query = query.where(by > after)
    if (limit := which.get("limit")) is not None:
        query = query.order_by(None).order_by(by).limit(limit)
    return query
