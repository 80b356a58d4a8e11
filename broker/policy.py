"""The burst policy in force, and the burst's state: open, closed or off."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from broker import event, flavor, host, operation, usage, vm
from broker.actor import ADMIN, MEMBER, READER, SYSTEM, Actor
from broker.broker import Broker
from broker.errors import BrokerError, InvalidPolicy, NotFound
from broker.store import BurstRow, HostRow, OperationRow, PolicyRow, ProjectRow, SiteRow, UsageRow, VMRow
from placement import budget, burst
from placement.budget import Ledger
from placement.burst import BurstDecision
from placement.burst import ClauseValue as ClauseValue
from placement.policy import Policy, PolicyError, Problem, parse

log = structlog.get_logger()

OPEN = "open"
CLOSED = "closed"
OFF = "off"


@dataclass(frozen=True)
class PolicyView:
    """A version of the policy, and what it says now."""

    row: PolicyRow
    burst: str
    since: datetime | None
    reason: str
    decision: BurstDecision | None
    burst_vms: int
    budget: str = ""
    """What is spent, and what will be, in words; empty without a budget."""


def check(broker: Broker, actor: Actor, text: str, name: str = "policy.yaml") -> Sequence[Problem]:
    """All mistakes of a policy file; none when it is good. For members: reading a large file costs the broker time."""
    actor.require(MEMBER)
    try:
        policy = parse(text, name)
    except PolicyError as error:
        return error.problems
    with broker.store.reading() as session:
        return _unknown_sites(session, policy)


def apply(broker: Broker, actor: Actor, text: str, name: str = "policy.yaml") -> PolicyView:
    """Put a policy in force as a new version. Admins only. Raises InvalidPolicy; the old one then stays."""
    actor.require(ADMIN)
    try:
        policy = parse(text, name)
    except PolicyError as error:
        raise _invalid(error.problems) from None
    with broker.store.transaction() as session:
        problems = _unknown_sites(session, policy)
        if problems:
            raise _invalid(problems)
        newest = session.scalar(select(PolicyRow).order_by(PolicyRow.version.desc()).limit(1))
        if newest is None or newest.text != text:
            newest = PolicyRow(
                version=(newest.version if newest else 0) + 1,
                name=name,
                text=text,
                applied_by=actor.name,
                applied_at=broker.clock.now(),
            )
            session.add(newest)
            event.record(
                broker,
                session,
                "policy.applied",
                "policy",
                f"version {newest.version} applied by {actor.name}",
            )
    tick(broker)
    broker.signals.set("place")
    return show(broker, actor)


def show(broker: Broker, actor: Actor) -> PolicyView:
    """The policy in force with its clauses and their values now. Raises NotFound when there is none."""
    actor.require(READER)
    with broker.store.reading() as session:
        row = session.scalar(select(PolicyRow).order_by(PolicyRow.version.desc()).limit(1))
        if row is None:
            raise NotFound("policy", "in force", hint="`isthmus policy apply FILE` sets one")
        policy, state = current(broker, session)
        kept = session.get(BurstRow, 1)
        values = metrics(broker, session)
        decision = burst.decide(policy, state, values, broker.clock.now().timestamp()) if policy else None
        return PolicyView(
            row=row,
            burst=_word(policy, state),
            since=kept.since if kept is not None else None,
            reason=kept.reason if kept is not None else "",
            decision=decision,
            burst_vms=int(values["burst.vms"]),
            budget=_budget(broker, session, policy),
        )


def _budget(broker: Broker, session: Session, policy: Policy | None) -> str:
    ledger = usage.ledger(broker, session, policy)
    return budget.words(ledger) if ledger is not None else ""


def versions(broker: Broker, actor: Actor) -> Sequence[PolicyRow]:
    """All applied versions, newest first."""
    actor.require(READER)
    with broker.store.reading() as session:
        return list(session.scalars(select(PolicyRow).order_by(PolicyRow.version.desc())))


def burst_word(broker: Broker) -> str:
    """``open``, ``closed`` or ``off``."""
    with broker.store.reading() as session:
        return _word(*current(broker, session))


def current(broker: Broker, session: Session) -> tuple[Policy | None, burst.BurstState]:
    """The policy in force and the burst's state; (None, closed) without a policy."""
    row = session.scalar(select(PolicyRow).order_by(PolicyRow.version.desc()).limit(1))
    kept = session.get(BurstRow, 1)
    now = broker.clock.now().timestamp()
    state = burst.BurstState(False, now)
    if kept is not None:
        holds = kept.close_holds_since
        state = burst.BurstState(kept.open, kept.since.timestamp(), holds.timestamp() if holds else None)
    return (parse(row.text, row.name) if row is not None else None), state


