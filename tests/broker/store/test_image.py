"""Images of a database that was made before they had versions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError

from broker.store import ImageRow, RealisationRow, VMRow

if TYPE_CHECKING:
    from tests.broker.store.conftest import Before


def test_images_of_before_are_first_versions_shared_by_all_with_a_row_for_each_site(
    before: Callable[[str], Before],
) -> None:
    then = before("0011")
    opened, put = then.store, then.put

    sites = {
        "img-1": {"aws": "ami-1", "gone": "ami-9", "partner": "ami-2"},
        "img-2": {},
        "img-3": {"partner": ""},
        "img-4": {"aws": "ami-4"},
    }
    with opened.transaction() as session:
        put(session, "project", id="prj")
        for name in ("aws", "partner"):
            put(session, "site", id=f"site-{name}", name=name)
        for number, (image_id, mapped) in enumerate(sites.items()):
            state = "deleted" if image_id == "img-4" else "available"
            put(
                session,
                "image",
                id=image_id,
                name=f"name-{number}",
                state=state,
                sites=mapped,
                size_bytes=2**40,
            )
            put(session, "vm", id=f"vm-{number}", project_id="prj", image_id=image_id)
        images = then.tables["image"].select().order_by(then.tables["image"].c.id)
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
            assert (row.deprecated_at, row.created_at) == (None, then.now)
        realised = session.scalars(
            select(RealisationRow).order_by(RealisationRow.image_id, RealisationRow.site_id)
        )
        assert [
            (row.image_id, row.site_id, row.ref, row.state, row.bytes, row.created_at, row.updated_at)
            for row in realised
        ] == [
            ("img-1", "site-aws", "ami-1", "available", None, then.now, then.now),
            ("img-1", "site-partner", "ami-2", "available", None, then.now, then.now),
        ]
        assert kept[0].refs == {"site-aws": "ami-1", "site-partner": "ami-2"}
        assert [row.image_id for row in session.scalars(select(VMRow).order_by(VMRow.id))] == list(sites)
    # A VM still holds its image, and a living version is there once.
    with pytest.raises(IntegrityError), opened.transaction() as session:
        session.execute(delete(ImageRow).where(ImageRow.id == "img-2"))
    with pytest.raises(IntegrityError), opened.transaction() as session:
        session.get_one(ImageRow, "img-2").family = "name-0"
