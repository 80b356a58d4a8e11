"""Statements and transactions of a store, counted while it is watched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import event

from broker.store import Store


class Counted:
    """What reaches a store's database. ``BEGIN`` is a part of its transaction, no statement."""

    def __init__(self, store: Store) -> None:
        self.statements = self.rows = self.writing = self.reading = 0
        self.texts: list[str] = []
        self._wrote: dict[int, bool] = {}
        self._engine = store.engine
        self._sets: list[tuple[str, Callable[..., None]]] = [
            ("before_cursor_execute", self._statement),
            ("begin", self._begin),
            ("commit", self._end),
            ("rollback", self._end),
        ]

    def __enter__(self) -> Counted:
        for name, listener in self._sets:
            event.listen(self._engine, name, listener)
        return self

    def __exit__(self, *_error: object) -> None:
        for name, listener in self._sets:
            event.remove(self._engine, name, listener)

    @property
    def transactions(self) -> int:
        """All of them."""
        return self.writing + self.reading

    def __str__(self) -> str:
        return f"{self.writing} write and {self.reading} read transactions, {self.statements} statements, {self.rows} rows"

    def _begin(self, connection: Any) -> None:
        self._wrote[id(connection)] = not connection.get_execution_options().get("read_only", False)

    def _statement(
        self, _connection: Any, _cursor: Any, text: str, parameters: Any, _context: Any, many: bool
    ) -> None:
        if text.startswith("BEGIN"):
            return
        self.statements += 1
        self.texts.append(text)
        if text.startswith(("INSERT", "UPDATE", "DELETE")):
            self.rows += len(parameters) if many else 1

    def _end(self, connection: Any) -> None:
        writes = self._wrote.pop(id(connection), None)
        if writes is not None:
            self.writing += writes
            self.reading += not writes
