"""``/v1/migrations``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from fastapi import APIRouter

from api.native.auth import Caller, TheBroker
from api.native.dry_run import DryRun
from broker import migration
from broker.actor import Actor
from broker.broker import Broker
from broker.dry_run import nothing_stays
from broker.errors import InvalidRequest
from broker.migration import Limits, PlanView
from isthmus import schema

router = APIRouter(prefix="/v1/migrations", tags=["migration"])


@router.post("")
def create_migrations(
    broker: TheBroker, caller: Caller, body: schema.MigrationCreate, dry_run: DryRun = False
) -> schema.MigrationPlan:
    """Plan live migrations, and with `apply` begin them. Admins only. A dry run answers the plan that would be begun."""
    plan = _planner(broker, caller, body)
    if not dry_run:
        return _answer(plan())
    with nothing_stays():
        found = _answer(plan())
    for move in found.moves:
        move.operation = None
    return found


def _planner(broker: Broker, caller: Actor, body: schema.MigrationCreate) -> Callable[[], PlanView]:
    if body.goal == "drain":
        if body.host is None:
            raise InvalidRequest("which host is to be drained?", hint="give `host`")
        if not body.apply:
            raise InvalidRequest(
                "a drain is not planned, only done", hint="give `apply`; a dry run of that changes nothing"
            )
        return partial(migration.drain, broker, caller, body.host)
    if body.host is not None:
        raise InvalidRequest(f"a plan to {body.goal} is about all hosts", hint="leave `host` out")
    limits = Limits(body.max_moves, body.max_cost_s, body.rest_s, body.min_gain)
    return partial(migration.rebalance, broker, caller, goal=body.goal, limits=limits, apply=body.apply)


def _answer(view: PlanView) -> schema.MigrationPlan:
    return schema.MigrationPlan(
        goal=view.goal,
        moves=[
            schema.Move(
                vm=move.vm,
                source=move.source,
                target=move.target,
                cost_s=move.cost_s,
                operation=move.operation,
            )
            for move in view.moves
        ],
        stuck=[schema.Stuck(vm=name, reason=reason) for name, reason in view.stuck],
        resting=view.resting,
        hosts_before=view.hosts_before,
        hosts_after=view.hosts_after,
        spread_before=round(view.spread_before, 4),
        spread_after=round(view.spread_after, 4),
    )
