"""Requests of every kind are remembered, with what was answered"""

from __future__ import annotations

import hashlib

import sqlalchemy as sa
from alembic import op

from broker.store.base import UtcDateTime

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "request",
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("token", sa.String(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("resources", sa.JSON(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("sealed_answer", sa.String(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "token", name=op.f("pk_request")),
        sa.UniqueConstraint("id", name=op.f("uq_request_id")),
    )
    op.create_index(op.f("ix_request_created_at"), "request", ["created_at"])
    connection = op.get_bind()
    names = ("project_id", "key", "fingerprint", "resources", "created_at")
    before = sa.table("idempotency", *(sa.column(name) for name in names))
    request = sa.table("request", *(sa.column(name) for name in ("id", "token", "action", *names)))
    # The JSON column is copied as it is, by the database.
    connection.execute(
        sa.insert(request).from_select(
            ["project_id", "token", "id", "action", "fingerprint", "resources", "created_at"],
            sa.select(
                before.c.project_id,
                before.c.key,
                before.c.project_id + "/" + before.c.key,
                sa.literal("vm.create"),
                before.c.fingerprint,
                before.c.resources,
                before.c.created_at,
            ),
        )
    )
    for project_id, token in connection.execute(sa.select(request.c.project_id, request.c.token)).all():
        digits = hashlib.sha256(f"{project_id}/{token}".encode()).hexdigest()[:17]
        same = (request.c.project_id == project_id, request.c.token == token)
        connection.execute(request.update().where(*same).values(id=f"req-{digits}"))
    op.drop_table("idempotency")
