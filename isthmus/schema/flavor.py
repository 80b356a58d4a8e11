"""A flavor: the size of a VM."""

from __future__ import annotations

from pydantic import Field

from isthmus.schema._base import Name, NewLabels
from isthmus.schema.size import Size, SizeSet


class Flavor(Size):
    """Sizes: ``mem_mb`` in MiB, ``disk_gb`` in GiB. ``dedicated_cpus``: host CPUs of its own, on one NUMA node.
    ``hugepages``: its memory is in huge pages of its host."""

    id: str = ""
    name: str
    labels: dict[str, str] = Field(default_factory=dict)


class FlavorCreate(SizeSet):
    name: Name
    labels: NewLabels = Field(default_factory=dict)
