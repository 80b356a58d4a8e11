"""Images of a database that was made before they had versions."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from sqlalchemy import JSON, Boolean, DateTime, Integer, MetaData, delete, select
from sqlalchemy.exc import IntegrityError

from broker.store import ImageRow, RealisationRow, Store, VMRow

NOW = datetime(2030, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
VALUES = {JSON: [], DateTime: NOW, Boolean: False, Integer: 7}


def put(session, tables, table, **values):
    """A row of the schema of then; what is not said gets any value of its type."""
    for column in tables[table].columns:
        if column.name not in values and not column.nullable and column.server_default is None:
            any_text = f"{table}-{column.name}-{values['id']}"
            found = (value for kind, value in VALUES.items() if isinstance(column.type, kind))
            values[column.name] = next(found, any_text)
    session.execute(tables[table].insert().values(values))


def test_images_of_before_are_first_versions_shared_by_all_with_a_row_for_each_site(empty_url):
    opened = Store(empty_url)
    opened.upgrade("0011")
    before = MetaData()
    before.reflect(opened.engine)

    sites = {
        "img-1": {"aws": "ami-1", "gone": "ami-9", "partner": "ami-2"},
        "img-2": {},
        "img-3": {"partner": ""},
        "img-4": {"aws": "ami-4"},
    }
    with opened.transaction() as session:
        put(session, before.tables, "project", id="prj")
        for name in ("aws", "partner"):
            put(session, before.tables, "site", id=f"site-{name}", name=name)
        for number, (image_id, mapped) in enumerate(sites.items()):
            state = "deleted" if image_id == "img-4" else "available"
            put(
                session,
                before.tables,
                "image",
                id=image_id,
                name=f"name-{number}",
                state=state,
                sites=mapped,
                size_bytes=2**40,
            )
            put(session, before.tables, "vm", id=f"vm-{number}", project_id="prj", image_id=image_id)
        images = before.tables["image"].select().order_by(before.tables["image"].c.id)
        were = [dict(row._mapping) for row in session.execute(images)]
    opened.upgrade()
    opened.upgrade()
    with opened.reading() as session:
        kept = session.scalars(select(ImageRow).order_by(ImageRow.id)).all()
        same = [name for name in were[0] if name not in ("name", "sites", "created_at")]
        assert [{"name": row.family} | {name: getattr(row, name) for name in same} for row in kept] == [
            {name: row[name] for name in ("name", *same)} for row in were
        ]
        for row in kept:
            new = (row.version, row.name, row.project_id, row.visibility, row.min_disk_gb, row.login_user)
            assert new == (1, row.family, None, "shared", 0, "")
            assert (row.deprecated_at, row.created_at) == (None, NOW)
        realised = session.scalars(
            select(RealisationRow).order_by(RealisationRow.image_id, RealisationRow.site_id)
        )
        assert [
            (row.image_id, row.site_id, row.ref, row.state, row.bytes, row.created_at, row.updated_at)
            for row in realised
        ] == [
            ("img-1", "site-aws", "ami-1", "available", None, NOW, NOW),
            ("img-1", "site-partner", "ami-2", "available", None, NOW, NOW),
        ]
        assert kept[0].refs == {"site-aws": "ami-1", "site-partner": "ami-2"}
        assert [row.image_id for row in session.scalars(select(VMRow).order_by(VMRow.id))] == list(sites)
    # A VM still holds its image, and a living version is there once.
    with pytest.raises(IntegrityError), opened.transaction() as session:
        session.execute(delete(ImageRow).where(ImageRow.id == "img-2"))
    with pytest.raises(IntegrityError), opened.transaction() as session:
        session.get_one(ImageRow, "img-2").family = "name-0"
    opened.close()
