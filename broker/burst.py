"""The burst controller: opens and closes the burst as the policy says, and sends home whose time has come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from broker import host, usage, vm
from broker import policy as policies
from broker.broker import Broker
from broker.states import HostState, VMState
from broker.store import HostRow, VMRow
from placement import burst as rules
from placement.budget import Ledger
from placement.policy import Policy


def homegoers(
    broker: Broker, session: Session, policy: Policy, state: rules.BurstState
) -> Sequence[tuple[VMRow, rules.Leaver]]:
    """Who would leave its cloud now under a policy, and why."""
    rows = {
        row.id: row
        for row in session.scalars(select(VMRow).where(VMRow.elastic, VMRow.state == VMState.RUNNING))
        if vm.busy(session, row) is None
    }
    now = broker.clock.now().timestamp()
    ledger = usage.ledger(broker, session, policy)
    leavers = rules.leavers(policy, state, [_burst_vm(row) for row in rows.values()], now, ledger=ledger)
    return [(rows[leaver.id], leaver) for leaver in leavers]


def tick(broker: Broker) -> None:
    """Evaluate the policy: open or close the burst, and send home whose time has come."""
    policies.reload_file(broker)
    with broker.store.transaction() as session:
        policy, _ = policies.current(broker, session)
        if policy is None:
            return
        decision = policies.evaluate(broker, session, policy)
        started = _send_home(broker, session, policy, decision.state, broker.clock.now())
    for operation_id in started:
        broker.submit(operation_id)
    if decision.changed:
        broker.signals.set("place")


def _send_home(
    broker: Broker, session: Session, policy: Policy, state: rules.BurstState, now: datetime
) -> list[str]:
    rows = {
        row.id: row
        for row in session.scalars(
            select(VMRow).where(VMRow.elastic, VMRow.state == VMState.RUNNING).with_for_update(of=VMRow)
        )
        if vm.busy(session, row) is None
    }
    candidates = [_burst_vm(row) for row in rows.values()]
    ledger = usage.ledger(broker, session, policy)
    started = _broke(broker, session, ledger, rows)
    if not candidates:
        return started
    held = host.claims(session)
    room = sum(
        host.view(row, held.get(row.id, host.Claims())).vcpus_free
        for row in session.scalars(
            select(HostRow).where(HostRow.elastic.is_(False), HostRow.state == HostState.UP)
        )
    )
    for leaver in rules.leavers(policy, state, candidates, now.timestamp(), room, ledger):
        row = rows[leaver.id]
        if leaver.how == "drain":
            task = vm.begin_delete(broker, session, row, reason=f"drained: {leaver.reason}", graceful=True)
        else:
            task = vm.begin_return(broker, session, row, reason=leaver.reason)
        started.append(task.id)
    return started


def _broke(
    broker: Broker, session: Session, ledger: Ledger | None, at_rest: Mapping[str, VMRow]
) -> list[str]:
    """Delete those that the budget no longer carries and that are in the middle of something, such as a launch."""
    started: list[str] = []
    for vm_id, reason in ledger.leavers() if ledger is not None else ():
        row = session.get(VMRow, vm_id, with_for_update={"of": VMRow}) if vm_id not in at_rest else None
        if (
            row is not None
            and row.elastic
            and row.desired != VMState.TERMINATED
            and row.state != VMState.STOPPING
        ):
            started.append(vm.begin_delete(broker, session, row, reason=reason).id)
    return started


def _burst_vm(row: VMRow) -> rules.BurstVM:
    return rules.BurstVM(
        id=row.id,
        launched_at=row.launched_at.timestamp() if row.launched_at else None,
        vcpus=float(row.vcpus),
        price_hour=_price(row),
        mem_mb=float(row.mem_mb),
    )


def _price(row: VMRow) -> float | None:
    value = row.host.attributes.get("price_hour") if row.host is not None else None
    return float(value) if isinstance(value, int | float) else None
