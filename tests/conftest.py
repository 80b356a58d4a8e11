"""What tests of all packages share."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.store import Store


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the schema and nothing in it, to copy: the upgrade takes a third of a second."""
    path = tmp_path_factory.mktemp("sqlite") / "template.sqlite3"
    store = Store(f"sqlite:///{path}")
    store.upgrade()
    store.close()
    return path
