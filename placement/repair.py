"""The repair pass: what the greedy match left behind finds room when one VM of the same round goes elsewhere.

Greedy by rank leaves a few percent of the VMs without a host that a better arrangement would have placed; each of
them may become a VM in a cloud. Nothing that runs is moved here, so a repair costs nobody anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from placement.column import Bools
from placement.language import ExpressionError, parse
from placement.match import feasible
from placement.pool import Waiting
from placement.request import Decision, Request
from placement.size import CAPACITY
from placement.table import HostTable


def repair(
    table: HostTable,
    queue: Sequence[Waiting],
    decisions: list[Decision],
    reasons: Sequence[NDArray[np.object_]],
    left: Sequence[int],
    local: Bools,
    movable: Sequence[bool],
    tries: int,
) -> int:
    """Place some of those that were ``left`` by sending one placed VM each to another host; how many.

    Changes ``decisions`` and consumes ``table``. Only hosts in ``local`` take part, and only VMs that are ``movable``. At
    most ``tries`` moves are tried. Every VM that had a host has one afterwards, and every requirement holds on it.
    """
    here: dict[int, list[int]] = {}
    for index, decision in enumerate(decisions):
        if decision.host is not None and movable[index] and local[decision.host]:
            here.setdefault(decision.host, []).append(index)
    placed = 0
    for lone in left:
        if not movable[lone]:
            continue
        wanted = queue[lone].request
        for host in np.flatnonzero(_open(table, wanted, reasons[lone], local)):
            for index in here.get(int(host), ()):
                if not _fits_without(table, int(host), wanted, queue[index].request):
                    continue
                if tries <= 0:
                    return placed
                tries -= 1
                if _move(table, queue, decisions, reasons, lone, index, int(host), local):
                    here[int(host)].remove(index)
                    here[int(host)].append(lone)
                    other = decisions[index].host
                    if other is not None:
                        here.setdefault(other, []).append(index)
                    placed += 1
                    break
            if decisions[lone].host is not None:
                break
    return placed


def _move(
    table: HostTable,
    queue: Sequence[Waiting],
    decisions: list[Decision],
    reasons: Sequence[NDArray[np.object_]],
    lone: int,
    index: int,
    host: int,
    local: Bools,
) -> bool:
    """Try to send ``index`` from ``host`` elsewhere, and ``lone`` there instead."""
    wanted, moved = queue[lone].request, queue[index].request
    table.give(host, moved)
    # The requirement may read what is consumed, so it is asked with the other gone.
    if not feasible(table, wanted)[host]:
        table.take(host, moved)
        return False
    table.take(host, wanted)
    others = feasible(table, moved) & local & (reasons[index] == None)  # noqa: E711 - of each element
    others[host] = False
    if not others.any():
        table.give(host, wanted)
        table.take(host, moved)
        return False
    target = _best(table, moved, others)
    table.take(target, moved)
    decisions[lone] = Decision(wanted.id, host)
    decisions[index] = replace(decisions[index], host=target, rank=None, runner_up=None, runner_up_rank=None)
    return True


def _best(table: HostTable, request: Request, hosts: Bools) -> int:
    rows = np.flatnonzero(hosts)
    if not request.rank:
        return int(rows[0])
    ranks = np.nan_to_num(parse(request.rank).score(table, request.attributes)[rows], nan=-np.inf)
    return int(rows[ranks.argmax()])


def _open(table: HostTable, request: Request, reasons: NDArray[np.object_], local: Bools) -> Bools:
    mask: Bools = local & (reasons == None)  # noqa: E711 - of each element
    if request.requirement:
        try:
            still = [
                one for one in parse(request.requirement).conjuncts() if not one.host_names & set(CAPACITY)
            ]
        except ExpressionError:
            return np.zeros(len(table), dtype=np.bool_)
        for one in still:
            mask = mask & one.truth(table, request.attributes)
    return mask


def _fits_without(table: HostTable, host: int, wanted: Request, moved: Request) -> bool:
    """Whether there is room for one once the other is gone."""
    for (name, amount), (_, given) in zip(wanted.needs(), moved.needs(), strict=True):
        free = table.value(host, name)
        if amount > 0 and (not isinstance(free, float) or free + given < amount):
            return False
    return True
