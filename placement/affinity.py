"""Who may stand near whom: affinity, anti-affinity and spread over hosts, racks, zones, sites or any attribute.

A group is the VMs of one project whose rules name it. A rule asks something of the *scopes* of its name: the host
itself, or all hosts that have the same value of an attribute. A host without the attribute is in no scope: a hard rule
refuses it, as an undefined attribute refuses a requirement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from placement.column import Bools, Floats
from placement.pool import Resident, Rule, Waiting
from placement.table import HostTable

Reasons = NDArray[np.object_]
Counts = NDArray[np.int64]
Group = tuple[str, str]
"""(project, name)."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a VM's rules say of each host: why a hard one refuses it, or None; and how many soft ones it breaks."""

    reasons: Reasons
    broken: Floats


class Affinity:
    """Who of which group is where, kept as VMs are placed."""

    def __init__(self, table: HostTable, residents: Sequence[Resident] = ()) -> None:
        self._table = table
        self._scopes: dict[str, tuple[Counts, int]] = {}
        self._members: dict[Group, list[tuple[int, Rule]]] = {}
        for resident in residents:
            self._add(resident.project, resident.rules, resident.host)

    def judge(self, waiting: Waiting, eligible: Bools) -> Judgement:
        """What its rules say now. ``eligible``: the hosts that nothing else rules out, over which it is spread."""
        reasons: Reasons = np.full(len(self._table), None, dtype=np.object_)
        broken: Floats = np.zeros(len(self._table))
        for rule in waiting.rules:
            refused, why = self._refused(rule, (waiting.project, rule.group), eligible)
            if rule.hard:
                codes, _ = self._scope(rule.scope)
                _mark(reasons, refused & (codes >= 0), why)
                _mark(reasons, codes < 0, f"{rule.kind}: the host has no {rule.scope}")
            else:
                broken += refused
        for group in dict.fromkeys((waiting.project, rule.group) for rule in waiting.rules):
            self._kept_away(group, reasons, broken)
        return Judgement(reasons, broken)

    def take(self, waiting: Waiting, host: int) -> None:
        """Note that it was placed."""
        self._add(waiting.project, waiting.rules, host)

    def leave(self, project: str, rules: Sequence[Rule], host: int) -> None:
        """Note that a VM of these rules is no longer on a host."""
        for rule in rules:
            self._members[(project, rule.group)].remove((host, rule))

    def _add(self, project: str, rules: Sequence[Rule], host: int) -> None:
        for rule in rules:
            self._members.setdefault((project, rule.group), []).append((host, rule))

    def _scope(self, name: str) -> tuple[Counts, int]:
        """The scope of each host as a number, -1 without one; and how many scopes there are."""
        found = self._scopes.get(name)
        if found is None:
            rows = len(self._table)
            if name == "host":
                codes = np.arange(rows)
            else:
                column = self._table.column(name)
                values = [None if column is None else column.at(row) for row in range(rows)]
                known = {value: code for code, value in enumerate(dict.fromkeys(values)) if value is not None}
                codes = np.array([-1 if value is None else known[value] for value in values], dtype=np.int64)
            found = self._scopes[name] = (codes, int(codes.max(initial=-1)) + 1)
        return found

    def _counts(self, group: Group, scope: str, hosts: Sequence[int]) -> Counts:
        """How many of these hosts' VMs stand in each scope."""
        codes, many = self._scope(scope)
        inside = codes[np.array(hosts, dtype=np.int64)] if hosts else np.zeros(0, dtype=np.int64)
        return np.bincount(inside[inside >= 0], minlength=many)

    def _hosts(self, group: Group) -> list[int]:
        """The host of each VM of a group. One with several rules for it counts once per rule of the first kind it has."""
        members = self._members.get(group, [])
        kinds = {(rule.kind, rule.scope) for _, rule in members}
        if len(kinds) <= 1:
            return [host for host, _ in members]
        most: dict[int, int] = {}
        for kind in kinds:
            each: dict[int, int] = {}
            for host, rule in members:
                if (rule.kind, rule.scope) == kind:
                    each[host] = each.get(host, 0) + 1
            for host, count in each.items():
                most[host] = max(most.get(host, 0), count)
        return [host for host, count in most.items() for _ in range(count)]

    def _refused(self, rule: Rule, group: Group, eligible: Bools) -> tuple[Bools, str]:
        codes, many = self._scope(rule.scope)
        counts = self._counts(group, rule.scope, self._hosts(group))
        inside = codes >= 0
        if not many:
            return ~inside, ""
        here = np.where(inside, counts[codes], 0)
        if rule.kind == "anti-affinity":
            return here > 0, f'anti-affinity: a VM of group "{rule.group}" is on the same {rule.scope}'
        if rule.kind == "affinity":
            if not counts.any():
                return ~inside, ""
            return here < counts.max(), f'affinity: group "{rule.group}" is on another {rule.scope}'
        open_codes = np.unique(codes[eligible & inside])
        least = counts[open_codes].min() if open_codes.size else 0
        why = f'spread: this {rule.scope} has more VMs of group "{rule.group}" than another by {rule.skew}'
        return here + 1 - least > rule.skew, why

    def _kept_away(self, group: Group, reasons: Reasons, broken: Floats) -> None:
        """Where VMs of the group stand that want nobody of it near."""
        guards: dict[tuple[str, bool], list[int]] = {}
        for host, rule in self._members.get(group, []):
            if rule.kind == "anti-affinity":
                guards.setdefault((rule.scope, rule.hard), []).append(host)
        for (scope, hard), hosts in guards.items():
            codes, many = self._scope(scope)
            if not many:
                continue
            near = (codes >= 0) & (self._counts(group, scope, hosts)[codes] > 0)
            if hard:
                _mark(
                    reasons, near, f'anti-affinity: a VM of group "{group[1]}" keeps others off its {scope}'
                )
            else:
                broken += near


def _mark(reasons: Reasons, which: Bools, why: str) -> None:
    reasons[which & (reasons == None)] = why  # noqa: E711 - of each element
