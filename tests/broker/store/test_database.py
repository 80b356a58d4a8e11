"""The store: transactions, the schema and who owns it, on both databases."""

from __future__ import annotations

import re
import sqlite3
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import JSON, Boolean, DateTime, Integer, MetaData, Numeric, inspect, select, text
from sqlalchemy.exc import IntegrityError

import broker.store.database as database_module
from broker.ids import mac_of
from broker.store import (
    AddressRow,
    FlavorRow,
    GatewayRow,
    KeyPairRow,
    MetaRow,
    NICRow,
    PeerRow,
    RequestRow,
    Row,
    Store,
    StoreError,
    VMRow,
    database,
)
from broker.store.operation import BurstRow

NOW = datetime(2030, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)


def flavor(name):
    return FlavorRow(id=f"flv-{name}", name=name, vcpus=1, mem_mb=1, disk_gb=1)


def names(store):
    with store.reading() as session:
        return sorted(session.scalars(select(FlavorRow.name)))


def migrations(store):
    from pathlib import Path

    config = Config()
    config.set_main_option("script_location", str(Path(database_module.__file__).parent / "migrations"))
    config.attributes["engine"] = store.engine
    return config


def test_upgrade_makes_the_schema_and_again_changes_nothing(empty_url):
    opened = Store(empty_url)
    try:
        opened.upgrade()
        with opened.transaction() as session:
            session.add(flavor("kept"))
        tables = set(inspect(opened.engine).get_table_names())
        opened.upgrade()
        assert set(inspect(opened.engine).get_table_names()) == tables
        assert set(Row.metadata.tables) <= tables
        assert names(opened) == ["kept"]
    finally:
        opened.close()


def test_migrations_make_exactly_what_the_rows_declare(store):
    command.check(migrations(store))


def test_database_that_cannot_be_prepared_is_said_in_words(tmp_path):
    opened = Store(f"sqlite:///{tmp_path / 'missing' / 'isthmus.sqlite3'}")
    with pytest.raises(StoreError, match="cannot prepare the database"):
        opened.upgrade()
    opened.close()


def test_database_that_a_newer_version_has_upgraded_is_refused_in_words(store):
    with store.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreError, match=r"a newer version of Isthmus .* 9999.* install the newer version"):
        store.upgrade()
    with store.engine.connect() as connection:
        assert store.revision(connection) == "9999"


def test_transaction_that_fails_leaves_nothing(store):
    def fail():
        with store.transaction() as session:
            session.add(flavor("lost"))
            session.flush()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert names(store) == []


def test_reading_keeps_no_change(store):
    with store.reading() as session:
        session.add(flavor("lost"))
        session.flush()
    assert names(store) == []


def test_row_stays_readable_after_its_transaction(store):
    with store.transaction() as session:
        row = flavor("small")
        session.add(row)
    assert (row.name, row.vcpus) == ("small", 1)


def test_time_comes_back_in_utc_and_a_naive_one_is_refused(store):
    east = NOW.astimezone(timezone(timedelta(hours=5)))
    with store.transaction() as session:
        session.add(BurstRow(id=1, open=False, since=east, close_holds_since=None, reason=""))
    with store.reading() as session:
        row = session.get_one(BurstRow, 1)
    assert row.since == NOW
    assert row.since.tzinfo is not None
    with pytest.raises(Exception, match="time zone"), store.transaction() as session:
        session.add(
            BurstRow(id=2, open=False, since=NOW.replace(tzinfo=None), close_holds_since=None, reason="")
        )


def test_foreign_keys_hold(store):
    with pytest.raises(IntegrityError), store.transaction() as session:
        session.add(
            KeyPairRow(project_id="prj-none", name="k", public_key="", fingerprint="", created_at=NOW)
        )


def test_reader_does_not_wait_for_a_writer(store):
    with store.transaction() as writing:
        writing.add(flavor("small"))
        writing.flush()
        assert names(store) == []
    assert names(store) == ["small"]


def test_sqlite_has_one_broker(tmp_path):
    url = f"sqlite:///{tmp_path / 'isthmus.sqlite3'}"
    first, second = Store(url), Store(url)
    first.own(tmp_path / "lock")
    with pytest.raises(StoreError, match="another broker runs"):
        second.own(tmp_path / "lock")
    first.close()
    second.own(tmp_path / "lock")
    second.close()


