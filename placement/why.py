"""Why a VM is where it is, or nowhere: which term refused which hosts, who came closest, what would help.

The terms are the VM's capacity needs, the conjuncts of its requirement, and whatever the caller ruled out
(``eligible`` with reasons: a host that is unreachable, a policy that is closed). Each is counted for itself, so
that a host refused by three terms counts in all three.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from placement import tree
from placement.column import Bools, Floats
from placement.language import Expression, parse
from placement.node import Scope
from placement.program import Indices, Rows
from placement.request import Decision, Request
from placement.size import LIMITS, TOTALS, amounts
from placement.table import HostTable
from placement.value import Value, show

Counts = NDArray[np.int64]

UNITS = {
    "cpu_free": "cores",
    "mem_free_mb": "MiB of memory",
    "disk_free_gb": "GiB of disk",
    "gpu_free": "GPUs",
    "dedicated_cpu_free": "dedicated CPUs",
    "hugepages_free_mb": "MiB in huge pages",
}


@dataclass(frozen=True, slots=True)
class Term:
    """One condition and how many of the site's hosts it refused, ``undefined`` of them for want of an attribute."""

    text: str
    refused: int
    undefined: int = 0


@dataclass(frozen=True, slots=True)
class NearestMiss:
    """The host that came closest: the fewest terms refuse it. ``lacks`` says each in words."""

    host: int
    name: str
    lacks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SiteExplanation:
    """What became of one site's hosts. ``terms`` leaves out those that refused none of them."""

    site: str
    hosts: int
    feasible: int
    terms: tuple[Term, ...]
    nearest: NearestMiss | None
    verdict: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """The whole answer. ``admit`` is the smallest change that would admit a host, empty when one is feasible."""

    request_id: str
    hosts: int
    feasible: int
    summary: str
    sites: tuple[SiteExplanation, ...]
    admit: str


def explain(
    table: HostTable,
    request: Request,
    *,
    eligible: Bools | None = None,
    reasons: Sequence[str | None] | None = None,
    decision: Decision | None = None,
) -> Explanation:
    """Explain a request against the hosts as they are in ``table`` (before it was placed, when it was).

    ``eligible`` and ``reasons``: which hosts were not looked at, and why, one entry per host. ``decision`` lets the
    summary name the winner. Sites are the values of the column ``site``. Raises ExpressionError.
    """
    return Explainer(table).explain(request, eligible=eligible, reasons=reasons, decision=decision)


