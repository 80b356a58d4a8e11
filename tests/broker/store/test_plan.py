"""What the store reads of its big tables: nothing that is done for one VM may cost more because there are many."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event as statements

from broker import burst, event, host, operation, power, vm

if TYPE_CHECKING:
    from tests.broker.conftest import Stage

GROWING = "vm|operation|event|nic|address|usage|label|request|peer"
"""Tables that grow with the number of VMs."""

NARROW = {"ix_vm_elastic", "ix_vm_waiting", "ix_vm_runtime"}
"""Indexes that hold a small part of their table, which is wanted as a whole."""

BROAD = "project_id|site_id|subnet_id|network_id|noun|key"
"""Columns of which one value may be that of nearly all rows; of the states of VMs it is ``running``."""

KEPT = ("FROM subnet LEFT OUTER JOIN address ON", "SELECT CAST(json_group_array(address.address) AS TEXT)")
"""What a process reads as a whole now and then, and keeps."""


@pytest.fixture
def database() -> str:
    return "sqlite"  # it alone says how it reads without regard to how much there is now


def test_nothing_in_the_life_of_a_vm_reads_all_of_a_big_table(hybrid: Stage) -> None:
    said: dict[str, Any] = {}

    def note(
        _connection: object, _cursor: object, text: str, parameters: Any, _context: object, many: bool
    ) -> None:
        said.setdefault(text, parameters[0] if many else parameters)

    statements.listen(hybrid.broker.store.engine, "before_cursor_execute", note)
    home, away = hybrid.create("home"), hybrid.burst("away")
    for change in (power.stop, power.start, vm.delete):
        hybrid.finish(change(hybrid.broker, hybrid.member, home.id)[1])
    burst.tick(hybrid.broker)
    host.list_hosts(hybrid.broker, hybrid.admin)
    first = vm.list_vms(hybrid.broker, hybrid.member, limit=1)[0]
    vm.list_vms(hybrid.broker, hybrid.member, after=first.id)
    vm.page(hybrid.broker, hybrid.member, state="running", after=first.id)
    vm.page(hybrid.broker, hybrid.member, site_ref="campus")
    vm.page(hybrid.broker, hybrid.member, labels={"a": "b"})
    event.list_events(hybrid.broker, hybrid.member)
    newest = operation.list_operations(hybrid.broker, hybrid.member, limit=1)[0]
    operation.list_operations(hybrid.broker, hybrid.member, after=newest.id)
    vm.get(hybrid.broker, hybrid.member, "away")
    operation.get(hybrid.broker, hybrid.member, hybrid.there(away.operation_id))
    statements.remove(hybrid.broker.store.engine, "before_cursor_execute", note)

    found = set()
    with hybrid.broker.store.engine.connect() as connection:
        for text, parameters in said.items():
            if not text.startswith(("SELECT", "UPDATE", "DELETE")) or any(kept in text for kept in KEPT):
                continue
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", parameters)
            steps = [step for *_, step in plan]
            states = "|state" if "running" in tuple(parameters) and "operation.state" not in text else ""
            in_order = (
                "ORDER BY" in text
                and "LIMIT" in text
                and not any("TEMP B-TREE FOR ORDER BY" in step for step in steps)
            )
            for step in steps:
                read = re.match(rf"SCAN ({GROWING})\b(?:.* INDEX (\w+))?", step) or re.match(
                    rf"SEARCH ({GROWING})\b.* INDEX (\w+) \((?:{BROAD}{states})=\?\)", step
                )
                if read and read[2] not in NARROW and not (in_order and step.startswith("SEARCH")):
                    found.add(f"{step}: {text}")
    assert len(said) > 40
    assert found == set()
