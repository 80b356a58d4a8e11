"""What VMs hold, kept in columns of their hosts and projects: changed in the transaction that changes the VM.

The claim itself is the VM's row (``host_id``, its size, its state). So that nobody has to add up a hundred thousand
of them to know what one host has left, each flush of VM rows adds the difference that it makes to the columns
``held_*`` of hosts and ``used_*`` of projects. It is done here, for every change of a VM whoever makes it, so that
none can be forgotten; statements that change VMs in bulk do not pass here, and ``broker.claim`` counts anew.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import bindparam, event, inspect, update
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import get_history, set_committed_value

from broker.size import DIMENSIONS, SIZE
from broker.states import VMState
from broker.store.base import Row
from broker.store.changes import mark
from broker.store.project import ProjectRow
from broker.store.site import HostRow
from broker.store.vm import VMRow

_MATTERS = (
    "project_id",
    "host_id",
    "target_host_id",
    "state",
    *SIZE,
)

_USED = [(name, f"used_{name}") for name in DIMENSIONS]

Amounts = dict[tuple[type[Row], str], dict[str, int]]
"""(table, id) -> column -> how much."""


def of_host(vm: Mapping[str, Any]) -> dict[str, int]:
    """What a VM holds of a host, by the host's columns. One that is suspended is counted, and holds neither cores nor memory."""
    awake = vm["state"] != VMState.SUSPENDED
    return {
        "held_vms": 1,
        "held_vcpus": 0 if vm["dedicated_cpus"] or not awake else vm["vcpus"],
        "held_mem_mb": 0 if vm["hugepages"] or not awake else vm["mem_mb"],
        "held_gpus": vm["gpus"],
        "held_dedicated_cpus": vm["vcpus"] if vm["dedicated_cpus"] else 0,
        "held_hugepages_mb": vm["mem_mb"] if vm["hugepages"] else 0,
    }


def of_project(vm: Mapping[str, Any]) -> dict[str, int]:
    """What a VM uses of its project's quota, by the project's columns."""
    return {"used_vms": 1, **{column: vm[name] for name, column in _USED}}


def held_by(vm: Mapping[str, Any] | None) -> Amounts:
    """All that a VM holds: on its host, on the one that it is on its way to, and of its quota."""
    if vm is None or vm["state"] == VMState.TERMINATED:
        return {}
    found: Amounts = {(ProjectRow, vm["project_id"]): of_project(vm)}
    for host_id in (vm["host_id"], vm["target_host_id"]):
        if host_id is not None:
            found[HostRow, host_id] = of_host(vm)
    return found


def listen(sessions: Any) -> None:
    """Have the sessions of a factory keep the columns."""
    event.listen(sessions, "before_flush", _before_flush)


def _before_flush(session: Session, _context: object, _instances: object) -> None:
    changed: defaultdict[tuple[type[Row], str], defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for sign, vm in _differences(session):
        for key, amounts in held_by(vm).items():
            for column, amount in amounts.items():
                changed[key][column] += sign * amount
    for kind in (HostRow, ProjectRow):
        # In one order for all, so that two transactions do not wait for each other.
        _add(
            session,
            kind,
            sorted((row_id, amounts) for (of, row_id), amounts in changed.items() if of is kind),
        )


def _differences(session: Session) -> Iterable[tuple[int, Mapping[str, Any] | None]]:
    """(-1, a VM as it was) and (1, as it will be), of each that this flush changes in what it holds."""
    for row in session.new:
        if isinstance(row, VMRow):
            yield 1, _values(row)
    for row in session.deleted:
        if isinstance(row, VMRow):
            yield -1, _before(row)
    for row in session.dirty:
        if isinstance(row, VMRow) and session.is_modified(row):
            before, after = _before(row), _values(row)
            if before != after:
                yield -1, before
                yield 1, after


def _values(row: VMRow) -> dict[str, Any]:
    found = {name: getattr(row, name) for name in _MATTERS}
    # What nobody said is written as its default by this flush.
    return found | {name: default for name, default in SIZE.items() if found[name] is None}


def _before(row: VMRow) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in _MATTERS:
        history = get_history(row, name)
        old = history.deleted or history.unchanged or history.added
        found[name] = old[0] if old else None
    return found


def _add(session: Session, kind: type[Row], rows: Sequence[tuple[str, Mapping[str, int]]]) -> None:
    """Add to the columns of some rows, in one statement for all."""
    rows = [(row_id, amounts) for row_id, amounts in rows if any(amounts.values())]
    if not rows:
        return
    columns = kind.__table__.c
    names = list(rows[0][1])
    session.connection().execute(
        update(kind.__table__)  # type: ignore[arg-type]
        .where(columns.id == bindparam("of"))
        .values({name: columns[name] + bindparam(f"more_{name}") for name in names}),
        [{"of": row_id} | {f"more_{name}": amounts[name] for name in names} for row_id, amounts in rows],
    )
    if kind is HostRow:
        mark(session, *(f"host:{row_id}" for row_id, _ in rows))
    for row_id, amounts in rows:
        loaded = session.identity_map.get(session.identity_key(kind, row_id))
        if loaded is None:
            continue
        unloaded = inspect(loaded).unloaded
        for name in names:
            if name not in unloaded:
                set_committed_value(loaded, name, getattr(loaded, name) + amounts[name])
