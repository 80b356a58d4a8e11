"""A site and its hosts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

AttributeValue = float | str | tuple[str, ...] | None
"""A host attribute: a number, a text, a list of texts, or undefined (``None``)."""


@dataclass(frozen=True)
class SiteContext:
    """All that a provider needs to drive one site. Passed to its constructor.

    ``options`` are the site's own settings as the user gave them (``hosts``, ``endpoint``, ``region``...);
    ``credentials`` are opened secrets and must never be logged or put in an exception's text;
    ``cache_dir`` is a directory of this site's own for probe results and downloads, created already.
    """

    broker_id: str
    site_id: str
    site_name: str
    options: Mapping[str, object] = field(default_factory=dict)
    credentials: Mapping[str, str] = field(default_factory=dict)
    cache_dir: str = ""
    call_timeout_s: float = 30.0


@dataclass(frozen=True)
class HostReport:
    """One host as the provider sees it now.

    ``attributes`` are the flat names of ``docs/reference/attributes.md``: totals, not what is free (the
    broker subtracts its own claims). ``reserved_*`` is what strangers' VMs on the host use: those that do
    not carry the broker's id. A host that did not answer is reported too, ``reachable=False`` with the
    reason, and with whatever attributes are known without it.
    """

    name: str
    reachable: bool = True
    reason: str = ""
    elastic: bool = False
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    reserved_vcpus: float = 0.0
    reserved_mem_mb: float = 0.0