@pytest.mark.postgres
def test_postgresql_has_several_brokers(postgresql, tmp_path):
    url = postgresql.database()
    first, second = Store(url), Store(url)
    first.own(tmp_path / "lock")
    second.own(tmp_path / "lock")
    first.close()
    second.close()
    postgresql.drop(url)


def test_broker_has_one_id_for_the_life_of_its_database(bare_stage):
    assert bare_stage.another().id == bare_stage.broker.id
    with bare_stage.broker.store.reading() as session:
        assert session.get_one(MetaRow, "broker_id").value == bare_stage.broker.id


def test_vm_of_an_older_schema_is_there_after_the_upgrade(tmp_path):
    file = tmp_path / "isthmus.sqlite3"
    store = Store(f"sqlite:///{file}")
    config = Config()
    config.set_main_option("script_location", str(Path(database.__file__).with_name("migrations")))
    config.attributes["engine"] = store.engine
    command.upgrade(config, "0001")
    with closing(sqlite3.connect(file)) as old:
        columns = {
            name: {"JSON": "[]", "DATETIME": "2026-01-01 00:00:00"}.get(
                kind, "0" if kind != "VARCHAR" else "x"
            )
            for _, name, kind, required, *_ in old.execute("pragma table_info(vm)")
            if required
        }
        marks = ", ".join("?" * len(columns))
        old.execute(f"insert into vm ({', '.join(columns)}) values ({marks})", list(columns.values()))  # noqa: S608
        old.commit()
    store.upgrade()
    with closing(sqlite3.connect(file)) as new:
        assert new.execute("select id, priority, affinity, interruptions from vm").fetchall() == [
            ("x", 0, "[]", 0)
        ]
    store.close()


def test_peers_and_gateways_of_before_are_kept_with_the_network_they_were_of(empty_url):
    opened = Store(empty_url)
    config = migrations(opened)
    command.upgrade(config, "0004")
    before = MetaData()
    before.reflect(opened.engine)

    def put(session, table, **values):
        """A row of the schema of then; what is not said gets any value of its type."""
        for column in before.tables[table].columns:
            if column.name not in values and not column.nullable and column.server_default is None:
                kind = column.type
                values[column.name] = (
                    "[]"
                    if isinstance(kind, JSON)
                    else NOW
                    if isinstance(kind, DateTime)
                    else False
                    if isinstance(kind, Boolean)
                    else 1
                    if isinstance(kind, Numeric | Integer)
                    else f"{table}-{column.name}-{values['id']}"
                )
        session.execute(before.tables[table].insert().values(values))

    def keep(session):
        put(session, "project", id="prj")
        put(session, "image", id="img")
        put(session, "site", id="site")
        put(session, "vm", id="vm", project_id="prj", image_id="img")
        for name in ("a", "b"):
            put(session, "network", id=f"net-{name}")
            put(session, "gateway", id=f"gw-{name}", site_id="site", network_id=f"net-{name}", generation=7)
        for number, state in enumerate(["removed", "expired", "bootstrap"]):
            put(session, "peer", id=f"peer-{number}", gateway_id="gw-a", vm_id="vm", state=state)
        put(session, "peer", id="peer-3", gateway_id="gw-b", vm_id="vm", state="enrolled", rx_bytes=2**40)

    with opened.transaction() as session:
        keep(session)
        peers = before.tables["peer"].select().order_by(before.tables["peer"].c.id)
        were = [row._asdict() for row in session.execute(peers)]
    opened.upgrade()
    opened.upgrade()
    with opened.reading() as session:
        are = [row._asdict() for row in session.execute(peers)]
        assert are == were
        kept = session.scalars(select(PeerRow).order_by(PeerRow.id)).all()
        assert [row.network_id for row in kept] == ["net-a", "net-a", "net-a", "net-b"]
        gateways = session.scalars(select(GatewayRow).order_by(GatewayRow.id)).all()
        assert [
            (row.id, row.generation, row.document_versions, row.features, row.software, row.problems)
            for row in gateways
        ] == [("gw-a", 7, [1], [], "", []), ("gw-b", 7, [1], [], "", [])]
    # From now on a VM has one live end on a network.
    with pytest.raises(IntegrityError), opened.transaction() as session:
        session.get_one(PeerRow, "peer-1").state = "enrolled"
    opened.close()


