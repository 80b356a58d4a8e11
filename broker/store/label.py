"""Rows of labels, and the labels of a row."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Index, Select, delete, event, select
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.orm import Mapped, Mapper, column_property, declared_attr, mapped_column, undefer_group
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

from broker.store.base import Row, written


class LabelRow(Row):
    """A label of any thing: ``resource`` is its id, ``noun`` what it is. What has an id may have labels."""

    __tablename__ = "label"
    __table_args__ = (Index("ix_label_key", "key", "value", "resource"),)

    resource: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]
    noun: Mapped[str]


class _Labels(TypeDecorator[dict[str, str]]):
    """Pairs that the database gathered, by key; none where there are none."""

    impl = JSON
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> dict[str, str]:
        """Alike on both databases."""
        return dict(sorted((value or {}).items()))


class gathered(FunctionElement[dict[str, str]]):
    """An aggregate: two columns of many rows as one JSON object."""

    type = _Labels()
    inherit_cache = True


written(gathered, sqlite="json_group_object({})", postgresql="json_object_agg({})")


class Labelled:
    """What may have labels. ``row.labels`` comes with the row itself: no statement more, for one row or for many.

    It is for reading; ``broker.label`` writes. Rows that others load along with theirs (a VM's site) leave it out, so where
    it is wanted the query says ``LABELS``. A row that is deleted takes its labels along.
    """

    labels_always = False

    @declared_attr
    def labels(cls) -> Mapped[dict[str, str]]:
        """Key -> value."""
        pairs: Select[Any] = select(gathered(LabelRow.key, LabelRow.value))
        mine = pairs.where(LabelRow.resource == cls.id)  # type: ignore[attr-defined]
        return column_property(
            mine.correlate_except(LabelRow).scalar_subquery(),
            deferred=not cls.labels_always,
            group="labels",
            # A change of the row is none of its labels: what was read stays readable after the transaction.
            expire_on_flush=False,
        )


@event.listens_for(Labelled, "after_delete", propagate=True)
def _take_along(_mapper: Mapper[Any], connection: Connection, row: Any) -> None:
    connection.execute(delete(LabelRow).where(LabelRow.resource == row.id))


LABELS = undefer_group("labels")
"""For a query of what is labelled: load the labels, too."""
