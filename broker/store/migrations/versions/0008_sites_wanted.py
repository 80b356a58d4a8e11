"""Which sites are clouds, and the site that a VM is asked for, instead of a text in its requirement"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("site", sa.Column("elastic", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("vm", sa.Column("site_wanted_id", sa.String(), nullable=True))
    op.create_index("ix_host_name", "host", ["name"])
    site = sa.table("site", sa.column("id"), sa.column("name"), sa.column("elastic", sa.Boolean()))
    host = sa.table("host", sa.column("site_id"), sa.column("elastic", sa.Boolean()))
    vm = sa.table("vm", *(sa.column(name) for name in ("site_wanted_id", "requirements")))
    any_host = sa.select(host.c.site_id).where(host.c.elastic)
    own_host = sa.select(host.c.site_id).where(~host.c.elastic)
    op.execute(
        site.update().where(site.c.id.in_(any_host), site.c.id.not_in(own_host)).values(elastic=sa.true())
    )
    # What the EC2 face wrote for an availability zone or a subnet.
    text = sa.literal('site == "') + site.c.name + sa.literal('"')
    asked = sa.select(site.c.id).where(text == vm.c.requirements).scalar_subquery()
    of_a_site = sa.select(text)
    op.execute(
        vm.update().where(vm.c.requirements.in_(of_a_site)).values(site_wanted_id=asked, requirements=None)
    )
