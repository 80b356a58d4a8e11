"""In which order those that wait are looked at.

Priority first; waiting long raises it. Among equals the project that used least of its share goes first, and each VM
that is looked at counts as used, so that of two projects with equal shares neither sends a thousand VMs ahead of the
other's first. Then age.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

from placement.policy import Queue
from placement.pool import Waiting


def order(queue: Sequence[Waiting], now: float, rules: Queue, usage: Mapping[str, float]) -> list[int]:
    """Indexes into ``queue``, who goes first first.

    ``usage``: what each project used lately, in core-seconds. A project without a share of its own has 1. With equal
    priorities and one project it is the order of age; who has waited longer than ``rules.aging_s`` is raised by one
    priority for each such time, so nobody waits for ever behind later ones.
    """
    levels: dict[int, dict[str, list[int]]] = {}
    for index in sorted(range(len(queue)), key=lambda at: (queue[at].since, queue[at].request.id)):
        waiting = queue[index]
        level = waiting.priority
        if rules.aging_s:
            level += int(max(0.0, now - waiting.since) // rules.aging_s)
        levels.setdefault(level, {}).setdefault(waiting.project, []).append(index)
    used = {project: usage.get(project, 0.0) for level in levels.values() for project in level}
    found: list[int] = []
    for level in sorted(levels, reverse=True):
        found += _fair(queue, levels[level], rules, used)
    return found


def _fair(
    queue: Sequence[Waiting], projects: Mapping[str, list[int]], rules: Queue, used: dict[str, float]
) -> list[int]:
    """One level's VMs: always the oldest of the project that used least of its share."""
    if len(projects) == 1:
        return next(iter(projects.values()))
    found: list[int] = []
    heap = [
        (used[project] / rules.share(project), queue[indexes[0]].since, project, 0)
        for project, indexes in projects.items()
    ]
    heapq.heapify(heap)
    while heap:
        _, _, project, at = heapq.heappop(heap)
        index = projects[project][at]
        found.append(index)
        asked = queue[index].request
        used[project] += (asked.cpu + asked.dedicated_cpus) * rules.half_life_s
        if at + 1 < len(projects[project]):
            since = queue[projects[project][at + 1]].since
            heapq.heappush(heap, (used[project] / rules.share(project), since, project, at + 1))
    return found
