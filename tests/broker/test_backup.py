"""A backup is of one moment, restores into either database, and a broker goes on from it."""

from __future__ import annotations

import gzip
import json
import tarfile
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import func, select

from broker import backup, event, project, reconcile, vm
from broker.actor import SYSTEM
from broker.broker import Broker
from broker.engine.lease import LeaseEngine
from broker.sealing import Sealer
from broker.settings import Database, Settings
from broker.states import OperationState, VMState
from broker.store import (
    EventRow,
    HostRow,
    ImageRow,
    MetaRow,
    NICRow,
    OperationRow,
    ProjectRow,
    Row,
    Store,
    StoreError,
    UsageRow,
    VMRow,
)
from lab.postgresql import PostgreSQL
from providers.simulated import SimulatedProvider

if TYPE_CHECKING:
    from tests.broker.conftest import Stage


def take(stage: Stage, name: str = "one.backup", **asked: Any) -> Path:
    file = stage.folder / name
    backup.write(stage.settings, file, software="0.1.0", now=stage.clock.now(), **asked)
    return file


def place(stage: Stage, name: str = "elsewhere", url: str = "", key: bool = True) -> Settings:
    """Settings of a data directory without a database."""
    folder = stage.folder / name
    folder.mkdir()
    if key:
        (folder / "key").write_bytes((stage.folder / "key").read_bytes())
        (folder / "key").chmod(0o600)
    return Settings(data_dir=folder, database=Database(url=url))


def rows(url: str, leave: Sequence[str] = ("alembic_version", "duty")) -> dict[str, list[str]]:
    """All rows of a database."""
    store = Store(url)
    found = {}
    with store.reading() as session:
        for table in Row.metadata.sorted_tables:
            if table.name not in leave:
                found[table.name] = sorted(map(repr, session.execute(select(table))))
    store.close()
    return found


def restored(stage: Stage, settings: Settings) -> Broker:
    """A broker on what was restored, over the same sites, with an engine."""
    kind = partial(SimulatedProvider, clock=lambda: stage.clock.now().timestamp(), sleep=stage.wait)
    made = Broker(
        settings,
        store=Store(settings.database_url),
        clock=stage.clock,
        ids=stage.next_id,
        kinds={"simulated": lambda: kind},
    )
    stage._made.append(made)
    return made


def same_but_the_event(before: dict[str, list[str]], after: dict[str, list[str]]) -> None:
    extra = set(after.pop("event")) - set(before["event"])
    assert len(extra) == 1
    assert "broker.restored" in extra.pop()
    claims = {name: value for name, value in before.items() if name != "event"}
    assert after.keys() == claims.keys()
    for name, expected in claims.items():
        assert after[name] == expected, name


def test_everything_is_there_again(hybrid: Stage) -> None:
    hybrid.create("web"), hybrid.burst("far")
    hybrid.finish(vm.delete(hybrid.broker, hybrid.member, hybrid.create("gone").id)[1])
    file = take(hybrid)
    assert file.stat().st_mode & 0o777 == 0o600
    before = rows(hybrid.url)
    settings = place(hybrid)
    header = backup.restore(settings, file, now=hybrid.clock.now())
    assert header.rows == sum(len(some) for some in before.values())
    after = rows(settings.database_url)
    after["image"] = [row.replace(str(settings.data_dir), str(hybrid.folder)) for row in after["image"]]
    same_but_the_event(before, after)


@pytest.mark.postgres
def test_sqlite_goes_into_postgresql_and_back(stage: Stage, postgresql: PostgreSQL) -> None:
    stage.create("web")
    file = take(stage)
    before = rows(stage.url)
    url = postgresql.database()
    there = place(stage, "there", url=url)
    backup.restore(there, file, now=stage.clock.now())
    again = stage.folder / "two.backup"
    backup.write(there, again, software="0.1.0")
    back = place(stage, "back")
    backup.restore(back, again, now=stage.clock.now())
    after = rows(back.database_url)
    assert {name: len(some) for name, some in after.items()} == {
        name: len(some) + 2 * (name == "event") for name, some in before.items()
    }
    assert after["vm"] == before["vm"]
    # And numbers go on from where they are.
    store = Store(url)
    broker = Broker(there, store=store)
    project.create(broker, SYSTEM, name="new")
    broker.close()
    with pytest.raises(backup.BackupError, match="not empty"):
        backup.restore(there, file)
    backup.restore(there, file, replace=True, now=stage.clock.now())
    store = Store(url)
    with store.reading() as session:
        assert "new" not in set(session.scalars(select(ProjectRow.name)))
    store.close()
    postgresql.drop(url)


