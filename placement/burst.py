"""Burst decisions: when the policy opens and closes, which VM may go, which one comes back.

Pure: state, metrics and time in; decision out. Times are seconds on one clock of the caller's (seconds since
the epoch); prices are per hour in the policy's currency.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from placement.language import Expression
from placement.policy import Burst, Condition, Policy, show_duration
from placement.pool import Waiting
from placement.table import HostTable
from placement.value import show, truth_of

BOUNDARY_MARGIN_S = 300.0
"""How long before a billing boundary a VM leaves: time enough to drain it (at most a quarter of the period)."""


@dataclass(frozen=True, slots=True)
class BurstState:
    """``since`` is when it last opened or closed; ``close_holds_since``: from when on ``close`` held without a break."""

    open: bool
    since: float
    close_holds_since: float | None = None


@dataclass(frozen=True, slots=True)
class ClauseValue:
    """One condition now. ``holds`` is None when it is undefined; ``value`` is its left side, None when no number."""

    text: str
    holds: bool | None
    value: float | None

    def __str__(self) -> str:
        return f"{self.text} (now {show(self.value)})"


@dataclass(frozen=True, slots=True)
class BurstDecision:
    """The state from now on, and why."""

    state: BurstState
    changed: bool
    reason: str
    open_clauses: tuple[ClauseValue, ...] = ()
    close_clauses: tuple[ClauseValue, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a VM may go to a site, and why not."""

    ok: bool
    reason: str


@dataclass(frozen=True, slots=True)
class BurstVM:
    """A VM in a cloud. ``launched_at`` in seconds, None while it has not started; ``price_hour`` None if unknown."""

    id: str
    launched_at: float | None
    vcpus: float
    price_hour: float | None = None


@dataclass(frozen=True, slots=True)
class Leaver:
    """A burst VM whose time has come. ``drain``: shut it down and remove it; ``recreate``: the same, and make it
    anew on a local host."""

    id: str
    how: Literal["drain", "recreate"]
    reason: str


class Gate:
    """What may burst in one round: the policy with what is in clouds, this round's own decisions included."""

    def __init__(self, policy: Policy, state: BurstState, usage: Mapping[str, float]) -> None:
        self.policy = policy
        self.state = state
        self.usage = dict(usage)

    def refusals(self, waiting: Waiting, table: HostTable) -> NDArray[np.object_]:
        """Per host why the VM may not burst there, or None; of no meaning for hosts that are not elastic."""
        found: NDArray[np.object_] = np.full(len(table), None, dtype=np.object_)
        if waiting.local_only:
            found[:] = "the VM has come home and stays"
            return found
        sites = table.column("site")
        if sites is None or sites.codes is None:
            return found
        for code, site in enumerate(sites.values):
            verdict = may_burst(self.policy, self.state, waiting.request.attributes, self.usage, str(site))
            if not verdict.ok:
                found[sites.codes == code] = verdict.reason
        return found

    def take(self, waiting: Waiting, table: HostTable, host: int) -> None:
        """Count a VM that was placed on an elastic host: the policy's limits hold within a round too."""
        self.usage["vms"] = self.usage.get("vms", 0.0) + 1.0
        self.usage["vcpus"] = self.usage.get("vcpus", 0.0) + waiting.request.cpu


def decide(policy: Policy, state: BurstState, metrics: Mapping[str, float], now: float) -> BurstDecision:
    """Open, close or stay.

    A closed policy opens as soon as ``open`` holds. An open one closes when ``close`` has held, and ``open`` has
    not, without a break for ``for``. An undefined condition does not hold. Never does one call do both.
    """
    burst = policy.burst
    if burst is None:
        since = now if state.open else state.since
        return BurstDecision(BurstState(False, since), state.open, "the policy has no burst part")
    opening, closing = _clauses(burst.open, metrics), _clauses(burst.close, metrics)
    opens, closes = _holds(burst.open, opening), _holds(burst.close, closing)

    def decision(state: BurstState, changed: bool, reason: str) -> BurstDecision:
        return BurstDecision(state, changed, reason, opening, closing)

    if not state.open:
        if opens:
            return decision(BurstState(True, now), True, f"opened: {_words(burst.open, opening)}")
        quiet = replace(state, close_holds_since=None)
        return decision(quiet, False, f"closed: {_missing(burst.open, opening)}")
    if opens:
        return decision(replace(state, close_holds_since=None), False, f"open: {_words(burst.open, opening)}")
    if not closes:
        reason = f"open: not yet closed, {_missing(burst.close, closing)}"
        return decision(replace(state, close_holds_since=None), False, reason)
    # A clock that was set back must not make the wait longer than it is: start anew at worst.
    since = now if state.close_holds_since is None else min(state.close_holds_since, now)
    held = now - since
    if held >= burst.close.for_s:
        for_words = f" for {show_duration(held)}" if burst.close.for_s else ""
        return decision(
            BurstState(False, now), True, f"closed: {_words(burst.close, closing)} held{for_words}"
        )
    waiting = f"{show_duration(held)} of {show_duration(burst.close.for_s)}"
    reason = f"open: closes soon, {_words(burst.close, closing)} since {waiting}"
    return decision(replace(state, close_holds_since=since), False, reason)