def test_missing_driver_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError, match=r"pip install 'isthmus-server\[postgres\]'"):
        Store("postgresql+psycopg://db.example.org/isthmus")


def put_row(before, session, table, **values):
    """A row of the schema of then; what is not said gets any value of its type."""
    for column in before.tables[table].columns:
        if column.name not in values and not column.nullable and column.server_default is None:
            kind = column.type
            values[column.name] = (
                []
                if isinstance(kind, JSON)
                else NOW
                if isinstance(kind, DateTime)
                else False
                if isinstance(kind, Boolean)
                else 1
                if isinstance(kind, Numeric | Integer)
                else f"{table}-{column.name}-{values.get('id')}"
            )
    session.execute(before.tables[table].insert().values(values))


def test_labels_client_tokens_and_requests_of_before_are_kept(empty_url):
    opened = Store(empty_url)
    config = migrations(opened)
    command.upgrade(config, "0006")
    before = MetaData()
    before.reflect(opened.engine)
    put = partial(put_row, before)

    labels = {
        "vm-1": {"tier": "web", 'a "b" \u00e9': "1", "aws:ec2:client-token": "t-1"},
        "vm-2": {},
        "vm-3": {"tier": ""},
    }
    with opened.transaction() as session:
        put(session, "project", id="prj")
        put(session, "image", id="img")
        for vm_id, given in labels.items():
            put(
                session,
                "vm",
                id=vm_id,
                name=vm_id,
                project_id="prj",
                image_id="img",
                labels=given,
                reservation="r-1" if vm_id < "vm-3" else "r-2",
            )
        put(session, "flavor", name="small")
        put(session, "flavor", name="large")
        put(session, "key_pair", project_id="prj", name="me")
        for key in ("k-1", "ec2:k-2"):
            put(
                session, "idempotency", project_id="prj", key=key, fingerprint=f"of {key}", resources=["vm-1"]
            )
    opened.upgrade()
    opened.upgrade()
    with opened.reading() as session:
        vms = session.scalars(select(VMRow).order_by(VMRow.id)).all()
        assert [(row.id, row.labels, row.client_token, row.launch_index) for row in vms] == [
            ("vm-1", {'a "b" \u00e9': "1", "tier": "web"}, "t-1", 0),
            ("vm-2", {}, None, 1),
            ("vm-3", {"tier": ""}, None, 0),
        ]
        flavors = session.scalars(select(FlavorRow).order_by(FlavorRow.name)).all()
        assert [row.name for row in flavors] == ["large", "small"]
        assert len({row.id for row in flavors}) == 2
        assert all(re.fullmatch(r"flv-[0-9a-f]{17}", row.id) for row in flavors)
        (pair,) = session.scalars(select(KeyPairRow)).all()
        assert re.fullmatch(r"key-[0-9a-f]{17}", pair.id)
        requests = session.scalars(select(RequestRow).order_by(RequestRow.token)).all()
        assert [(row.token, row.fingerprint, row.resources, row.created_at) for row in requests] == [
            ("ec2:k-2", "of ec2:k-2", ["vm-1"], NOW),
            ("k-1", "of k-1", ["vm-1"], NOW),
        ]
        assert len({row.id for row in requests}) == 2
    opened.close()


