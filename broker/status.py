"""The broker itself, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select

from broker import access, policy, project, usage
from broker.actor import Actor
from broker.broker import Broker
from broker.states import VMState
from broker.store import HostRow, SiteRow, VMRow


@dataclass(frozen=True)
class StatusView:
    """Counts are of the whole broker for admins, of the caller's project for others."""

    broker_id: str
    project: str
    role: str
    sites: int
    hosts: int
    vms: int
    queue: int
    burst: str


@dataclass(frozen=True)
class BudgetView:
    """This month's money in clouds: of all projects for admins, of the caller's for others. ``limit`` is the hard one, None
    without; ``bound``: what the month costs when all leave as soon as they can; ``rate`` is per hour."""

    currency: str
    limit: float | None
    spent: float
    bound: float
    forecast: float
    rate: float


def budget(broker: Broker, actor: Actor) -> BudgetView | None:
    """How the policy's budget stands; None without one."""
    access.require(actor, "status.budget")
    whose = (
        None
        if access.everywhere(actor, "status.budget")
        else project.get(broker, actor, actor.project_id).name
    )
    with broker.store.reading() as session:
        in_force, _ = policy.current(broker, session)
        ledger = usage.ledger(broker, session, in_force)
        if ledger is None:
            return None
        account = ledger.account(whose)
        limit = ledger.budget.monthly.hard if whose is None else ledger.budget.project_cap(whose)
        return BudgetView(
            currency=ledger.budget.currency,
            limit=limit,
            spent=account.spent,
            bound=account.bound,
            forecast=account.forecast,
            rate=account.rate,
        )


def status(broker: Broker, actor: Actor) -> StatusView:
    """How the broker stands."""
    access.require(actor, "status.get")
    owner = project.get(broker, actor, actor.project_id)
    with broker.store.reading() as session:
        living = select(func.count()).select_from(VMRow).where(VMRow.state != VMState.TERMINATED)
        living = access.visible(living, actor, VMRow, "status.get")
        waiting = living.where(VMRow.state == VMState.PENDING, VMRow.host_id.is_(None))
        return StatusView(
            broker_id=broker.id,
            project=owner.name,
            role=actor.role,
            sites=session.scalar(select(func.count()).select_from(SiteRow)) or 0,
            hosts=session.scalar(select(func.count()).select_from(HostRow)) or 0,
            vms=session.scalar(living) or 0,
            queue=session.scalar(waiting) or 0,
            burst=policy.burst_word(broker),
        )
