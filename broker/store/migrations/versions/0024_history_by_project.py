"""A project's operations and events are found by index, however many others have"""

from __future__ import annotations

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_operation_project", "operation", ["project_id", "created_at", "id"])
    op.create_index("ix_event_project", "event", ["project_id", "seq"])
