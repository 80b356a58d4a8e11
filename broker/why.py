"""Why a VM is where it is, or why it is nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select

from broker import access, load, pool, vm
from broker.actor import Actor
from broker.broker import Broker
from broker.errors import InvalidExpression
from broker.states import VMState
from broker.store import EventRow, OperationRow, VMRow
from placement import burst
from placement import round as rounds
from placement.language import ExpressionError
from placement.why import Explanation, explain


@dataclass(frozen=True)
class WhyView:
    """``host``, ``rank`` and the runner-up are of the decision that placed the VM, from its event."""

    vm: VMRow
    summary: str
    host: str | None
    rank: float | None
    runner_up: str | None
    runner_up_rank: float | None
    gap: float | None
    """By how much its rank is above the runner-up's."""
    explanation: Explanation
    policy: Sequence[str]


def why(broker: Broker, actor: Actor, ref: str) -> WhyView:
    """Explain one VM. Raises NotFound, InvalidExpression (with the policy's requirement its own is too long or too deep)."""
    access.require(actor, "vm.why")
    row = vm.get(broker, actor, ref)
    access.require(actor, "vm.why", row.project_id)
    try:
        explanation, seen = _explained(broker, row)
    except ExpressionError as error:
        raise InvalidExpression(
            f"the policy's requirement and that of {row.name} together: {error.message}",
            hint=error.mend or "make it shorter, or have the policy's made shorter",
        ) from None
    host = rank = runner_up = runner_up_rank = None
    summary = explanation.summary
    with broker.store.reading() as session:
        if row.host is not None:
            placed = session.scalar(
                select(EventRow)
                .where(EventRow.target == row.id, EventRow.kind == "vm.placed")
                .order_by(EventRow.seq.desc())
                .limit(1)
            )
            host = f"{row.site.name}/{row.host.name}" if row.site else row.host.name
            if placed is not None and placed.data.get("host") != row.host.name:
                # What was true of the host where it began says nothing of this one.
                summary = f"{row.name} was moved to {host}; it began on {placed.data.get('site')}/{placed.data.get('host')}"
            elif placed is not None:
                summary = placed.message
                rank, runner_up = placed.data.get("rank"), placed.data.get("runner_up")
                runner_up_rank = placed.data.get("runner_up_rank")
        clauses: list[str] = []
        if seen.policy is not None:
            now = broker.clock.now().timestamp()
            decision = burst.decide(seen.policy, seen.state, load.metrics(broker, session), now)
            clauses = [decision.reason]
            word, told = (
                ("closes on", decision.close_clauses)
                if decision.state.open
                else ("opens on", decision.open_clauses)
            )
            clauses += [f"{word} {clause}" for clause in told if str(clause) not in decision.reason]
    if (row.host is None and row.state != VMState.PENDING) or row.state in (
        VMState.SUSPENDING,
        VMState.SUSPENDED,
    ):
        summary = f"it is {row.state}" + (f": {row.status_reason}" if row.status_reason else "")
    gap = None if rank is None or runner_up_rank is None else rank - runner_up_rank
    return WhyView(row, summary, host, rank, runner_up, runner_up_rank, gap, explanation, clauses)


def _explained(broker: Broker, row: VMRow) -> tuple[Explanation, pool.Snapshot]:
    """A VM against the pool as it is now; for a placed one, as if it were placed again."""
    with broker.store.reading() as session:
        task = session.get(OperationRow, row.operation_id) if row.operation_id else None
        seen = pool.snapshot(broker, session, also=row)
    waiting = pool.waiting_of(seen, row)
    request = waiting.request
    reasons = pool.refusals(broker, seen, row, task)
    if row.host_id in seen.index:
        # Its own claim is not in its way.
        reasons[seen.index[row.host_id]] = None
    decided = rounds.run(
        pool.pool_of(seen, seen.table.copy(), without=row.id),
        [waiting],
        seen.now,
        policy=seen.policy,
        gate=pool.gate(seen),
        refusals=lambda _: reasons,
    )
    decision, reasons = decided.decisions[0], decided.reasons[0]
    if row.host_id in seen.index:
        reasons[seen.index[row.host_id]] = None
    mask = pool.none(reasons)
    explanation = explain(seen.table, request, eligible=mask, reasons=reasons.tolist(), decision=decision)
    return explanation, seen
