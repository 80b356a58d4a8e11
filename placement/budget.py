"""The budget of what runs in clouds: what was spent, what is bound to be, and who may still come.

Pure: charges and a time in, money out. Times are seconds since the epoch, prices are per hour in the policy's currency,
months are calendar months in UTC.

The hard limit of a month is never passed, and this is why. A VM that is told to leave is gone after at most ``grace_s``;
the next look at the budget is at most ``tick_s`` away. So at each moment the ledger knows what the month will have cost
when all that runs goes on to the next look and leaves only then: what is ``bound``. Nobody is let in, and nobody may
stay, with whom that would be more than the limit. Prices that change count with the highest they may reach.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from placement.column import Bools, Floats
from placement.policy import Budget

HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Charge:
    """A VM's stay in a cloud. ``price_hour`` is the highest that it can cost; ``ended`` is None while it runs."""

    vm_id: str
    project: str
    price_hour: float
    started: float
    ended: float | None = None

    def cost(self, start: float, end: float, until: float, billing_s: float | None) -> float:
        """What of it belongs to the time from ``start`` to ``end`` when it runs to ``until`` (or did to its end).

        With ``billing_s`` each period that has begun is paid for as a whole, in the month in which it began.
        """
        last = until if self.ended is None else min(self.ended, until)
        if billing_s is None:
            return self.price_hour * max(0.0, min(last, end) - max(self.started, start)) / HOUR_S
        # The periods that begin within both: the first one begins with the VM, however short it is.
        low = 0 if self.started >= start else math.ceil((start - self.started) / billing_s)
        stop = min(last, end)
        high = math.ceil((stop - self.started) / billing_s)
        if self.started < end and last <= self.started:
            high = max(high, 1)
        return self.price_hour * max(0, high - low) * billing_s / HOUR_S


@dataclass(frozen=True, slots=True)
class Account:
    """A month's money of all projects or of one. ``bound``: what the month has cost when all leave as soon as they can;
    ``forecast``: when all stay to its end. ``rate`` is per hour."""

    spent: float
    bound: float
    forecast: float
    rate: float


class Settled:
    """What has ended, summed: it costs the same whoever asks, and whenever."""

    def __init__(self, billing_s: float | None) -> None:
        self._billing_s = billing_s
        self._sums: dict[float, dict[str | None, float]] = {}

    def add(self, charge: Charge) -> None:
        """Add a stay that has ended."""
        assert charge.ended is not None  # noqa: S101 - of whom it is said
        first, following = month_of(charge.started)
        while True:
            cost = charge.cost(first, following, charge.ended, self._billing_s)
            sums = self._sums.setdefault(first, {})
            for project in (None, charge.project):
                sums[project] = sums.get(project, 0.0) + cost
            if following >= charge.ended:
                return
            first, following = month_of(following)

    def of(self, month: float) -> Mapping[str | None, float]:
        """Project -> what its stays cost in the month that begins then; None for all of them."""
        return self._sums.get(month, {})