def may_burst(
    policy: Policy,
    state: BurstState,
    vm_attributes: Mapping[str, Any],
    usage: Mapping[str, float],
    site: str,
) -> Verdict:
    """Whether a VM may start at a cloud site now.

    ``usage`` counts what is in clouds already: ``vms`` and ``vcpus``. The VM's own ``vcpus`` are read from
    ``vm_attributes``.
    """
    burst = policy.burst
    if burst is None:
        return Verdict(False, "the policy has no burst part")
    if site not in burst.to:
        return Verdict(False, f'site "{site}" is not in burst.to ({", ".join(burst.to)})')
    if burst.never is not None and truth_of(burst.never.interpret({"site": site}, vm_attributes)):
        return Verdict(False, f"burst.never holds: {burst.never.text}")
    if not state.open:
        return Verdict(False, "the burst policy is closed")
    coming = {"vms": 1.0, "vcpus": float(vm_attributes.get("vcpus") or 0.0)}
    for name, limit in (("vms", burst.limits.vms), ("vcpus", burst.limits.vcpus)):
        used = usage.get(name, 0.0)
        if limit is not None and used + coming[name] > limit:
            reason = f"burst.limits.{name} is {limit}: {used:g} in use, {coming[name]:g} more asked for"
            return Verdict(False, reason)
    return Verdict(True, "the burst policy is open")


def leavers(
    policy: Policy,
    state: BurstState,
    burst_vms: Sequence[BurstVM],
    now: float,
    room: float = math.inf,
) -> list[Leaver]:
    """Which burst VMs leave now: none while the policy is open or ``return`` is ``never``, and none before its dwell
    is over. Most expensive first, then oldest.

    ``room`` is the free local vCPUs: ``recreate`` brings back no more than fit. With ``billing_boundary`` a VM
    leaves only in the last part of a period that is paid for anyway.
    """
    burst = policy.burst
    if burst is None or state.open or burst.returns == "never":
        return []
    due = [vm for vm in burst_vms if vm.launched_at is not None and _due(burst, now - vm.launched_at)]
    due.sort(key=lambda vm: (-(vm.price_hour or 0.0), vm.launched_at, vm.id))
    found = []
    for vm in due:
        age = now - (vm.launched_at or 0.0)
        reason = f"the burst is closed and the VM stayed {show_duration(age)}"
        if burst.dwell_s:
            reason += f", its dwell of {show_duration(burst.dwell_s)} is over"
        if burst.returns == "drain":
            found.append(Leaver(vm.id, "drain", reason))
        elif vm.vcpus <= room:
            room -= vm.vcpus
            found.append(Leaver(vm.id, "recreate", f"{reason}, and {vm.vcpus:g} local vCPUs are free for it"))
    return found


def _due(burst: Burst, age: float) -> bool:
    if age < burst.dwell_s:
        return False
    period = burst.billing_boundary_s
    if period is None:
        return True
    return period - age % period <= min(BOUNDARY_MARGIN_S, period / 4)


def _clauses(condition: Condition, metrics: Mapping[str, float]) -> tuple[ClauseValue, ...]:
    return tuple(_clause(clause, metrics) for clause in condition.clauses)


def _clause(clause: Expression, metrics: Mapping[str, float]) -> ClauseValue:
    value = (clause.left or clause).interpret(metrics, {})
    holds = truth_of(clause.interpret(metrics, {}))
    return ClauseValue(clause.text, holds, value if isinstance(value, float) else None)


def _holds(condition: Condition, clauses: Sequence[ClauseValue]) -> bool:
    holding = (clause.holds is True for clause in clauses)
    return any(holding) if condition.mode == "any" else all(holding)


def _words(condition: Condition, clauses: Sequence[ClauseValue]) -> str:
    return " and ".join(str(clause) for clause in clauses if clause.holds or condition.mode == "all")


def _missing(condition: Condition, clauses: Sequence[ClauseValue]) -> str:
    unmet = " and ".join(str(clause) for clause in clauses if not clause.holds)
    return f"waits for {'one of ' if condition.mode == 'any' and len(clauses) > 1 else ''}{unmet}"