class Explainer:
    """Explains many requests against one table that does not change meanwhile; what they share is looked at once."""

    def __init__(self, table: HostTable) -> None:
        self._table = table
        self._sites = sorted(_sites(table).items())
        self._nowhere = np.zeros(len(table), dtype=np.bool_)
        self._scratch = (np.empty(len(table)), np.empty(len(table)))
        self._capacities: dict[tuple[str, float], list[_Test]] = {}
        self._conjuncts: dict[str, list[_Test]] = {}
        self._known: dict[object, Explanation] = {}

    def explain(
        self,
        request: Request,
        *,
        eligible: Bools | None = None,
        reasons: Sequence[str | None] | None = None,
        decision: Decision | None = None,
    ) -> Explanation:
        """As the function ``explain``."""
        plain = eligible is None and (decision is None or decision.host is None)
        key = (request.requirement, amounts(request))
        known = self._known.get(key) if plain else None
        if known is None:
            expression = parse(request.requirement) if request.requirement else None
            known = self._explain(request, expression, eligible, reasons, decision)
            if plain and (expression is None or not expression.vm_names):
                self._known[key] = known
            return known
        return Explanation(request.id, known.hosts, known.feasible, known.summary, known.sites, known.admit)

    def _explain(
        self,
        request: Request,
        expression: Expression | None,
        eligible: Bools | None,
        reasons: Sequence[str | None] | None,
        decision: Decision | None,
    ) -> Explanation:
        table = self._table
        tests = self._tests(request, expression, eligible, reasons)
        refusals = np.zeros(len(table), dtype=np.int64)
        for test in tests:
            refusals += test.refused
        feasible = refusals == 0
        sought = _Sought(table, request, tests, refusals, self._scratch)
        explained = tuple(_site(sought, name, rows, feasible) for name, rows in self._sites)
        admit = "" if feasible.any() or not len(table) else _admit(sought)
        summary = _summary(table, tests, feasible, decision)
        return Explanation(request.id, len(table), int(feasible.sum()), summary, explained, admit)

    def _tests(
        self,
        request: Request,
        expression: Expression | None,
        eligible: Bools | None,
        reasons: Sequence[str | None] | None,
    ) -> list[_Test]:
        tests = []
        if eligible is not None:
            ruled_out: dict[str, list[int]] = {}
            for index in np.flatnonzero(~eligible).tolist():
                ruled_out.setdefault((reasons[index] if reasons else None) or "not eligible", []).append(
                    index
                )
            for text, indices in ruled_out.items():
                refused = self._nowhere.copy()
                refused[indices] = True
                tests.append(_Test(text, refused, self._nowhere))
        for name, amount in request.needs():
            if amount > 0:
                found = self._capacities.get((name, amount))
                if found is None:
                    found = self._capacities[name, amount] = self._capacity(name, amount)
                tests += found
        for term in expression.conjuncts() if expression is not None else ():
            known = None if term.vm_names else self._conjuncts.get(term.text)
            if known is None:
                known = [self._conjunct(term, request)]
                if not term.vm_names:
                    self._conjuncts[term.text] = known
            tests += known
        return tests

    def _capacity(self, name: str, amount: float) -> list[_Test]:
        table = self._table
        numbers = table.numbers(name)
        if numbers is None:
            numbers = np.full(len(table), np.nan)
        found = [
            _Test(
                f"{name} >= {amount:g}", ~(numbers >= amount), np.isnan(numbers), capacity=name, amount=amount
            )
        ]
        limit = table.numbers(LIMITS[name]) if name in LIMITS else None
        if limit is not None:
            text = f"{LIMITS[name]} >= {amount:g}"
            found.append(_Test(text, limit < amount, self._nowhere, capacity=LIMITS[name], amount=amount))
        return found

    def _conjunct(self, term: Expression, request: Request) -> _Test:
        true = term.truth(self._table, request.attributes)
        undefined = term.undefined(self._table, request.attributes)
        return _Test(term.text, ~true, undefined, expression=term)


class _Test:
    """A term over all hosts: a capacity that is needed, a conjunct of the requirement, or the caller's own reason.

    What is computed of it is kept, for the next request that has the same term.
    """

    def __init__(
        self,
        text: str,
        refused: Bools,
        undefined: Bools,
        *,
        capacity: str = "",
        amount: float = 0.0,
        expression: Expression | None = None,
    ) -> None:
        self.text = text
        self.refused = refused
        self.undefined = undefined
        self.capacity = capacity
        self.amount = amount
        self.expression = expression
        self.attributes = tuple(sorted(expression.host_names)) if expression is not None else ()
        self._terms: dict[str, Term] = {}
        self._shortfall: Shortfalls | None = None

    @cached_property
    def count(self) -> int:
        """How many hosts it refuses."""
        return int(np.count_nonzero(self.refused))

    def term(self, site: str, rows: Bools) -> Term:
        """What it did on these hosts, which are those of the site."""
        found = self._terms.get(site)
        if found is None:
            refused = self.refused & rows
            undefined = int(np.count_nonzero(self.undefined & refused))
            found = self._terms[site] = Term(self.text, int(np.count_nonzero(refused)), undefined)
        return found

    def shortfall(self, table: HostTable, vm: Mapping[str, Any], scratch: Scratch) -> Shortfalls:
        """How far off each host is that it refuses: relative to what is needed, 1 for a term without numbers, more
        than 1 for a host that is too small even when empty."""
        if self._shortfall is None:
            self._distance(table, vm, scratch)
            self._shortfall = np.multiply(scratch[0], self.refused, dtype=np.float32, casting="same_kind")
        return self._shortfall

    def _distance(self, table: HostTable, vm: Mapping[str, Any], scratch: Scratch) -> None:
        """How far off each host is, written to the first of ``scratch``."""
        distance, size = scratch
        distance[:] = 1.0
        if self.capacity:
            numbers = table.numbers(self.capacity)
            if numbers is not None:
                np.subtract(self.amount, numbers, out=distance)
                _relative(distance, self.amount)
            whole = table.numbers(TOTALS.get(self.capacity, ""))
            if whole is not None:
                distance += whole < self.amount  # no freeing of capacity would do
        elif self.expression is not None and len(self.expression.terms) == 1:
            (term,) = self.expression.terms
            root = term.shape.root
            if isinstance(root, tree.Compare):
                scope = term.scope(table, vm)
                left, right = (side.numbers(scope) for side in root.children)
                with np.errstate(all="ignore"):
                    np.subtract(left, right, out=distance)
                    np.abs(left, out=size)
                    np.maximum(size, np.abs(right), out=size)
                _relative(distance, size)