def metrics(broker: Broker, session: Session) -> dict[str, float]:
    """What a policy's conditions read: seconds, counts, and fractions of what the local hosts have."""
    now = broker.clock.now()
    waits = [
        (now - created).total_seconds()
        for created in session.scalars(
            select(VMRow.created_at)
            .join(OperationRow, OperationRow.id == VMRow.operation_id)
            .where(VMRow.state == vm.PENDING, VMRow.host_id.is_(None), VMRow.reservation_id.is_(None))
            .where(OperationRow.state == operation.RUNNING, VMRow.unplaceable.is_(False))
        )
    ]
    local = (HostRow.elastic.is_(False), HostRow.state == host.UP)
    totals = session.execute(
        select(
            func.coalesce(func.sum(HostRow.vcpus_total), 0.0),
            func.coalesce(func.sum(HostRow.reserved_vcpus), 0.0),
            func.coalesce(func.sum(HostRow.mem_total_mb), 0.0),
            func.coalesce(func.sum(HostRow.reserved_mem_mb), 0.0),
        ).where(*local)
    ).one()
    vcpus, vcpus_used, mem, mem_used = totals
    local_vms, vm_vcpus, vm_mem = session.execute(
        select(
            func.count(VMRow.id),
            func.coalesce(func.sum(flavor.SHARED_VCPUS), 0),
            func.coalesce(func.sum(flavor.ORDINARY_MEM_MB), 0),
        )
        .join(HostRow, HostRow.id == VMRow.host_id)
        .where(VMRow.state.not_in((vm.TERMINATED, vm.SUSPENDED)), *local)
    ).one()
    vcpus_used, mem_used = vcpus_used + float(vm_vcpus), mem_used + float(vm_mem)
    bursting = session.execute(
        select(func.count(), func.coalesce(func.sum(VMRow.vcpus), 0)).where(
            VMRow.elastic, VMRow.state != vm.TERMINATED
        )
    ).one()
    return burst.Load(
        waits=waits,
        vcpus=vcpus,
        vcpus_used=vcpus_used,
        mem_mb=mem,
        mem_used_mb=mem_used,
        local_vms=local_vms,
        burst_vms=bursting[0],
        burst_vcpus=float(bursting[1]),
    ).metrics()


def cloud_use(broker: Broker, session: Session) -> burst.CloudUse:
    """What is in clouds now, and how many VMs were started there in the last hour."""
    found = burst.CloudUse()
    for name, vms, vcpus in session.execute(
        select(ProjectRow.name, func.count(), func.coalesce(func.sum(VMRow.vcpus), 0))
        .join(VMRow, VMRow.project_id == ProjectRow.id)
        .where(VMRow.elastic, VMRow.state != vm.TERMINATED)
        .group_by(ProjectRow.name)
    ):
        found.projects[name] = (vms, float(vcpus))
        found.vms, found.vcpus = found.vms + vms, found.vcpus + float(vcpus)
    found.launches = (
        session.scalar(
            select(func.count())
            .select_from(UsageRow)
            .where(UsageRow.elastic, UsageRow.started_at > broker.clock.now() - timedelta(hours=1))
        )
        or 0
    )
    return found


def read(broker: Broker, session: Session, text: str, name: str) -> Policy:
    """A policy from its text, with its sites known. Raises InvalidPolicy."""
    try:
        policy = parse(text, name)
    except PolicyError as error:
        raise _invalid(error.problems) from None
    problems = _unknown_sites(session, policy)
    if problems:
        raise _invalid(problems)
    return policy


def homegoers(
    broker: Broker, session: Session, policy: Policy, state: burst.BurstState
) -> Sequence[tuple[VMRow, burst.Leaver]]:
    """Who would leave its cloud now under a policy, and why."""
    rows = {
        row.id: row
        for row in session.scalars(select(VMRow).where(VMRow.elastic, VMRow.state == vm.RUNNING))
        if vm.busy(session, row) is None
    }
    now = broker.clock.now().timestamp()
    ledger = usage.ledger(broker, session, policy)
    leavers = burst.leavers(policy, state, [_burst_vm(row) for row in rows.values()], now, ledger=ledger)
    return [(rows[leaver.id], leaver) for leaver in leavers]


def tick(broker: Broker) -> None:
    """Evaluate the policy: open or close the burst, and send home whose time has come."""
    _reload_file(broker)
    started: list[str] = []
    changed = False
    with broker.store.transaction() as session:
        policy, state = current(broker, session)
        if policy is None:
            return
        now = broker.clock.now()
        decision = burst.decide(policy, state, metrics(broker, session), now.timestamp())
        changed = decision.changed
        kept = session.get(BurstRow, 1)
        if kept is None:
            kept = BurstRow(id=1, open=False, since=now, close_holds_since=None, reason="")
            session.add(kept)
        if changed:
            word = "opened" if decision.state.open else "closed"
            event.record(broker, session, f"policy.{word}", "policy", decision.reason)
            kept.since = now
        kept.open, kept.reason = decision.state.open, decision.reason
        holds = decision.state.close_holds_since
        kept.close_holds_since = datetime.fromtimestamp(holds, UTC) if holds is not None else None
        started = _send_home(broker, session, policy, decision.state, now)
    for operation_id in started:
        broker.submit(operation_id)
    if changed:
        broker.signals.set("place")


