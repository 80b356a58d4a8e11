"""What VMs hold, counted anew: the columns that ``broker.store.claim`` keeps are held to the VMs themselves."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from broker import event
from broker.broker import Broker
from broker.size import SIZE
from broker.states import VMState
from broker.store import HostRow, ProjectRow, Row, VMRow
from broker.store.claim import held_by, of_host, of_project

log = structlog.get_logger()

_VM = (
    VMRow.project_id,
    VMRow.host_id,
    VMRow.target_host_id,
    VMRow.state,
    *(getattr(VMRow, name) for name in SIZE),
)
_NOTHING = {"state": "", **SIZE}
_COLUMNS: dict[type[Row], list[str]] = {
    HostRow: list(of_host(_NOTHING)),
    ProjectRow: list(of_project(_NOTHING)),
}


def differences(session: Session) -> dict[tuple[type[Row], str], dict[str, int]]:
    """Where a column is not what the VMs hold: (table, id) -> column -> what it should be. Empty when all is well."""
    counted: defaultdict[tuple[type[Row], str], defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for row in session.execute(select(*_VM).where(VMRow.state != VMState.TERMINATED)):
        for key, amounts in held_by(dict(row._mapping)).items():
            for column, amount in amounts.items():
                counted[key][column] += amount
    wrong: dict[tuple[type[Row], str], dict[str, int]] = {}
    for kind, columns in _COLUMNS.items():
        kept: Any = kind.__table__.c
        for row_id, *values in session.execute(select(kept.id, *(kept[name] for name in columns))):
            should = {name: counted[kind, row_id][name] for name in columns}
            if should != dict(zip(columns, values, strict=True)):
                wrong[kind, row_id] = should
    return wrong


def mend(broker: Broker) -> None:
    """Put right what is wrong, and say so. A statement that changed VMs in bulk makes such work."""
    with broker.store.reading() as session:
        if not differences(session):
            return
    with broker.store.transaction() as session:
        # What was written meanwhile is counted again under the lock of the write.
        wrong = differences(session)
        for (kind, row_id), values in wrong.items():
            row = session.get_one(kind, row_id, with_for_update={"of": kind})
            for name, value in values.items():
                setattr(row, name, value)
            event.record(
                broker, session, "claims.mended", row_id, f"what VMs hold of {row_id} was counted anew"
            )
    log.warning("claims.mended", rows=len(wrong))
