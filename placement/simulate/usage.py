"""What each project used, for its fair share."""

from __future__ import annotations

import math


class Usage:
    """Core-seconds that each project held; what was held a half-life ago counts half."""

    def __init__(self, half_life_s: float) -> None:
        self._rate = math.log(2) / half_life_s
        self._held: dict[str, tuple[float, float, float]] = {}
        """Project -> what it used, the cores that it holds, and as of when."""

    def add(self, project: str, cores: float, now: float) -> None:
        """From now on it holds so many cores more."""
        used = self._used(project, now)
        self._held[project] = (used, self._held.get(project, (0.0, 0.0, now))[1] + cores, now)

    def at(self, now: float) -> dict[str, float]:
        """What each project used until now."""
        return {project: self._used(project, now) for project in self._held}

    def _used(self, project: str, now: float) -> float:
        used, cores, since = self._held.get(project, (0.0, 0.0, now))
        # d used / dt = cores - rate * used
        left = math.exp(-self._rate * (now - since))
        return used * left + cores * (1.0 - left) / self._rate