class Ledger:
    """The charges of a month, as of ``now``. ``settled``: of those that ended, what ``charges`` leaves out.

    ``tick_s``: how far away the next look at the budget is at most; ``grace_s``: how long a VM may take to leave.
    """

    def __init__(
        self,
        budget: Budget,
        charges: Iterable[Charge],
        now: float,
        *,
        billing_s: float | None = None,
        tick_s: float = 60.0,
        grace_s: float = 600.0,
        settled: Settled | None = None,
    ) -> None:
        self.budget = budget
        self.charges: list[Charge] = []
        """Of those that run."""
        self.now = now
        self.billing_s = billing_s
        self.horizon = now + tick_s + grace_s
        self._leaves_by = now + grace_s
        self._months = [month_of(now)]
        if self.horizon >= self._months[0][1]:
            self._months.append(month_of(self.horizon))
        # What has ended costs the same whoever asks: (project, month) -> its sum.
        sums = Settled(billing_s)
        for charge in charges:
            if charge.ended is None:
                self.charges.append(charge)
            else:
                sums.add(charge)
        self._settled: dict[tuple[str | None, int], float] = {}
        for known in (sums, settled) if settled is not None else (sums,):
            for index, (first, _) in enumerate(self._months):
                for project, cost in known.of(first).items():
                    self._settled[project, index] = self._settled.get((project, index), 0.0) + cost
        self._accounts: dict[str | None, Account] = {}
        self._later: dict[str | None, float] = {}

    def account(self, project: str | None = None) -> Account:
        """The money of this month, of all or of one project."""
        found = self._accounts.get(project)
        if found is None:
            start, end = self._months[0]
            live, settled = self._of(project), self._settled.get((project, 0), 0.0)

            def until(time: float) -> float:
                return settled + sum(charge.cost(start, end, time, self.billing_s) for charge in live)

            found = self._accounts[project] = Account(
                spent=until(self.now),
                bound=until(self.horizon),
                forecast=until(end),
                rate=sum(charge.price_hour for charge in live),
            )
            self._later[project] = 0.0
            if len(self._months) > 1:
                self._later[project] = self._settled.get((project, 1), 0.0) + sum(
                    charge.cost(*self._months[1], self.horizon, self.billing_s) for charge in live
                )
        return found

    def bought(self, charge: Charge) -> None:
        """Count one more."""
        self.charges.append(charge)
        self._accounts.clear()

    def refusal(self, project: str, prices: Floats, *, urgent: bool) -> list[tuple[Bools, str]]:
        """For VMs of these prices: (where the limit is passed, as a mask; why), one for each limit that there is.

        ``urgent``: it may pass the soft limits.
        """
        found: list[tuple[Bools, str]] = []
        everybody, own = self.account(), self.account(project)
        hourly, monthly = self.budget.hourly, self.budget.monthly
        money = self.budget.currency
        for name, cap in (("soft", hourly.soft), ("hard", hourly.hard)):
            if cap is not None and not (urgent and name == "soft"):
                why = f"budget.hourly: {everybody.rate:.2f} of {cap:g} {money} an hour are in use"
                found.append((everybody.rate + prices > cap + _DUST, why))
        coming = prices * self._new_hours(0)
        for name, cap in (("soft", monthly.soft), ("hard", monthly.hard)):
            if cap is not None and not (urgent and name == "soft"):
                why = f"budget.monthly.{name}: {everybody.bound:.2f} of {cap:g} {money} are spent or bound"
                found.append((everybody.bound + coming > cap + _DUST, why))
        own_cap = self.budget.project_cap(project)
        if own_cap is not None:
            why = (
                f"budget.monthly.per_project: {own.bound:.2f} of the {own_cap:g} {money} of project {project} "
                "are spent or bound"
            )
            found.append((own.bound + coming > own_cap + _DUST, why))
        if len(self._months) > 1:
            later = prices * self._new_hours(1)
            for cap, bound in ((monthly.hard, self._later[None]), (own_cap, self._later[project])):
                if cap is not None:
                    found.append(
                        (bound + later > cap + _DUST, "the budget of the month that begins soon is bound")
                    )
        return found

    def leavers(self) -> list[tuple[str, str]]:
        """(VM id, why) of those that have to leave now so that no hard limit is passed. Most expensive first."""
        staying = {charge.vm_id: charge for charge in self.charges}
        going: dict[str, str] = {}
        limits: list[tuple[str | None, float, str]] = []
        if self.budget.monthly.hard is not None:
            limits.append((None, self.budget.monthly.hard, "budget.monthly.hard"))
        for project in dict.fromkeys(charge.project for charge in staying.values()):
            cap = self.budget.project_cap(project)
            if cap is not None:
                limits.append((project, cap, f"budget.monthly.per_project of {project}"))
        for whose, cap, name in limits:
            for index, month in enumerate(self._months):
                charges = self._of(whose)
                bound = self._settled.get((whose, index), 0.0)
                bound += sum(self._bound(charge, month, charge.vm_id in going) for charge in charges)
                if bound <= cap + _DUST:
                    continue
                dear = sorted(
                    (charge for charge in charges if charge.vm_id not in going),
                    key=lambda charge: (-charge.price_hour, charge.started, charge.vm_id),
                )
                for charge in dear:
                    if bound <= cap + _DUST:
                        break
                    bound -= self._bound(charge, month, False) - self._bound(charge, month, True)
                    words = (
                        "is nearly spent" if index == 0 else "of the month that begins soon is nearly spent"
                    )
                    going[charge.vm_id] = f"{name} of {cap:g} {self.budget.currency} {words}"
        hard = self.budget.hourly.hard
        if hard is not None:
            rate = sum(charge.price_hour for charge in staying.values() if charge.vm_id not in going)
            for charge in sorted(staying.values(), key=lambda charge: (-charge.price_hour, charge.vm_id)):
                if rate <= hard + _DUST:
                    break
                if charge.vm_id not in going:
                    rate -= charge.price_hour
                    going[charge.vm_id] = f"budget.hourly.hard of {hard:g} {self.budget.currency} is passed"
        return list(going.items())

    def _bound(self, charge: Charge, month: tuple[float, float], leaves: bool) -> float:
        return charge.cost(*month, self._leaves_by if leaves else self.horizon, self.billing_s)

    def _of(self, project: str | None) -> Sequence[Charge]:
        if project is None:
            return self.charges
        return [charge for charge in self.charges if charge.project == project]

    def _new_hours(self, month: int) -> float:
        """For how many hours of a month a VM is paid that comes now and leaves as soon as it can."""
        return Charge("", "", 1.0, self.now).cost(*self._months[month], self.horizon, self.billing_s)


_DUST = 1e-9
"""Sums of floats that are equal on paper may differ by so much."""


def month_of(now: float) -> tuple[float, float]:
    """The first moment of the calendar month (UTC) that ``now`` is in, and that of the next one."""
    moment = datetime.fromtimestamp(now, UTC)
    start = datetime(moment.year, moment.month, 1, tzinfo=UTC)
    following = datetime(moment.year + moment.month // 12, moment.month % 12 + 1, 1, tzinfo=UTC)
    return start.timestamp(), following.timestamp()


def words(ledger: Ledger) -> str:
    """The state of the budget in one line."""
    budget, account = ledger.budget, ledger.account()
    limit = "" if budget.monthly.hard is None else f" of {budget.monthly.hard:g}"
    return (
        f"{account.spent:.2f}{limit} {budget.currency} spent this month, {account.rate:.2f} an hour,"
        f" {account.forecast:.2f} by its end"
    )