Scratch = tuple[Floats, Floats]
"""Room to compute in: to ask for fresh memory takes longer than what is computed."""

Shortfalls = NDArray[np.float32]


class _Sought:
    """A request with its tests, and how many of them refuse each host."""

    def __init__(
        self, table: HostTable, request: Request, tests: Sequence[_Test], refusals: Counts, scratch: Scratch
    ) -> None:
        self.table, self.request, self.tests, self.refusals = table, request, tests, refusals
        self._scratch = scratch

    def nearest(self, rows: Indices) -> int:
        """Which of these hosts is the least off in all, the first of equals."""
        if rows.size == 1:
            return rows.item(0)
        total = np.zeros(rows.size, dtype=np.float32)
        for test in self.tests:
            total += test.shortfall(self.table, self.request.attributes, self._scratch).take(rows)
        return rows.item(int(total.argmin()))


def _sites(table: HostTable) -> dict[str, Bools]:
    """The hosts of each site."""
    column = table.column("site")
    nowhere = np.ones(len(table), dtype=np.bool_)
    sites: dict[str, Bools] = {}
    if column is not None and column.codes is not None:
        for code, name in enumerate(column.values):
            if isinstance(name, str):
                sites[name] = column.codes == code
                nowhere &= ~sites[name]
    return {**sites, "(no site)": nowhere} if nowhere.any() else sites


def _site(sought: _Sought, name: str, rows: Bools, feasible: Bools) -> SiteExplanation:
    hosts, fit = int(np.count_nonzero(rows)), int(np.count_nonzero(feasible & rows))
    terms = [term for test in sought.tests if (term := test.term(name, rows)).refused]
    nearest = None if fit else _nearest(sought, np.where(rows, sought.refusals, _NEVER))
    return SiteExplanation(name, hosts, fit, tuple(terms), nearest, _verdict(hosts, fit, terms, nearest))


_NEVER = np.iinfo(np.int64).max


def _nearest(sought: _Sought, refusals: Counts) -> NearestMiss | None:
    """The host with the fewest refusals, then the smallest shortfall, then the lowest index."""
    fewest = refusals.min()
    if fewest == 0:
        return None
    near = np.flatnonzero(refusals == fewest)
    index = sought.nearest(near)
    lacks = tuple(_lack(sought.table, test, index) for test in sought.tests if test.refused[index])
    return NearestMiss(index, _name(sought.table, index), lacks)


def _relative(difference: Floats, whole: Floats | float) -> None:
    """Make it a fraction, at most 1; 1 where it is not known."""
    with np.errstate(all="ignore"):
        np.abs(difference, out=difference)
        np.divide(difference, whole, out=difference)
        np.fmin(difference, 1.0, out=difference)  # fmin takes the other one for NaN


def _lack(table: HostTable, test: _Test, index: int) -> str:
    if test.capacity:
        has = table.value(index, test.capacity)
        if has is None:
            return f"{test.text} ({test.capacity} is undefined: the site does not report it)"
        return f"{test.text} ({test.capacity} is {show(has)})"
    if test.expression is None:
        return test.text
    values = [f"{name} is {_brief(table.value(index, name))}" for name in test.attributes]
    return f"{test.text} ({', '.join(values)})" if values else test.text


def _brief(value: Value) -> str:
    if isinstance(value, tuple) and len(value) > 6:
        return f"a list of {len(value)}"
    return show(value)


def _verdict(hosts: int, fit: int, terms: Sequence[Term], nearest: NearestMiss | None) -> str:
    if fit:
        return f"{fit} of {_hosts(hosts)} could take it"
    for term in terms:
        if term.undefined == hosts:
            return f"no host is known to satisfy {term.text}: what it asks for is undefined on all {hosts}"
    whole = [term.text for term in terms if term.refused == hosts]
    if whole:
        return f"{_hosts(hosts)} refused: {' and '.join(whole)}"
    lacks = "; ".join(nearest.lacks) if nearest else ""
    return f"no host satisfies all terms at once; nearest is {nearest.name if nearest else '?'}: {lacks}"


