"""What a policy would do if it were in force now. Nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from broker import access, burst, load, policy, pool, queue, usage
from broker.actor import Actor
from broker.broker import Broker
from broker.states import BurstWord
from placement import burst as rules
from placement.burst import BurstDecision
from placement.why import explain


@dataclass(frozen=True)
class Step:
    """What would become of one VM: ``place`` on a host, ``wait``, or ``leave`` its cloud; and why."""

    vm: str
    action: str
    host: str | None
    reason: str


@dataclass(frozen=True)
class RehearsalView:
    """``burst``: open, closed or off, as it would be after the first look; ``decision`` None without a burst part."""

    burst: str
    decision: BurstDecision | None
    steps: Sequence[Step]


def rehearse(broker: Broker, actor: Actor, text: str, name: str = "policy.yaml") -> RehearsalView:
    """Try a policy on the pool and the queue as they are. Admins only. Raises InvalidPolicy."""
    access.require(actor, "policy.rehearse")
    with broker.store.reading() as session:
        tried = policy.read(broker, session, text, name)
        seen = pool.snapshot(broker, session)
        decision = rules.decide(tried, seen.state, load.metrics(broker, session), seen.now)
        seen.policy, seen.state = tried, decision.state
        seen.ledger = usage.ledger(broker, session, tried)
        steps = [
            Step(row.name, "leave", row.host.name if row.host else None, leaver.reason)
            for row, leaver in burst.leaving(broker, session, tried, decision.state)
        ]
    decided, waiting = queue.decide(broker, seen)
    for wanted, found, reasons, (row, _) in zip(
        waiting, decided.decisions, decided.reasons, seen.waiting, strict=True
    ):
        if found.host is not None:
            at = seen.hosts[found.host]
            rank = "" if found.rank is None else f"rank {found.rank:g}"
            steps.append(Step(row.name, "place", f"{at.site.name}/{at.name}", rank))
        else:
            eligible = reasons == None  # noqa: E711 - of each element
            why = (
                found.error
                or explain(seen.table, wanted.request, eligible=eligible, reasons=reasons.tolist()).summary
            )
            steps.append(Step(row.name, "wait", None, why))
    word = (
        BurstWord.OFF if tried.burst is None else BurstWord.OPEN if decision.state.open else BurstWord.CLOSED
    )
    return RehearsalView(word, decision if tried.burst is not None else None, steps)
