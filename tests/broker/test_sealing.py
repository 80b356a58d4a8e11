"""Secrets at rest: the database and the log give nothing away."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select
from structlog.testing import capture_logs

from broker import accesskey, site, token
from broker.sealing import Sealer, SealError
from broker.store import PeerRow, Row

if TYPE_CHECKING:
    from tests.broker.conftest import Stage


def everything_in(stage: Stage) -> str:
    """All that the database holds, as text; for SQLite also as the bytes of its files."""
    with stage.broker.store.reading() as session:
        text = "\n".join(
            str(tuple(row)) for table in Row.metadata.sorted_tables for row in session.execute(select(table))
        )
    raw = b"".join(path.read_bytes() for path in stage.folder.glob("*.sqlite3*"))
    return text + raw.decode("latin-1")


def test_no_secret_is_in_the_database_or_in_the_log(hybrid: Stage, capfd: pytest.CaptureFixture[str]) -> None:
    broker = hybrid.broker
    secrets = {}
    with capture_logs() as logs:
        options = {"hosts": 1}
        site.create(
            broker,
            hybrid.admin,
            name="vault",
            kind="simulated",
            options=options,
            credentials={"secret_access_key": "the-cloud-secret-0123456789"},
        )
        secrets["credential"] = "the-cloud-secret-0123456789"
        _, secrets["token"] = token.create(broker, hybrid.member, name="ci")
        _, secrets["access key"] = accesskey.create(broker, hybrid.member)
        secrets["user data"] = "root-password-of-the-guest"
        hybrid.agents[0].guests_enrol = False
        row, task = hybrid.request(
            "web", requirements="elastic", user_data=f"#!/bin/sh\n# {secrets['user data']}\n"
        )
        hybrid.drive(task, until=lambda: hybrid.operation(task.id).phase == "enrol")
        with broker.store.reading() as session:
            entry = session.scalars(select(PeerRow)).one()
        secrets["bootstrap key"] = broker.sealer.open(entry.sealed_bootstrap_key)
        hybrid.agents[0].guests_enrol = True
        hybrid.worlds["cloud"].fail("observe_vm", "Unreachable")
        hybrid.finish(task)
    shown = {
        "the database": everything_in(hybrid),
        "the log": str(logs) + str(capfd.readouterr()),
    }
    assert row.id in shown["the database"]
    assert row.id in shown["the log"]
    for name, secret in secrets.items():
        for where, text in shown.items():
            assert secret not in text, f"the {name} is in {where}"


def test_sealed_secret_opens_with_its_key_only(tmp_path: Path) -> None:
    Sealer.create_file(tmp_path / "one")
    Sealer.create_file(tmp_path / "two")
    one, two = Sealer.from_file(tmp_path / "one"), Sealer.from_file(tmp_path / "two")
    sealed = one.seal("secret")
    assert one.open(sealed) == "secret"
    assert one.seal("secret") != sealed
    with pytest.raises(SealError, match="restore the old key file"):
        two.open(sealed)


def test_key_file_is_for_its_owner_alone_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key"
    Sealer.create_file(path)
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.read_bytes()
    Sealer.create_file(path)
    assert path.read_bytes() == before
    os.chmod(path, 0o640)
    with pytest.raises(SealError, match="chmod 600"):
        Sealer.from_file(path)


def test_key_file_that_is_missing_or_none_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SealError, match="isthmus init"):
        Sealer.from_file(tmp_path / "key")
    path = tmp_path / "key"
    path.write_text("hello")
    path.chmod(0o600)
    with pytest.raises(SealError, match="backup"):
        Sealer.from_file(path)


def test_operation_waits_while_the_key_file_is_another(stage: Stage, tmp_path: Path) -> None:
    Sealer.create_file(tmp_path / "other")
    right = stage.broker.sealer
    row, task = stage.request("web", user_data="hello")
    stage.broker.sealer = Sealer.from_file(tmp_path / "other")
    stage.broker.providers.drop(stage.sites["campus"])
    stage.drive(task, most_s=60)
    assert "restore the old key file" in stage.vm(row.id).status_reason
    stage.broker.sealer = right
    stage.finish(task)