def _admit(sought: _Sought) -> str:
    """The smallest change. One term if one is enough for some host, else all that the nearest host lacks."""
    single = np.flatnonzero(sought.refusals == 1)
    if single.size:
        index = sought.nearest(single)
        test = next(test for test in sought.tests if test.refused[index])
        others = int(np.count_nonzero(test.refused[single]))
        return _change(sought.table, sought.request, test, index, others)
    nearest = _nearest(sought, sought.refusals)
    if nearest is None:
        return ""
    return f"no single change is enough; {nearest.name} lacks " + " and ".join(nearest.lacks)


def _change(table: HostTable, request: Request, test: _Test, index: int, hosts: int) -> str:
    host = _name(table, index)
    has = table.value(index, test.capacity) if test.capacity else None
    if test.capacity and isinstance(has, float):
        if test.capacity in LIMITS.values():
            return f"ask for at most {has:g} instead of {test.amount:g} ({test.capacity} of {host})"
        unit = UNITS[test.capacity]
        total = table.value(index, TOTALS.get(test.capacity, ""))
        if isinstance(total, float) and total < test.amount:
            ask = f"ask for at most {has:g} {unit}, or " if has > 0 else ""
            return f"{ask}add a host with at least {test.amount:g} {unit}: {host} has {total:g} in all"
        if test.amount - has == 1:
            unit = unit.removesuffix("s")
        ask = f", or ask for at most {has:g}" if has > 0 else ""
        return f"free {test.amount - has:g} {unit} on {host}{ask}"
    if test.capacity:
        return f"have the site of {host} report {test.capacity}"
    if test.expression is None:
        return f"{host} would take it, were it not for: {test.text}"
    threshold = _threshold(table, test.expression, request, index)
    if threshold:
        return f"write {threshold} instead of {test.text}: that admits {host}"
    return f"drop {test.text}: that admits {_hosts(hosts)}, {host} among them"


_COMPARISON = re.compile(
    r"\s*(?P<left>[^<>=!&|?~]*[^<>=!&|?~\s])\s*(?P<operator>[<>]=?)\s*-?[\d.][\w.+-]*\s*"
)
"""A comparison of an arithmetic expression with a number."""


def _threshold(table: HostTable, term: Expression, request: Request, index: int) -> str:
    """A numeric comparison with a constant, moved just so far that this host satisfies it; empty if it is none."""
    written = _COMPARISON.fullmatch(term.text)
    (only,) = term.terms if len(term.terms) == 1 else (None,)
    if written is None or only is None or not isinstance(only.shape.root, tree.Compare):
        return ""
    left, right = only.shape.root.children
    if not isinstance(right, tree.Literal | tree.Constant):
        return ""
    host = Rows(table, np.array([index]))
    scope = Scope(host, request.attributes, literals=only.literals, keep=False)
    with np.errstate(all="ignore"):
        found = left.numbers(scope)
    value = float(found if isinstance(found, float) else found[0])
    if value != value:
        return ""
    number = f"{value:.0f}" if value.is_integer() else repr(value)
    return f"{written['left']} {written['operator'][0]}= {number}"


def _summary(table: HostTable, tests: Sequence[_Test], feasible: Bools, decision: Decision | None) -> str:
    hosts = len(table)
    if decision is not None and decision.host is not None:
        text = f"placed on {_name(table, decision.host)}"
        if decision.rank is not None:
            text += f" with rank {decision.rank:.6g}"
        text += f", {int(feasible.sum())} of {_hosts(hosts)} feasible"
        if decision.runner_up is not None:
            text += f"; runner-up {_name(table, decision.runner_up)}"
            if decision.runner_up_rank is not None:
                text += f" with rank {decision.runner_up_rank:.6g}"
        return text
    if not hosts:
        return "there is no host: add a site, or wait for one to answer"
    if feasible.any():
        return f"{int(feasible.sum())} of {_hosts(hosts)} could take it"
    counts = sorted(((test.count, test.text) for test in tests), key=lambda pair: -pair[0])
    worst = ", ".join(f"{text} ({_hosts(count)})" for count, text in counts[:3] if count)
    return f"none of {_hosts(hosts)} can take it: {worst}"


def _name(table: HostTable, index: int) -> str:
    name = table.value(index, "name")
    return name if isinstance(name, str) else f"host {index}"


def _hosts(count: int) -> str:
    return f"{count} host" if count == 1 else f"{count} hosts"
