"""A peer for each of a VM's networks; what gateways' agents say of themselves"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_LIVE = sa.text("state IN ('bootstrap', 'enrolled')")


def upgrade() -> None:
    # Column by column, as in 0002. Agents of before say nothing, and read version 1 of the document.
    for column in (
        sa.Column("document_versions", sa.JSON(), nullable=False, server_default="[1]"),
        sa.Column("features", sa.JSON(), nullable=False, server_default="[]"),
        sa.Column("software", sa.String(), nullable=False, server_default=""),
        sa.Column("refusal", sa.String(), nullable=False, server_default=""),
        sa.Column("problems", sa.JSON(), nullable=False, server_default="[]"),
    ):
        op.add_column("gateway", column)
    # Nothing refers to peers, so their table may be made anew. A gateway is of one network, and so were its peers.
    op.add_column("peer", sa.Column("network_id", sa.String(), nullable=True))
    op.execute(
        "UPDATE peer SET network_id = (SELECT network_id FROM gateway WHERE gateway.id = peer.gateway_id)"
    )
    with op.batch_alter_table("peer", schema=None) as batch_op:
        batch_op.alter_column("network_id", existing_type=sa.String(), nullable=False)
        batch_op.create_foreign_key(batch_op.f("fk_peer_network_id"), "network", ["network_id"], ["id"])
    op.create_index(
        "uq_peer_live",
        "peer",
        ["vm_id", "network_id"],
        unique=True,
        sqlite_where=_LIVE,
        postgresql_where=_LIVE,
    )
