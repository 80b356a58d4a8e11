"""What a VM takes of a host."""

from __future__ import annotations

from typing import Protocol

CAPACITY = (
    "cpu_free",
    "mem_free_mb",
    "disk_free_gb",
    "gpu_free",
    "dedicated_cpu_free",
    "hugepages_free_mb",
)
"""Host attributes that placements consume: cores that VMs share, MiB, GiB, GPUs, cores of which each belongs to one VM
alone, and MiB in huge pages."""

LIMITS = {
    "cpu_free": "vm_cpu_max",
    "mem_free_mb": "vm_mem_max_mb",
    "gpu_free": "vm_gpus_max",
    "dedicated_cpu_free": "vm_dedicated_cpu_max",
}
"""Optional host attributes with the largest VM that fits at all: a cloud's instance type is smaller than the quota
that is free, and dedicated CPUs are those of one NUMA node. Undefined is no limit."""


TOTALS = {
    "cpu_free": "cpu_total",
    "mem_free_mb": "mem_total_mb",
    "disk_free_gb": "disk_total_gb",
    "gpu_free": "gpu_total",
    "dedicated_cpu_free": "dedicated_cpu_total",
    "hugepages_free_mb": "hugepages_mb",
}
"""What there is of it on a host that is empty."""


class Size(Protocol):
    """Whoever takes room. What is 0 is not asked for."""

    @property
    def cpu(self) -> float:
        """Cores of those that VMs share."""

    @property
    def mem_mb(self) -> float:
        """MiB of ordinary memory."""

    @property
    def disk_gb(self) -> float:
        """GiB."""

    @property
    def gpus(self) -> float:
        """GPUs."""

    @property
    def dedicated_cpus(self) -> float:
        """Cores of its own."""

    @property
    def hugepages_mb(self) -> float:
        """MiB in huge pages."""


def amounts(size: Size) -> tuple[float, ...]:
    """How much of each of ``CAPACITY``."""
    return (size.cpu, size.mem_mb, size.disk_gb, size.gpus, size.dedicated_cpus, size.hugepages_mb)
