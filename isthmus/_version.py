"""The version of the installed package, from its metadata: pyproject.toml is the only place that states it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("isthmus")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+source"
