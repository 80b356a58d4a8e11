"""A size: what a VM is given. Flavors, and what is made of one, have it; quotas and usage count by it."""

from __future__ import annotations

from pydantic import Field

from isthmus.schema._base import Answer, Request


class Size(Answer):
    """Memory in MiB, disk in GiB. ``dedicated_cpus``: host CPUs of its own, on one NUMA node. ``hugepages``: its memory is in
    huge pages of its host."""

    vcpus: int
    mem_mb: int
    disk_gb: int
    gpus: int = 0
    dedicated_cpus: bool = False
    hugepages: bool = False


class SizeSet(Request):
    vcpus: int = Field(ge=1, le=1024)
    mem_mb: int = Field(ge=32, le=16_777_216)
    disk_gb: int = Field(ge=1, le=65_536)
    gpus: int = Field(default=0, ge=0, le=64)
    dedicated_cpus: bool = False
    hugepages: bool = False


class Quota(Answer):
    """The most a project may have at once; None is no limit."""

    vms: int | None = None
    vcpus: int | None = None
    mem_mb: int | None = None
    disk_gb: int | None = None
    gpus: int | None = None


class QuotaUsed(Answer):
    """What the project's VMs that are not terminated use of its quota."""

    vms: int = 0
    vcpus: int = 0
    mem_mb: int = 0
    disk_gb: int = 0
    gpus: int = 0


class QuotaSet(Request):
    vms: int | None = Field(default=None, ge=0, lt=1 << 31)
    vcpus: int | None = Field(default=None, ge=0, lt=1 << 31)
    mem_mb: int | None = Field(default=None, ge=0, lt=1 << 31)
    disk_gb: int | None = Field(default=None, ge=0, lt=1 << 31)
    gpus: int | None = Field(default=None, ge=0, lt=1 << 31)


class SizeHours(Answer):
    """What VMs held, times the hours that they held it: memory in GiB (``gib_hours``), disk in GiB."""

    vm_hours: float
    vcpu_hours: float
    gib_hours: float
    disk_gib_hours: float = 0
    gpu_hours: float = 0
