"""Columns of sizes: of what has one, what counts many of them, and what is counted by the hour (``broker.size``)."""

from __future__ import annotations

from sqlalchemy import BigInteger
from sqlalchemy.orm import Mapped, mapped_column

from broker.size import AMOUNTS, Amounts, Dimensions, Size


class Sized:
    """What has a size: a flavor, and what is made of one."""

    vcpus: Mapped[int]
    mem_mb: Mapped[int]
    disk_gb: Mapped[int]
    gpus: Mapped[int] = mapped_column(default=0)
    dedicated_cpus: Mapped[bool] = mapped_column(default=False)
    hugepages: Mapped[bool] = mapped_column(default=False)

    @property
    def size(self) -> Size:
        """The columns as one value."""
        return Size.of(self)


class Limited:
    """What may have so much at most; None is no limit."""

    quota_vms: Mapped[int | None]
    quota_vcpus: Mapped[int | None]
    quota_mem_mb: Mapped[int | None]
    quota_disk_gb: Mapped[int | None]
    quota_gpus: Mapped[int | None]

    @property
    def quota(self) -> dict[str, int | None]:
        """An amount -> its limit."""
        return {name: getattr(self, f"quota_{name}") for name in AMOUNTS}


class Using:
    """What its VMs that are not terminated come to, written with each of them (``broker.store.claim``)."""

    used_vms: Mapped[int] = mapped_column(default=0)
    used_vcpus: Mapped[int] = mapped_column(default=0)
    used_mem_mb: Mapped[int] = mapped_column(BigInteger, default=0)
    used_disk_gb: Mapped[int] = mapped_column(BigInteger, default=0)
    used_gpus: Mapped[int] = mapped_column(default=0)

    @property
    def used(self) -> Amounts:
        """The columns as one value."""
        return Amounts.of(self, "used_")


class Held:
    """What one VM holds for a time."""

    vcpus: Mapped[int]
    mem_mb: Mapped[int]
    disk_gb: Mapped[int] = mapped_column(default=0, server_default="0")
    gpus: Mapped[int] = mapped_column(default=0, server_default="0")

    @property
    def held(self) -> Amounts:
        """The columns as one value, of one VM."""
        return Amounts(vms=1, **Dimensions.of(self).as_dict())


class HeldHours:
    """What some VMs held, times the hours that they held it."""

    vm_hours: Mapped[float]
    vcpu_hours: Mapped[float]
    gib_hours: Mapped[float]
    disk_gib_hours: Mapped[float] = mapped_column(default=0, server_default="0")
    gpu_hours: Mapped[float] = mapped_column(default=0, server_default="0")

    @property
    def held_hours(self) -> Amounts:
        """The columns as one value."""
        return Amounts.of_hours(self)