def test_leases_of_before_are_nics_and_addresses(empty_url):
    opened = Store(empty_url)
    command.upgrade(migrations(opened), "0011")
    before = MetaData()
    before.reflect(opened.engine)
    put = partial(put_row, before)
    lease = before.tables["lease"]

    vms = {  # state, networks, wanted address
        "vm-running": ("running", ["net-b", "net-a"], "10.2.1.7"),
        "vm-burst": ("running", ["net-a"], None),
        "vm-stopped": ("stopped", ["net-a"], None),
        "vm-waiting": ("pending", ["net-a", "net-b"], "10.1.1.9"),
        "vm-failed": ("error", ["net-b"], None),
        "vm-gone": ("terminated", ["net-a", "net-b"], "10.1.1.2"),
        "vm-long-gone": ("terminated", ["net-removed"], None),
        "vm-bare": ("running", [], None),
    }
    leases = [  # digits, subnet, VM, position, until when it rests
        ("10.2.1.7", 1, "sub-b", "vm-running", 0, None),
        ("10.1.1.3", 2, "sub-a", "vm-running", 1, None),
        ("10.1.2.2", 3, "sub-cloud", "vm-burst", 0, None),
        ("10.1.1.4", 4, "sub-a", "vm-stopped", 0, None),
        ("10.1.1.2", 5, "sub-a", None, 0, NOW),
        ("10.2.1.2", 6, "sub-b", None, 1, NOW),
    ]

    def mac(address):
        return ":".join(["52", "54", *(f"{int(byte):02x}" for byte in address.split("."))])

    with opened.transaction() as session:
        put(session, "project", id="prj")
        put(session, "image", id="img")
        for name in ("home", "cloud"):
            put(session, "site", id=f"site-{name}")
        for name in "ab":
            put(session, "network", id=f"net-{name}")
            put(session, "subnet", id=f"sub-{name}", network_id=f"net-{name}", site_id="site-home")
        put(session, "subnet", id="sub-cloud", network_id="net-a", site_id="site-cloud", mode="tunnel")
        for vm_id, (state, networks, wanted) in vms.items():
            put(
                session,
                "vm",
                id=vm_id,
                name=vm_id,
                project_id="prj",
                image_id="img",
                state=state,
                networks=networks,
                wanted_address=wanted,
            )
        for address, number, subnet, vm_id, position, until in leases:
            put(
                session,
                "lease",
                id=f"eni-{number:017x}",
                subnet_id=subnet,
                address=address,
                mac=mac(address),
                vm_id=vm_id,
                position=position,
                rests_until=until,
            )
        assert len(session.execute(lease.select()).all()) == len(leases)
        gone = ("networks", "wanted_address")
        kept = [column for column in before.tables["vm"].columns if column.name not in gone]
        rows_of_vms = select(*kept).order_by("id")
        were = session.execute(rows_of_vms).all()
    opened.upgrade()
    opened.upgrade()
    with opened.reading() as session:
        assert session.execute(rows_of_vms).all() == were
        nics = session.scalars(select(NICRow).order_by(NICRow.vm_id, NICRow.position)).unique().all()
        assert [
            (row.vm_id, row.position, row.network_id, row.subnet_id, row.wanted_address, row.address)
            for row in nics
        ] == [
            ("vm-burst", 0, "net-a", "sub-cloud", None, "10.1.2.2"),
            ("vm-failed", 0, "net-b", None, None, None),
            ("vm-running", 0, "net-b", "sub-b", "10.2.1.7", "10.2.1.7"),
            ("vm-running", 1, "net-a", "sub-a", None, "10.1.1.3"),
            ("vm-stopped", 0, "net-a", "sub-a", None, "10.1.1.4"),
            ("vm-waiting", 0, "net-a", None, "10.1.1.9", None),
            ("vm-waiting", 1, "net-b", None, None, None),
        ]
        # What guests and EC2 know of a NIC stays as it was; one that had no lease yet is as a new one.
        for row in nics:
            if row.address is not None:
                assert row.mac == mac(row.address)
            else:
                assert re.fullmatch("nic-[0-9a-f]{17}", row.id)
                assert row.mac == mac_of(row.id)
        number_of = {address: number for address, number, *_ in leases}
        assert [row.id for row in nics if row.address] == [
            f"nic-{number_of[row.address]:017x}" for row in nics if row.address
        ]
        addresses = session.scalars(select(AddressRow).order_by(AddressRow.id)).all()
        nic_of = {row.address: row.id for row in nics if row.address}
        assert [
            (row.id, row.subnet_id, row.address, row.nic_id, row.position, row.rests_until)
            for row in addresses
        ] == [
            (f"addr-{number:017x}", subnet, address, nic_of.get(address) if vm_id else None, 0, until)
            for address, number, subnet, vm_id, _, until in leases
        ]
    opened.close()
