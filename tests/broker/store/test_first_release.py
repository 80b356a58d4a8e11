"""A store of 0.1.0 with VMs in every state is upgraded, and nothing of it is lost, on both databases.

``0.1.0.json`` holds the rows of a store that 0.1.0 itself wrote: a site of three hosts and a cloud, VMs at rest in every
state, and VMs with every kind of operation under way, each stopped in the middle.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import DateTime, MetaData, select

from broker.claim import differences
from broker.engine.registry import OPERATIONS
from broker.operation import SETTLE
from broker.states import VMState
from broker.store import (
    AddressRow,
    HostRow,
    ImageRow,
    NetworkRow,
    NICRow,
    OperationRow,
    RequestRow,
    SiteRow,
    Store,
    VMRow,
)

if TYPE_CHECKING:
    from tests.broker.store.conftest import Before

ROWS = json.loads(Path(__file__).with_name("0.1.0.json").read_text())
MOVED: Mapping[str, set[str]] = {
    "flavor": set(),
    "image": {"name", "sites"},
    "key_pair": set(),
    "vm": {"labels", "networks", "wanted_address"},
}
"""Columns of then that are none now: their values are elsewhere, as the tests below say one by one."""
GONE = {"idempotency": "request", "lease": "address"}
"""Tables of then -> those that have their rows now."""
CHANGED: dict[tuple[str, str], Callable[[str], str | None]] = {
    ("host", "state"): lambda old: "up" if old == "maintenance" else old,
    ("vm", "requirements"): lambda old: None if old == 'site == "campus"' else old,
}
"""What a column says now in other words."""
KEYS = {
    "flavor": ["name"],
    "key_pair": ["project_id", "name"],
    "event": ["seq"],
    "policy": ["version"],
    "meta": ["key"],
}


@pytest.fixture
def upgraded(before: Callable[[str], Before]) -> Store:
    then = before("0004")
    with then.store.transaction() as session:
        for name, rows in ROWS.items():
            table = then.tables[name]
            times = [column.name for column in table.columns if isinstance(column.type, DateTime)]
            for row in rows:
                session.execute(table.insert().values(row | {each: _time(row[each]) for each in times}))
    then.store.upgrade()
    return then.store


def _time(text: str) -> datetime | None:
    return datetime.fromisoformat(text).replace(tzinfo=UTC) if text else None


def _plain(value: Any) -> Any:
    return value.replace(tzinfo=None).isoformat() if isinstance(value, datetime) else value


def test_it_has_a_vm_in_every_state_and_every_operation_half_done() -> None:
    assert {row["state"] for row in ROWS["vm"]} == {*VMState}
    under_way = {row["kind"] for row in ROWS["operation"] if row["state"] == "running"}
    assert under_way >= {
        f"vm.{kind}" for kind in ("create", "start", "stop", "reboot", "suspend", "migrate", "delete")
    }


def test_every_row_is_there_with_every_value_of_before(upgraded: Store) -> None:
    now = MetaData()
    now.reflect(upgraded.engine)
    with upgraded.reading() as session:
        for name, rows in ROWS.items():
            if name in GONE:
                assert name not in now.tables
                assert len(session.execute(now.tables[GONE[name]].select()).all()) == len(rows)
                continue
            table = now.tables[name]
            keys = KEYS.get(name, ["id"])
            found = {
                tuple(row[key] for key in keys): {column: _plain(value) for column, value in row.items()}
                for row in session.execute(table.select()).mappings()
            }
            assert len(found) == len(rows)
            for row in rows:
                kept = {
                    column: value for column, value in row.items() if column not in MOVED.get(name, set())
                }
                should = {column: CHANGED.get((name, column), _same)(value) for column, value in kept.items()}
                is_now = found[tuple(row[key] for key in keys)]
                assert {column: is_now[column] for column in should} == should


def _same(value: str) -> str | None:
    return value


def test_what_was_moved_says_the_same_in_its_new_place(upgraded: Store) -> None:
    with upgraded.reading() as session:
        vms = {row.id: row for row in session.scalars(select(VMRow)).unique()}
        networks = {row["id"]: row["network_id"] for row in ROWS["subnet"]}
        for row in ROWS["vm"]:
            now = vms[row["id"]]
            token = row["labels"].get("aws:ec2:client-token")
            labels = {key: value for key, value in row["labels"].items() if not key.startswith("aws:")}
            assert (now.labels, now.client_token) == (labels, token)
            leases = [each for each in ROWS["lease"] if each["vm_id"] == row["id"]]
            assert {(nic.network_id, nic.address, nic.mac) for nic in now.nics if nic.address} == {
                (networks[each["subnet_id"]], each["address"], each["mac"]) for each in leases
            }
            asked = [] if row["state"] == "terminated" else row["networks"]
            assert [nic.network_id for nic in now.nics] == asked
        named = next(row for row in vms.values() if row.name == "at-a-site")
        campus = session.scalars(select(SiteRow).where(SiteRow.name == "campus")).one()
        assert (named.site_wanted_id, named.requirements) == (campus.id, None)
        resting = {each["address"]: each["rests_until"] for each in ROWS["lease"] if each["vm_id"] is None}
        addresses = session.scalars(select(AddressRow).where(AddressRow.nic_id.is_(None)))
        assert {row.address: _plain(row.rests_until) for row in addresses} == resting
        (image,) = session.scalars(select(ImageRow))
        owners = session.execute(select(NetworkRow.id, NetworkRow.project_id, NetworkRow.visibility))
        assert {tuple(row) for row in owners} == {(row["id"], None, "shared") for row in ROWS["network"]}
        sites = {row["name"]: row["id"] for row in ROWS["site"]}
        (then,) = ROWS["image"]
        assert (image.family, image.version, image.visibility) == (then["name"], 1, "shared")
        assert image.refs == {sites[name]: ref for name, ref in then["sites"].items()}
        (request,) = session.scalars(select(RequestRow))
        (key,) = ROWS["idempotency"]
        assert (request.token, request.fingerprint, request.resources) == (
            key["key"],
            key["fingerprint"],
            key["resources"],
        )
        away = session.scalars(select(HostRow.name).where(HostRow.maintenance))
        assert list(away) == [row["name"] for row in ROWS["host"] if row["maintenance"]]
        # A NIC belongs to a VM, and its MAC to it alone.
        macs = session.scalars(select(NICRow.mac)).all()
        assert len(macs) == len(set(macs))


def test_what_vms_hold_is_counted_and_what_is_under_way_can_go_on(upgraded: Store) -> None:
    with upgraded.reading() as session:
        assert differences(session) == {}
        under_way = session.scalars(select(OperationRow).where(OperationRow.state == "running")).all()
        assert len(under_way) == sum(row["state"] == "running" for row in ROWS["operation"])
        for task in under_way:
            assert task.phase in {SETTLE, *(phase.word for phase in OPERATIONS[task.kind].every)}, task.kind