def _send_home(
    broker: Broker, session: Session, policy: Policy, state: burst.BurstState, now: datetime
) -> list[str]:
    rows = {
        row.id: row
        for row in session.scalars(
            select(VMRow).where(VMRow.elastic, VMRow.state == vm.RUNNING).with_for_update(of=VMRow)
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
            select(HostRow).where(HostRow.elastic.is_(False), HostRow.state == host.UP)
        )
    )
    for leaver in burst.leavers(policy, state, candidates, now.timestamp(), room, ledger):
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
        if row is not None and row.elastic and row.desired != vm.TERMINATED and row.state != vm.STOPPING:
            started.append(vm.begin_delete(broker, session, row, reason=reason).id)
    return started


def _burst_vm(row: VMRow) -> burst.BurstVM:
    return burst.BurstVM(
        id=row.id,
        launched_at=row.launched_at.timestamp() if row.launched_at else None,
        vcpus=float(row.vcpus),
        price_hour=_price(row),
        mem_mb=float(row.mem_mb),
    )


def _price(row: VMRow) -> float | None:
    value = row.host.attributes.get("price_hour") if row.host is not None else None
    return float(value) if isinstance(value, int | float) else None


def _word(policy: Policy | None, state: burst.BurstState) -> str:
    if policy is None or policy.burst is None:
        return OFF
    return OPEN if state.open else CLOSED


def _unknown_sites(session: Session, policy: Policy) -> list[Problem]:
    """Sites of ``burst.to`` that do not exist, at their place in the file."""
    if policy.burst is None:
        return []
    known = set(session.scalars(select(SiteRow.name)))
    found: list[Problem] = []
    for name in policy.burst.to:
        if name not in known:
            line, column = _position(policy.text, name)
            mend = f"sites are: {', '.join(sorted(known)) or 'none yet'}; `isthmus site add` adds one"
            found.append(Problem(policy.filename, line, column, f"there is no site {name!r}", mend))
    return found


def _position(text: str, site: str) -> tuple[int, int]:
    """Line and column of a site's name in the list ``to``, from 1."""
    to = re.search(r"(?<![\w.-])to\s*:", text)
    name = re.compile(rf"(?<![\w.-]){re.escape(site)}(?![\w.-])")
    found = name.search(text, to.end() if to is not None else 0)
    if found is None:
        return 1, 1
    before = text[: found.start()]
    return before.count("\n") + 1, found.start() - before.rfind("\n")


def _invalid(problems: Sequence[Problem]) -> InvalidPolicy:
    listed = [
        {"file": p.file, "line": p.line, "column": p.column, "message": p.message, "mend": p.mend}
        for p in problems
    ]
    first = problems[0]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return InvalidPolicy(
        f"{first.file}:{first.line}:{first.column}: {first.message}{more}",
        hint=first.mend or "`isthmus policy check FILE` lists all of them",
        details={"problems": listed},
    )


def _reload_file(broker: Broker) -> None:
    """Apply the watched policy file when it changed; a bad file never replaces a good policy."""
    if not broker.settings.policy_file:
        return
    path = Path(broker.settings.policy_file)
    try:
        text = path.read_text()
    except OSError as error:
        text = None
        problem = f"{path}: {error.strerror}"
    if text is not None:
        if text == broker.policy_file_text:
            return
        with broker.store.reading() as session:
            newest = session.scalar(select(PolicyRow.text).order_by(PolicyRow.version.desc()).limit(1))
            known = (
                session.scalar(select(PolicyRow.version).where(PolicyRow.text == text).limit(1)) is not None
            )
        before, broker.policy_file_text = broker.policy_file_text, text
        # After a restart a file that was applied once is no news: what was applied over it since stays in force.
        if newest == text or (known and not before):
            return
        try:
            apply(broker, SYSTEM, text, path.name)
            broker.policy_file_problem = ""
            return
        except BrokerError as error:
            # Tried again at each tick, because the mistake may be mended elsewhere: by adding the site it names.
            problem = str(error)
            broker.policy_file_text = before
    if problem == broker.policy_file_problem:
        return
    broker.policy_file_problem = problem
    with broker.store.transaction() as session:
        event.record(broker, session, "policy.rejected", "policy", problem)