def test_it_is_of_one_moment_while_vms_come_and_go(stage: Stage) -> None:
    """Claims, leases, quotas and operations agree in each of several backups, and all that was under way is taken up."""
    stop = threading.Event()
    problems = []

    def come_and_go(number: int) -> None:
        driver = LeaseEngine(stage.broker, holder=f"busy-{number}")
        try:
            for turn in range(200):
                if stop.is_set():
                    return
                row, task = stage.request(f"busy-{number}-{turn}")
                for _ in range(3):
                    stage.step(task, driver=driver)
                vm.delete(stage.broker, stage.member, row.id)
        except Exception as error:  # told by the test
            problems.append(error)
        finally:
            driver.claims.stop()

    threads = [threading.Thread(target=come_and_go, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        files = [take(stage, f"{number}.backup") for number in range(4)]
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert problems == []
    for number, file in enumerate(files):
        settings = place(stage, f"place-{number}")
        backup.restore(settings, file, now=stage.clock.now())
        consistent(settings)
    broker = restored(stage, settings)
    driver = stage.driver_of(broker)
    with broker.store.reading() as session:
        live = session.scalars(
            select(OperationRow.id).where(OperationRow.state == OperationState.RUNNING)
        ).all()
    due = {found for found, _ in driver.due(10_000)}
    with broker.store.reading() as session:
        waiting = set(session.scalars(select(OperationRow.id).where(OperationRow.next_at.is_(None))))
    assert set(live) <= due | waiting


def consistent(settings: Settings) -> None:
    store = Store(settings.database_url)
    with store.reading() as session:
        vms = {row.id: row for row in session.scalars(select(VMRow))}
        hosts = set(session.scalars(select(HostRow.id)))
        for row in vms.values():
            assert row.host_id is None or row.host_id in hosts
            assert session.get(OperationRow, row.operation_id) is not None
            assert session.scalar(select(func.count()).where(EventRow.target == row.id))
        open_stays = session.scalars(select(UsageRow.vm_id).where(UsageRow.ended_at.is_(None))).all()
        claims = [row.id for row in vms.values() if row.host_id and row.state != VMState.TERMINATED]
        assert sorted(open_stays) == sorted(claims)
        for nic in session.scalars(select(NICRow)).unique():
            assert vms[nic.vm_id].state != VMState.TERMINATED
            assert bool(nic.addresses) == (vms[nic.vm_id].host_id is not None)
        for task in session.scalars(select(OperationRow)):
            assert (task.ended_at is None) == (task.state == OperationState.RUNNING)
            assert task.claim_token is None
    store.close()


def test_a_restored_broker_meets_what_runs(stage: Stage) -> None:
    """VMs that were made after the backup are left alone and told of; one that was deleted after it is noticed."""
    kept, deleted = stage.create("kept"), stage.create("deleted")
    file = take(stage)
    stage.finish(vm.delete(stage.broker, stage.member, deleted.id)[1])
    late = stage.create("late")
    settings = place(stage)
    backup.restore(settings, file, now=stage.clock.now())
    broker = restored(stage, settings)
    reconcile.reconcile(broker)
    reconcile.reconcile(broker)
    assert len(stage.machines(late.id)) == len(stage.machines(kept.id)) == 1
    told = event.list_events(broker, stage.admin, kind="vm.unknown", limit=10)
    assert [row.message.split(" ")[0] for row in told] == ["late"]
    assert vm.get(broker, stage.admin, kept.id).state == VMState.RUNNING
    noticed = {
        row.kind
        for row in event.list_events(broker, stage.admin, target=deleted.id, limit=100)
        if row.seq > 1_000_000
    }
    assert noticed & {"vm.lost", "vm.mending", "vm.crashed", "vm.stopped"}, noticed


def test_numbers_of_events_go_on_higher_than_any_that_was_seen(stage: Stage) -> None:
    file = take(stage)
    for number in range(20):
        project.create(stage.broker, stage.admin, name=f"p{number}")
    with stage.broker.store.reading() as session:
        seen = session.scalar(select(func.max(EventRow.seq)))
    settings = place(stage)
    backup.restore(settings, file, now=stage.clock.now())
    broker = restored(stage, settings)
    assert [row.kind for row in event.list_events(broker, stage.admin, after=seen)] == ["broker.restored"]


def test_the_key_is_in_it_only_when_asked_for_and_its_print_is_compared(stage: Stage) -> None:
    file, whole = take(stage), take(stage, "whole.backup", with_key=True)
    key = (stage.folder / "key").read_bytes()
    with tarfile.open(file) as tar:
        assert "key" not in tar.getnames()
    bare = place(stage, "bare", key=False)
    with pytest.raises(backup.BackupError, match="put that key file at"):
        backup.restore(bare, file)
    Sealer.create_file(bare.key_file)
    for one in (file, whole):
        with pytest.raises(backup.BackupError, match="sealed with the key"):
            backup.restore(bare, one)
    bare.key_file.unlink()
    backup.restore(bare, whole)
    assert bare.key_file.read_bytes() == key
    assert bare.key_file.stat().st_mode & 0o777 == 0o600


def test_images_come_along_when_asked_for_with_their_holes(stage: Stage) -> None:
    with stage.broker.store.transaction() as session:
        (image,) = session.scalars(select(ImageRow))
        disk = stage.folder / "images" / image.id / "disk"
    with disk.open("r+b") as hole:
        hole.truncate(64 << 20)
        hole.seek(32 << 20)
        hole.write(b"in the middle")
    content = disk.read_bytes()
    file = take(stage, with_images=True)
    settings = place(stage)
    backup.restore(settings, file)
    there = settings.data_dir / "images" / image.id / "disk"
    assert there.read_bytes() == content
    assert there.stat().st_blocks * 512 < 4 << 20
    store = Store(settings.database_url)
    with store.reading() as session:
        assert session.get_one(ImageRow, image.id).path == str(there)
    store.close()


def test_what_is_there_is_not_overwritten_unless_said(stage: Stage) -> None:
    file = take(stage)
    with pytest.raises(backup.BackupError, match="exists: choose another name"):
        take(stage)
    settings = place(stage)
    backup.restore(settings, file)
    with pytest.raises(backup.BackupError, match="--replace"):
        backup.restore(settings, file)
    before = rows(settings.database_url)
    backup.restore(settings, file, replace=True)
    assert {name: len(some) for name, some in rows(settings.database_url).items()} == {
        name: len(some) for name, some in before.items()
    }
    assert (settings.data_dir / "isthmus.sqlite3.replaced").exists()


def test_a_running_broker_is_not_restored_under(stage: Stage) -> None:
    file = take(stage)
    settings = place(stage)
    store = Store(settings.database_url)
    store.own(settings.data_dir / "lock")
    with pytest.raises(StoreError, match="another broker runs"):
        backup.restore(settings, file, replace=True)
    store.close()


def changed(file: Path, name: str, change: Callable[[bytes], bytes | None]) -> Path:
    """The same backup with one part changed, and its sums as they were."""
    made = file.with_name(f"changed-{name.replace('/', '-')}")
    import io

    with tarfile.open(file) as old, tarfile.open(made, "w") as new:
        for entry in old:
            content = _read(old, entry)
            if entry.name == name:
                other = change(content)
                if other is None:
                    continue
                content, entry.size = other, len(other)
            new.addfile(entry, io.BytesIO(content))
    return made


def test_a_damaged_one_is_refused_before_anything_is_touched(stage: Stage, tmp_path: Path) -> None:
    file = take(stage)
    settings = place(stage)
    damaged = {
        "is damaged: tables/project.jsonl.gz": changed(
            file, "tables/project.jsonl.gz", lambda old: old[:-1] + b"x"
        ),
        "cut off": changed(file, "SHA256SUMS", lambda old: None),
        "no backup": stage.folder / "key",
    }
    for words, one in damaged.items():
        with pytest.raises(backup.BackupError, match=words):
            backup.restore(settings, one)
    assert not (settings.data_dir / "isthmus.sqlite3").exists()


@pytest.mark.parametrize(
    ("name", "value", "words"), [("format", 99, "format 99"), ("revision", "9999", "does not know")]
)
def test_one_of_a_newer_version_is_refused_in_words(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, name: str, value: int | str, words: str
) -> None:
    def newer(old: bytes) -> bytes:
        return json.dumps(json.loads(old) | {name: value}).encode()

    import hashlib

    file = take(stage)
    made = changed(file, "backup.json", newer)
    with tarfile.open(made) as tar:
        digest = hashlib.sha256(_read(tar, "backup.json")).hexdigest()
    made = changed(
        made,
        "SHA256SUMS",
        lambda old: "".join(
            f"{digest if line.endswith('backup.json') else line.split()[0]}  {line.split('  ')[1]}\n"
            for line in old.decode().splitlines()
        ).encode(),
    )
    with pytest.raises(backup.BackupError, match=words):
        backup.restore(place(stage), made)


def test_one_of_an_older_schema_is_brought_up_to_date(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a backup of an older version would be: without tables that there are now, and with rows as they were."""
    file = take(stage)

    def older(old: bytes) -> bytes:
        values = json.loads(old)
        kept = {name: values["tables"][name] for name in ("meta", "project", "image")}
        return json.dumps(values | {"revision": "0010", "tables": kept}).encode()

    def without_versions(old: bytes) -> bytes:
        row = json.loads(gzip.decompress(old))
        new = ("version", "project_id", "visibility", "min_disk_gb", "login_user", "deprecated_at")
        then = {name: value for name, value in row.items() if name not in new}
        return gzip.compress(json.dumps({"name": then.pop("family"), "sites": {}, **then}).encode())

    made = changed(changed(file, "backup.json", older), "tables/image.jsonl.gz", without_versions)
    monkeypatch.setattr(
        backup, "verify", lambda file, progress=None: backup._header(file, _part(file, "backup.json"))
    )
    settings = place(stage)
    backup.restore(settings, made)
    store = Store(settings.database_url)
    with store.reading() as session:
        assert session.get_one(MetaRow, "broker_id").value == stage.broker.id
        (kept,) = session.scalars(select(ImageRow))
        assert (kept.family, kept.version, kept.visibility, kept.refs) == ("tiny", 1, "shared", {})
    store.upgrade()
    store.close()


def _part(file: Path, name: str) -> bytes:
    with tarfile.open(file) as tar:
        return _read(tar, name)


def _read(tar: tarfile.TarFile, part: str | tarfile.TarInfo) -> bytes:
    content = tar.extractfile(part)
    assert content is not None
    return content.read()
