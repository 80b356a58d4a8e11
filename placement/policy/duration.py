"""Durations as people write them."""

from __future__ import annotations

import re

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[smhd])+")


def duration(text: str) -> float:
    """Seconds of ``90s``, ``15m``, ``1h30m``, ``2d``. Raises ValueError."""
    if not _DURATION.fullmatch(text):
        raise ValueError(f'"{text}" is no duration')
    return sum(float(amount) * _UNITS[unit] for amount, unit in _PART.findall(text))


def show_duration(seconds: float) -> str:
    """``90s`` for 90, ``15m`` for 900, ``1h30m`` for 5400."""
    left = round(seconds)
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if left >= size and (size > 1 or left):
            parts.append(f"{left // size}{unit}")
            left %= size
    return "".join(parts) or "0s"
