"""A flavor: the size of a VM."""

from __future__ import annotations

from pydantic import Field

from isthmus.schema._base import Answer, Name, NewLabels, Request


class Flavor(Answer):
    """Sizes: ``mem_mb`` in MiB, ``disk_gb`` in GiB. ``dedicated_cpus``: host CPUs of its own, on one NUMA node.
    ``hugepages``: its memory is in huge pages of its host."""

    id: str = ""
    name: str
    vcpus: int
    mem_mb: int
    disk_gb: int
    gpus: int = 0
    dedicated_cpus: bool = False
    hugepages: bool = False
    labels: dict[str, str] = Field(default_factory=dict)


class FlavorCreate(Request):
    name: Name
    vcpus: int = Field(ge=1, le=1024)
    mem_mb: int = Field(ge=32, le=16_777_216)
    disk_gb: int = Field(ge=1, le=65_536)
    gpus: int = Field(default=0, ge=0, le=64)
    dedicated_cpus: bool = False
    hugepages: bool = False
    labels: NewLabels = Field(default_factory=dict)
