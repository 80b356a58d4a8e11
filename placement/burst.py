"""Burst decisions: when the policy opens and closes, which VM may go, which one comes back.

Pure: state, metrics and time in; decision out. Times are seconds on one clock of the caller's (seconds since
the epoch); prices are per hour in the policy's currency.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from placement.budget import Charge, Ledger
from placement.column import Bools, Floats
from placement.language import Expression
from placement.policy import Burst, Condition, Policy
from placement.policy.duration import show_duration
from placement.pool import Waiting
from placement.table import HostTable
from placement.value import Value, show, truth_of

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
    mem_mb: float = 0.0

    @property
    def score(self) -> float:
        """What an hour without it saves, over the disruption: what has to be made anew, its memory in GiB."""
        return (self.price_hour or 0.0) / (1.0 + self.mem_mb / 1024)


@dataclass(frozen=True, slots=True)
class Leaver:
    """A burst VM whose time has come. ``drain``: shut it down and remove it; ``recreate``: the same, and make it
    anew on a local host."""

    id: str
    how: Literal["drain", "recreate"]
    reason: str


@dataclass(slots=True)
class CloudUse:
    """What is in clouds. ``projects``: VMs and vCPUs of each; ``launches``: how many were started in the last hour."""

    vms: int = 0
    vcpus: float = 0.0
    launches: int = 0
    projects: dict[str, tuple[int, float]] = field(default_factory=dict)

    def add(self, project: str, vcpus: float) -> None:
        """Count one more."""
        self.vms, self.vcpus, self.launches = self.vms + 1, self.vcpus + vcpus, self.launches + 1
        vms, used = self.projects.get(project, (0, 0.0))
        self.projects[project] = (vms + 1, used + vcpus)


class Gate:
    """What may burst in one round: the policy with what is in clouds, this round's own decisions included.

    ``boot_s``: how long a VM takes from its launch until it works, for deadlines.
    """

    def __init__(
        self,
        policy: Policy,
        state: BurstState,
        use: CloudUse,
        now: float,
        *,
        ledger: Ledger | None = None,
        boot_s: float = 120.0,
    ) -> None:
        self.policy = policy
        self.state = state
        self.use = use
        self.now = now
        self.ledger = ledger
        self.boot_s = boot_s
        self._table: HostTable | None = None
        self._demand: Floats | None = None

    def refusals(self, waiting: Waiting, table: HostTable) -> NDArray[np.object_]:
        """Per host why the VM may not burst there, or None; of no meaning for hosts that are not elastic."""
        found: NDArray[np.object_] = np.full(len(table), None, dtype=np.object_)
        if waiting.local_only:
            found[:] = "the VM has come home and stays"
            return found
        sites = table.column("site")
        if sites is None or sites.codes is None:
            found[:] = "the host is of no site"
            return found
        for code, site in enumerate(sites.values):
            verdict = self.site_verdict(waiting, str(site))
            if not verdict.ok:
                found[sites.codes == code] = verdict.reason
        if (found == None).any():  # noqa: E711 - of each element
            self._prices(waiting, table, found)
        return found

    def site_verdict(self, waiting: Waiting, site: str) -> Verdict:
        """Whether it may go to a site at all, whatever its hosts cost."""
        return may_burst(
            self.policy,
            self.state,
            waiting.request.attributes,
            self.use,
            site,
            project=waiting.project,
            urgent=self.urgent(waiting),
        )

    def urgent(self, waiting: Waiting) -> bool:
        """Whether it misses its deadline unless it starts soon."""
        deadline = self.policy.deadline
        if deadline is None or waiting.deadline is None or waiting.runtime_s is None:
            return False
        latest = waiting.deadline - waiting.runtime_s - self.boot_s
        return latest - deadline.slack_s <= self.now

    def take(self, waiting: Waiting, table: HostTable, host: int) -> None:
        """Count a VM that was placed on an elastic host: limits and budget hold within a round too."""
        self.use.add(waiting.project, waiting.request.cpu)
        price = table.value(host, "price_hour")
        if self.ledger is not None and isinstance(price, float):
            self.ledger.bought(Charge(waiting.request.id, waiting.project, price, self.ledger.now))

    def _prices(self, waiting: Waiting, table: HostTable, found: NDArray[np.object_]) -> None:
        burst, spot = self.policy.burst, self.policy.spot
        prices = table.numbers("price_hour")
        if prices is None:
            prices = np.full(len(table), np.nan)
        unknown = np.isnan(prices)

        def refuse(which: Bools, why: str) -> None:
            if which.any():
                found[which & (found == None)] = why  # noqa: E711 - of each element

        most = burst.max_price_hour if burst is not None else None
        if most is not None:
            refuse(unknown, "burst.max_price_hour: its price is not known")
            refuse(prices > most, f"burst.max_price_hour is {most:g}")
        spots = table.numbers("spot")
        if spots is not None and (spots == 1).any():
            is_spot = spots == 1
            if not spot.use:
                refuse(is_spot, "spot.use is not set")
            elif waiting.interruptions and spot.on_interruption == "fallback":
                refuse(is_spot, "spot.on_interruption is fallback, and the VM was interrupted")
            elif waiting.interruptions >= spot.max_interruptions:
                refuse(is_spot, f"spot.max_interruptions is {spot.max_interruptions}")
            else:
                demand = self._on_demand(table)
                ratio = f"spot.max_price_ratio is {spot.max_price_ratio:g}"
                refuse(is_spot & ~(prices <= spot.max_price_ratio * demand + 1e-12), ratio)
        if self.ledger is not None:
            refuse(unknown, "its price is not known, and the policy has a budget")
            urgent = waiting.priority > 0 or self.urgent(waiting)
            for passed, why in self.ledger.refusal(waiting.project, prices, urgent=urgent):
                refuse(passed, why)

    def _on_demand(self, table: HostTable) -> Floats:
        """For each host the least on-demand price of its instance type at its site; NaN where there is none."""
        if self._demand is None or self._table is not table:
            least: dict[tuple[Value, Value], float] = {}
            for row in range(len(table)):
                price = table.value(row, "price_hour")
                if (
                    table.value(row, "elastic") == 1
                    and table.value(row, "spot") != 1
                    and isinstance(price, float)
                ):
                    key = (table.value(row, "site"), table.value(row, "instance_type"))
                    least[key] = min(price, least.get(key, math.inf))
            self._table = table
            self._demand = np.array(
                [
                    least.get((table.value(row, "site"), table.value(row, "instance_type")), math.nan)
                    for row in range(len(table))
                ]
            )
        return self._demand


@dataclass(frozen=True)
class Waits:
    """How many VMs wait for a host, and how long, in seconds: the 95th percentile, and the one that waits longest."""

    length: int = 0
    p95: float = 0.0
    oldest: float = 0.0

    @classmethod
    def of(cls, waits: Sequence[float]) -> Waits:
        """Of what each has waited."""
        if not waits:
            return cls()
        return cls(len(waits), float(np.percentile(waits, 95)), max(waits))


@dataclass(frozen=True, slots=True)
class Load:
    """What the conditions of a policy are about. ``waits``: of VMs without a host.

    ``vcpus`` and ``mem_mb`` are what the local hosts have, ``*_used`` what of it is held.
    """

    waits: Waits
    vcpus: float
    vcpus_used: float
    mem_mb: float
    mem_used_mb: float
    local_vms: int
    burst_vms: int
    burst_vcpus: float

    def metrics(self) -> dict[str, float]:
        """The values of ``placement.policy.METRICS``."""
        return {
            "queue.length": float(self.waits.length),
            "queue.wait_p95": self.waits.p95,
            "queue.oldest": self.waits.oldest,
            # Without a local host the pool is full, not empty: that is when a burst is wanted most.
            "local.cpu_used": self.vcpus_used / self.vcpus if self.vcpus else 1.0,
            "local.mem_used": self.mem_used_mb / self.mem_mb if self.mem_mb else 1.0,
            "local.vms": float(self.local_vms),
            "burst.vms": float(self.burst_vms),
            "burst.vcpus": float(self.burst_vcpus),
        }


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
    use: CloudUse,
    site: str,
    *,
    project: str = "",
    urgent: bool = False,
) -> Verdict:
    """Whether a VM may start at a cloud site now, its price aside.

    The VM's own ``vcpus`` are read from ``vm_attributes``. ``urgent``: its deadline opens a closed burst for it.
    """
    burst = policy.burst
    if burst is None:
        return Verdict(False, "the policy has no burst part")
    if site not in burst.to:
        return Verdict(False, f'site "{site}" is not in burst.to ({", ".join(burst.to)})')
    if site not in burst.sites_of(project):
        return Verdict(
            False, f"project {project} may burst to {', '.join(burst.sites_of(project)) or 'no site'} only"
        )
    if burst.never is not None and truth_of(burst.never.interpret({"site": site}, vm_attributes)):
        return Verdict(False, f"burst.never holds: {burst.never.text}")
    if not state.open and not urgent:
        return Verdict(False, "the burst policy is closed")
    vcpus = float(vm_attributes.get("vcpus") or 0.0)
    limits = [("burst.limits", burst.limits, use.vms, use.vcpus)]
    own = burst.projects.get(project)
    if own is not None:
        limits.append((f"burst.projects.{project}.limits", own.limits, *use.projects.get(project, (0, 0.0))))
    for name, limit, used_vms, used_vcpus in limits:
        for what, most, used, coming in (
            ("vms", limit.vms, float(used_vms), 1.0),
            ("vcpus", limit.vcpus, used_vcpus, vcpus),
        ):
            if most is not None and used + coming > most:
                return Verdict(False, f"{name}.{what} is {most}: {used:g} in use, {coming:g} more asked for")
    if burst.limits.per_hour is not None and use.launches >= burst.limits.per_hour:
        return Verdict(
            False, f"burst.limits.per_hour is {burst.limits.per_hour}: so many were launched in the last hour"
        )
    return Verdict(True, "its deadline is near" if not state.open else "the burst policy is open")


def leavers(
    policy: Policy,
    state: BurstState,
    burst_vms: Sequence[BurstVM],
    now: float,
    room: float = math.inf,
    ledger: Ledger | None = None,
) -> list[Leaver]:
    """Which burst VMs leave now. Those that the budget no longer carries, whatever else holds; of the others none
    while the policy is open or ``return`` is ``never``, and none before its dwell is over. The highest score first,
    which is what is saved over what is disrupted; then the oldest.

    ``room`` is the free local vCPUs: ``recreate`` brings back no more than fit. With ``billing_boundary`` a VM
    leaves only in the last part of a period that is paid for anyway.
    """
    burst = policy.burst
    broke = dict(ledger.leavers()) if ledger is not None else {}
    forced: list[Leaver] = []
    for vm in burst_vms:
        if vm.id in broke:
            at_home = burst is not None and burst.returns == "recreate" and vm.vcpus <= room
            room -= vm.vcpus if at_home else 0.0
            forced.append(Leaver(vm.id, "recreate" if at_home else "drain", broke[vm.id]))
    if burst is None or state.open or burst.returns == "never":
        return forced
    burst_vms = [vm for vm in burst_vms if vm.id not in broke]
    due = [vm for vm in burst_vms if vm.launched_at is not None and _due(burst, now - vm.launched_at)]
    due.sort(key=lambda vm: (-vm.score, vm.launched_at, vm.id))
    found = forced
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
