"""``/v1/policy``."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter

from api.native.auth import Caller, TheBroker
from api.native.paging import Limit, Token, cut
from broker import policy, rehearsal
from broker.policy import ClauseValue, PolicyView
from isthmus import schema

router = APIRouter(prefix="/v1/policy", tags=["policy"])


@router.get("")
def get_policy(broker: TheBroker, caller: Caller) -> schema.Policy:
    """The policy in force, with the value of each condition now."""
    return _answer(policy.show(broker, caller))


@router.put("")
def apply_policy(broker: TheBroker, caller: Caller, body: schema.PolicyText) -> schema.Policy:
    """Put a policy in force as a new version. Admins only."""
    return _answer(policy.apply(broker, caller, body.text, body.name))


@router.post("/check")
def check_policy(broker: TheBroker, caller: Caller, body: schema.PolicyText) -> schema.PolicyCheck:
    """All mistakes of a policy file, with their positions and mends."""
    problems = [
        schema.Problem(file=p.file, line=p.line, column=p.column, message=p.message, mend=p.mend)
        for p in policy.check(broker, caller, body.text, body.name)
    ]
    return schema.PolicyCheck(ok=not problems, problems=problems)


@router.post("/rehearse")
def rehearse_policy(broker: TheBroker, caller: Caller, body: schema.PolicyText) -> schema.Rehearsal:
    """What a policy would do now: whether it opens, who is placed where, who waits, who leaves. Nothing changes."""
    view = rehearsal.rehearse(broker, caller, body.text, body.name)
    decision = view.decision
    return schema.Rehearsal(
        burst=view.burst,
        reason=decision.reason if decision else "",
        open=_clauses(decision.open_clauses if decision else ()),
        close=_clauses(decision.close_clauses if decision else ()),
        steps=[
            schema.RehearsalStep(vm=step.vm, action=step.action, host=step.host, reason=step.reason)
            for step in view.steps
        ],
    )


@router.get("/versions")
def list_policy_versions(
    broker: TheBroker, caller: Caller, limit: Limit = 100, page: Token = None
) -> schema.Page[schema.Policy]:
    """All versions that were ever in force, newest first. Only the newest one has a burst's state."""
    rows, following = cut(policy.versions(broker, caller), lambda row: (-row.version,), limit, page)
    return schema.Page(
        items=[
            schema.Policy(
                version=row.version,
                text=row.text,
                applied_by=row.applied_by,
                applied_at=row.applied_at,
                burst="off",
            )
            for row in rows
        ],
        next=following,
    )


def _answer(view: PolicyView) -> schema.Policy:
    decision = view.decision
    return schema.Policy(
        version=view.row.version,
        text=view.row.text,
        applied_by=view.row.applied_by,
        applied_at=view.row.applied_at,
        burst=view.burst,
        burst_since=view.since,
        reason=view.reason,
        open=_clauses(decision.open_clauses if decision else ()),
        close=_clauses(decision.close_clauses if decision else ()),
        burst_vms=view.burst_vms,
        budget=view.budget,
    )


def _clauses(clauses: Sequence[ClauseValue]) -> list[schema.Clause]:
    return [schema.Clause(text=c.text, holds=c.holds, value=c.value) for c in clauses]
