"""The burst controller: opens and closes the burst as the policy says, and sends home whose time has come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from sqlalchemy import case, func, or_, select
from sqlalchemy.orm import Session

from broker import policy as policies
from broker import usage, vm
from broker.broker import Broker
from broker.states import OperationState, VMState
from broker.store import HostRow, OperationRow, VMRow
from placement import burst as rules
from placement.policy import Policy

T = TypeVar("T")

_BATCH = 10
"""VMs that leave in one transaction: nobody waits long for it."""


def leaving(
    broker: Broker, session: Session, policy: Policy, state: rules.BurstState
) -> Sequence[tuple[VMRow, rules.Leaver]]:
    """Who would leave its cloud now under a policy, and why."""
    ledger = usage.ledger(broker, session, policy)
    now = broker.clock.now().timestamp()
    leavers = rules.leavers(policy, state, _at_rest(session), now, ledger=ledger)
    going = select(VMRow).where(VMRow.id.in_([leaver.id for leaver in leavers]))
    rows = {row.id: row for row in session.scalars(going)}
    return [(rows[leaver.id], leaver) for leaver in leavers]


def tick(broker: Broker) -> None:
    """Evaluate the policy: open or close the burst, and send home whose time has come. Again changes nothing."""
    policies.reload_file(broker)
    with broker.store.reading() as session:
        policy, _ = policies.current(broker, session)
        if policy is None:
            return
        decision, new = policies.decide(broker, session, policy)
    if new:
        with broker.store.transaction() as session:
            # Another one may have been applied meanwhile.
            policy, _ = policies.current(broker, session)
            if policy is None:
                return
            decision = policies.evaluate(broker, session, policy)
    if decision.changed:
        broker.signals.set("place")
    with broker.store.reading() as session:
        at_rest = _at_rest(session)
        ledger = usage.ledger(broker, session, policy)
        resting = {one.id for one in at_rest}
        unpaid = [pair for pair in (ledger.leavers() if ledger is not None else ()) if pair[0] not in resting]
        now = broker.clock.now().timestamp()
        leavers = (
            rules.leavers(policy, decision.state, at_rest, now, _room(session), ledger) if at_rest else []
        )
    _in_batches(broker, unpaid, _end_unpaid)
    _in_batches(broker, leavers, _send_home)


def _in_batches(
    broker: Broker, every: Sequence[T], begin: Callable[[Broker, Session, Sequence[T]], list[OperationRow]]
) -> None:
    for first in range(0, len(every), _BATCH):
        with broker.store.transaction() as session, session.no_autoflush:
            begun = begin(broker, session, every[first : first + _BATCH])
        for task in begun:
            broker.submit(task)


def _at_rest(session: Session) -> list[rules.BurstVM]:
    """The VMs that run in clouds and on which nothing is under way."""
    prices = {
        host_id: attributes.get("price_hour")
        for host_id, attributes in session.execute(
            select(HostRow.id, HostRow.attributes).where(
                HostRow.elastic,
                HostRow.id.in_(select(VMRow.host_id).where(VMRow.elastic, VMRow.state == VMState.RUNNING)),
            )
        )
    }
    rows = session.execute(
        select(VMRow.id, VMRow.host_id, VMRow.launched_at, VMRow.vcpus, VMRow.mem_mb)
        .outerjoin(OperationRow, OperationRow.id == VMRow.operation_id)
        .where(VMRow.elastic, VMRow.state == VMState.RUNNING)
        .where(or_(OperationRow.id.is_(None), OperationRow.state != OperationState.RUNNING))
    )
    found: list[rules.BurstVM] = []
    for vm_id, host_id, launched_at, vcpus, mem_mb in rows:
        price = prices.get(host_id)
        found.append(
            rules.BurstVM(
                id=vm_id,
                launched_at=launched_at.timestamp() if launched_at else None,
                vcpus=float(vcpus),
                price_hour=float(price) if isinstance(price, int | float) else None,
                mem_mb=float(mem_mb),
            )
        )
    return found


def _room(session: Session) -> float:
    """The vCPUs that are free on hosts of our own."""
    free = HostRow.vcpus_total - HostRow.reserved_vcpus - HostRow.held_vcpus
    found = session.scalar(
        select(func.coalesce(func.sum(case((free > 0, free), else_=0.0)), 0.0)).where(
            HostRow.elastic.is_(False), HostRow.takes_vms
        )
    )
    return float(found or 0.0)


def _send_home(broker: Broker, session: Session, leavers: Sequence[rules.Leaver]) -> list[OperationRow]:
    """Begin the way home of those of them that are still at rest."""
    begun: list[OperationRow] = []
    rows = _locked(session, [leaver.id for leaver in leavers])
    busy = set(
        session.scalars(
            select(OperationRow.id).where(
                OperationRow.id.in_([row.operation_id for row in rows.values()]),
                OperationRow.state == OperationState.RUNNING,
            )
        )
    )
    for leaver in leavers:
        row = rows.get(leaver.id)
        if row is None or not row.elastic or row.state != VMState.RUNNING or row.operation_id in busy:
            continue
        if leaver.how == "drain":
            reason = f"drained: {leaver.reason}"
            begun.append(vm.begin_delete(broker, session, row, reason=reason, graceful=True))
        else:
            begun.append(vm.begin_return(broker, session, row, reason=leaver.reason))
    return begun


def _locked(session: Session, vm_ids: Sequence[str]) -> dict[str, VMRow]:
    """VMs by their ids, read for a change of them all at once."""
    query = select(VMRow).where(VMRow.id.in_(vm_ids)).order_by(VMRow.id).with_for_update(of=VMRow)
    return {row.id: row for row in session.scalars(query)}


def _end_unpaid(broker: Broker, session: Session, unpaid: Sequence[tuple[str, str]]) -> list[OperationRow]:
    """Delete those that the budget no longer carries and that are in the middle of something, such as a launch."""
    begun: list[OperationRow] = []
    rows = _locked(session, [vm_id for vm_id, _ in unpaid])
    for vm_id, reason in unpaid:
        row = rows.get(vm_id)
        if (
            row is not None
            and row.elastic
            and row.desired != VMState.TERMINATED
            and row.state != VMState.STOPPING
        ):
            begun.append(vm.begin_delete(broker, session, row, reason=reason))
    return begun
