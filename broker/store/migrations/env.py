"""Alembic's entry: runs the migrations on the engine that the store hands over."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context
from sqlalchemy import Connection

from broker.store import Row
from broker.store.base import UtcDateTime


def render_item(kind: str, item: Any, autogen: Any) -> str | Literal[False]:
    """Write our column types with an import of their own."""
    if kind == "type" and isinstance(item, UtcDateTime):
        autogen.imports.add("from broker.store.base import UtcDateTime")
        return "UtcDateTime()"
    return False


def migrate(connection: Connection) -> None:
    """Run the migrations in a connection's transaction."""
    context.configure(
        connection=connection, target_metadata=Row.metadata, render_as_batch=True, render_item=render_item
    )
    with context.begin_transaction():
        context.run_migrations()


attributes = context.config.attributes
if attributes.get("connection") is not None:
    migrate(attributes["connection"])
else:
    with attributes["engine"].connect() as own:
        migrate(own)
        own.commit()
