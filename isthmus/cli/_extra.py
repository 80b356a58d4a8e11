"""Functions that other packages add to a noun: entry points of the group ``isthmus.commands`` named ``noun.verb``."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from isthmus.client._errors import ConfigurationError


def extra(name: str, package: str) -> Callable[..., Any]:
    """The function, loaded. ``package`` brings it. Raises ConfigurationError without it."""
    points = entry_points(group="isthmus.commands", name=name)
    try:
        if not points:
            raise ImportError("this installation does not offer it")
        found: Callable[..., Any] = next(iter(points)).load()
    except ImportError as error:
        raise ConfigurationError(
            f"`isthmus {name.replace('.', ' ')}` cannot be loaded: {error}",
            code="missing_extra",
            hint=f"pip install '{package}'",
        ) from error
    return found
