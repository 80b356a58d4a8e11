"""Sizes: what a VM is given, and what many of them come to. Nothing stands below this file.

Whatever counts by size goes by the fields here: flavors, VMs, reservations, quotas, usage. A new dimension is a field of
``Dimensions``, a line in ``broker/store/size.py`` with a migration, and one in ``isthmus/schema/size.py``; tests name a place
that is forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self, TypedDict


def _dimension(words: str, hours: str, per: int = 1) -> Any:
    """``words`` as in "8 vCPUs"; ``hours``: what an hour of ``per`` of them is called in records of usage."""
    return field(default=0, metadata={"words": words, "hours": hours, "per": per})


class Room(TypedDict):
    """What a VM takes of a host, as ``placement.size`` names it."""

    cpu: float
    mem_mb: float
    disk_gb: float
    gpus: float
    dedicated_cpus: float
    hugepages_mb: float


@dataclass(frozen=True)
class Dimensions:
    """What can be added up: memory in MiB, disk in GiB. Whole numbers, but for hours of them."""

    vcpus: float = _dimension("vCPUs", "vcpu_hours")
    mem_mb: float = _dimension("MiB of memory", "gib_hours", per=1024)
    disk_gb: float = _dimension("GiB of disk", "disk_gib_hours")
    gpus: float = _dimension("GPUs", "gpu_hours")

    @classmethod
    def of(cls, values: object, prefix: str = "") -> Self:
        """Taken from the attributes of these names, behind a prefix."""
        return cls(**{one.name: getattr(values, prefix + one.name) for one in fields(cls)})

    def exceeds(self, most: Mapping[str, float | None]) -> list[str]:
        """The names of what there is more of than ``most`` says, in order; what it leaves out, or says None of, has no limit."""
        limits = ((one.name, most.get(one.name)) for one in fields(self))
        return [name for name, limit in limits if limit is not None and getattr(self, name) > limit]

    def as_dict(self) -> dict[str, Any]:
        """By name, as rows and answers take them."""
        return asdict(self)


@dataclass(frozen=True)
class Amounts(Dimensions):
    """What some VMs come to: how many they are, and what they have together."""

    vms: float = _dimension("VMs", "vm_hours")

    def __add__(self, other: Amounts) -> Amounts:
        return Amounts(**{name: getattr(self, name) + getattr(other, name) for name in AMOUNTS})

    def __sub__(self, other: Amounts) -> Amounts:
        return self + other * -1

    def __mul__(self, times: float) -> Amounts:
        return Amounts(**{name: getattr(self, name) * times for name in AMOUNTS})

    def as_hours(self) -> dict[str, float]:
        """By the names that records of usage have for hours, when this is amounts times hours."""
        return {name: getattr(self, one) / per for one, (name, per) in HOURS.items()}

    @classmethod
    def of_hours(cls, values: object) -> Amounts:
        """Amounts times hours, of the attributes that ``as_hours`` names."""
        return cls(**{one: getattr(values, name) * per for one, (name, per) in HOURS.items()})


@dataclass(frozen=True)
class Size(Dimensions):
    """What one VM is given. ``dedicated_cpus``: its vCPUs are host CPUs of its own; ``hugepages``: its memory is in
    huge pages."""

    dedicated_cpus: bool = False
    hugepages: bool = False

    def __mul__(self, count: float) -> Amounts:
        """What so many VMs of this size come to."""
        return Amounts(vms=1, **{name: getattr(self, name) for name in DIMENSIONS}) * count

    def fits(self, other: Size) -> bool:
        """Whether a VM of this size has enough room where one of the other size has."""
        return not self.exceeds(other.as_dict())

    @property
    def hardware(self) -> tuple[float, bool, bool]:
        """What of its host is for it alone."""
        return self.gpus, self.dedicated_cpus, self.hugepages

    @property
    def bound_by(self) -> str:
        """What ties a VM of this size to its host while it runs; empty when nothing does."""
        if self.gpus:
            return "GPUs of its host"
        if self.dedicated_cpus:
            return "dedicated CPUs of its host"
        return "huge pages of its host" if self.hugepages else ""

    @property
    def room(self) -> Room:
        """What a VM of this size takes of a host."""
        return {
            "cpu": 0.0 if self.dedicated_cpus else float(self.vcpus),
            "mem_mb": 0.0 if self.hugepages else float(self.mem_mb),
            "disk_gb": float(self.disk_gb),
            "gpus": float(self.gpus),
            "dedicated_cpus": float(self.vcpus) if self.dedicated_cpus else 0.0,
            "hugepages_mb": float(self.mem_mb) if self.hugepages else 0.0,
        }

    @property
    def attributes(self) -> dict[str, Any]:
        """What expressions read of it as ``vm.*``: amounts are numbers, and a flag stays one."""
        return self.as_dict() | {name: float(getattr(self, name)) for name in DIMENSIONS}


DIMENSIONS = tuple(one.name for one in fields(Dimensions))
SIZE: Mapping[str, Any] = {one.name: one.default for one in fields(Size)}
"""The names of what a size has, with what it is when nothing is said."""
AMOUNTS = ("vms", *DIMENSIONS)
WORDS = {one.name: str(one.metadata["words"]) for one in fields(Amounts)}
"""An amount -> what it is called in a sentence."""
HOURS = {one.name: (str(one.metadata["hours"]), int(one.metadata["per"])) for one in fields(Amounts)}
"""An amount -> the name of its hours, and how many of it an hour is of."""


def over_quota(quota: Mapping[str, float | None], have: Amounts, more: Amounts) -> str | None:
    """The first amount of which there is a limit that what is had and what is asked for exceed together. Asking for nothing
    of what there is too much of already is no offence."""
    asked = {name: limit for name, limit in quota.items() if getattr(more, name)}
    found = set((have + more).exceeds(asked))
    return next((name for name in AMOUNTS if name in found), None)
