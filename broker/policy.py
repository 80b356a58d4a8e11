"""The burst policy in force, and the burst's state: open, closed or off."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from broker import access, event, load, usage
from broker.actor import SYSTEM, Actor
from broker.broker import Broker
from broker.errors import BrokerError, InvalidPolicy, NotFound
from broker.states import BurstWord
from broker.store import BurstRow, PolicyRow, SiteRow
from placement import budget, burst
from placement.burst import BurstDecision
from placement.burst import ClauseValue as ClauseValue
from placement.policy import Policy, PolicyError, Problem, parse

log = structlog.get_logger()


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
    access.require(actor, "policy.check")
    try:
        policy = parse(text, name)
    except PolicyError as error:
        return error.problems
    with broker.store.reading() as session:
        return _unknown_sites(session, policy)


def apply(broker: Broker, actor: Actor, text: str, name: str = "policy.yaml") -> PolicyView:
    """Put a policy in force as a new version. Admins only. Raises InvalidPolicy; the old one then stays."""
    access.require(actor, "policy.apply")
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
        in_force, _ = current(broker, session)
        if in_force is not None:
            evaluate(broker, session, in_force)
    broker.signals.set("policy")
    broker.signals.set("place")
    return show(broker, actor)


def show(broker: Broker, actor: Actor) -> PolicyView:
    """The policy in force with its clauses and their values now. Raises NotFound when there is none."""
    access.require(actor, "policy.get")
    with broker.store.reading() as session:
        row = session.scalar(select(PolicyRow).order_by(PolicyRow.version.desc()).limit(1))
        if row is None:
            raise NotFound("policy", "in force", hint="`isthmus policy apply FILE` sets one")
        policy, state = current(broker, session)
        kept = session.get(BurstRow, 1)
        values = load.metrics(broker, session)
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
    access.require(actor, "policy.versions")
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
    return (_parsed(row.text, row.name) if row is not None else None), state


@lru_cache(maxsize=16)
def _parsed(text: str, name: str) -> Policy:
    """A policy that was checked when it was applied. It is asked for at every round, and never changes."""
    return parse(text, name)


def decide(broker: Broker, session: Session, policy: Policy) -> tuple[BurstDecision, bool]:
    """What a policy says now, and whether it is something new: then it is to be written (``evaluate``)."""
    _, state = current(broker, session)
    decision = burst.decide(policy, state, load.metrics(broker, session), broker.clock.now().timestamp())
    kept = session.get(BurstRow, 1)
    new = kept is None or (kept.open, kept.reason, kept.close_holds_since) != _kept(decision)
    return decision, new


def evaluate(broker: Broker, session: Session, policy: Policy) -> BurstDecision:
    """Open or close the burst as a policy says, in the caller's transaction. Again changes nothing."""
    decision, _ = decide(broker, session, policy)
    now = broker.clock.now()
    kept = session.get(BurstRow, 1)
    if kept is None:
        kept = BurstRow(id=1, open=False, since=now, close_holds_since=None, reason="")
        session.add(kept)
    if decision.changed:
        word = "opened" if decision.state.open else "closed"
        event.record(broker, session, f"policy.{word}", "policy", decision.reason)
        kept.since = now
    kept.open, kept.reason, kept.close_holds_since = _kept(decision)
    return decision


def _kept(decision: BurstDecision) -> tuple[bool, str, datetime | None]:
    """Whether the burst is open, why, and since when the conditions to close it hold."""
    holds = decision.state.close_holds_since
    since = datetime.fromtimestamp(holds, UTC) if holds is not None else None
    return decision.state.open, decision.reason, since


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


def _word(policy: Policy | None, state: burst.BurstState) -> str:
    if policy is None or policy.burst is None:
        return BurstWord.OFF
    return BurstWord.OPEN if state.open else BurstWord.CLOSED


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


class WatchedFile:
    """What this process knows of the policy file that it watches: its text, and what is wrong with it."""

    def __init__(self, _broker: Broker) -> None:
        self.text = self.problem = ""


def reload_file(broker: Broker) -> None:
    """Apply the watched policy file when it changed; a bad file never replaces a good policy."""
    if not broker.settings.policy_file:
        return
    watched = broker.part(WatchedFile)
    path = Path(broker.settings.policy_file)
    try:
        text = path.read_text()
    except OSError as error:
        text = None
        problem = f"{path}: {error.strerror}"
    if text is not None:
        if text == watched.text:
            return
        with broker.store.reading() as session:
            newest = session.scalar(select(PolicyRow.text).order_by(PolicyRow.version.desc()).limit(1))
            known = (
                session.scalar(select(PolicyRow.version).where(PolicyRow.text == text).limit(1)) is not None
            )
        before, watched.text = watched.text, text
        # After a restart a file that was applied once is no news: what was applied over it since stays in force.
        if newest == text or (known and not before):
            return
        try:
            apply(broker, SYSTEM, text, path.name)
            watched.problem = ""
            return
        except BrokerError as error:
            # Tried again at each tick, because the mistake may be mended elsewhere: by adding the site it names.
            problem = str(error)
            watched.text = before
    if problem == watched.problem:
        return
    watched.problem = problem
    with broker.store.transaction() as session:
        event.record(broker, session, "policy.rejected", "policy", problem)
