"""A seeded pool of hosts and a queue of VMs in the format ``placement-bench/1``.

About 86 % KVM hosts, 9 % SmartOS, 5 % quotas of clouds. 80 % of the VMs come from at most 200 templates (Zipf), 20 %
have expressions of their own, with terms, constants and order drawn anew for each. What is free is a little more
than what is asked for, so that between 5 and 35 % of the VMs find no host.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from bench.peers.numpy_greedy import Pool

FORMAT = "placement-bench/1"

SIZES = ((1, 2048, 20), (2, 4096, 40), (2, 8192, 40), (4, 8192, 80), (4, 16384, 80), (8, 32768, 160))
"""(cores, MiB of memory, GiB of disk); small ones are drawn more often."""

_SIZE_WEIGHTS = (30, 25, 15, 15, 10, 5)
_TEMPLATES = 200
_OWN = 0.2
_ROOM = 1.15
"""Free capacity over what is asked for."""

_LEFT_OVER = 0.4
"""More of it, in VMs per host."""

_FEWEST = 0.05
"""A requirement that fewer hosts satisfy is drawn again: this is a bench of choosing, not of refusing."""

_FLAGS = ("sse4_2", "avx", "avx2", "avx512f", "aes", "sha_ni", "vmx")


def generate(hosts: int, vms: int, seed: int = 1) -> dict[str, Any]:
    """The document of a bench file. Equal arguments give equal documents."""
    chance = random.Random(seed)
    pool = [_host(chance, number) for number in range(hosts)]
    columns = Pool(pool)

    def template() -> dict[str, Any]:
        """One that a fair part of the hosts would take if they were empty."""
        while True:
            drawn = _template(chance)
            allowed = eval(columns.compiled(drawn["requirement"]), {"c": columns.columns})  # noqa: S307
            if np.count_nonzero(allowed & (columns.columns["gpu_free"] >= drawn["gpus"])) >= _FEWEST * hosts:
                return drawn

    templates = [template() for _ in range(min(_TEMPLATES, max(1, vms // 5)))]
    weights = [1 / (rank + 1) for rank in range(len(templates))]
    queue = [
        {"id": f"vm-{number}", **(template() if chance.random() < _OWN else common)}
        for number, common in enumerate(chance.choices(templates, weights, k=vms))
    ]
    _make_room(pool, queue)
    return {"format": FORMAT, "hosts": pool, "vms": queue}


def _make_room(hosts: list[dict[str, Any]], queue: list[dict[str, Any]]) -> None:
    """Scale what is free to what is asked for. On each host some of it is left over, too little for one more VM."""
    for free, total, asked, step in (
        ("cpu_free", "cpu_total", "cpu", 1),
        ("mem_free_mb", "mem_total_mb", "mem_mb", 256),
        ("disk_free_gb", "", "disk_gb", 1),
    ):
        wanted = sum(vm[asked] for vm in queue)
        wanted *= _ROOM + _LEFT_OVER * len(hosts) / len(queue)
        scale = wanted / sum(host[free] for host in hosts)
        for host in hosts:
            host[free] = max(0, round(host[free] * scale / step)) * step
            if total:
                host[total] = max(host[total], host[free])


def _host(chance: random.Random, number: int) -> dict[str, Any]:
    kind = chance.choices(("kvm", "smartos", "cloud"), (86, 9, 5))[0]
    cores = chance.choice((16, 32, 48, 64, 96, 128))
    memory = cores * chance.choice((2048, 4096, 8192))
    if kind == "cloud":
        cores, memory = cores * 2, memory * 2
    gpus = chance.choice((2, 4, 8)) if chance.random() < 0.12 else 0
    idle = chance.uniform(0.2, 1.0)
    arch = "aarch64" if kind != "smartos" and chance.random() < 0.12 else "x86_64"
    flags = ["asimd", "aes"] if arch == "aarch64" else list(_FLAGS[: chance.randint(2, len(_FLAGS))])
    return {
        "name": f"{kind}-{number}",
        "kind": kind,
        "dc": f"dc{chance.randrange(8)}",
        "rack": f"r{chance.randrange(max(1, number // 40 + 1))}",
        "arch": arch,
        "cpu_flags": flags,
        "cpu_free": round(cores * idle),
        "mem_free_mb": round(memory * min(1.0, idle * chance.uniform(0.8, 1.3))),
        "disk_free_gb": round(cores * chance.uniform(15, 60)),
        "gpu_free": gpus,
        "running_vms": round((1 - idle) * cores / 3),
        "cpu_total": cores,
        "mem_total_mb": memory,
        "cpu_mhz": chance.choice((2100, 2400, 2600, 3000, 3500)),
        "numa_nodes": chance.choice((1, 2, 2, 4)),
        "gpu_model": chance.choice(("A100", "L40S", "T4")) if gpus else "",
        "price_hour": round(
            chance.uniform(0.03, 0.12) if kind == "cloud" else chance.uniform(0.008, 0.03), 4
        ),
        "temp_c": round(chance.uniform(20, 45), 1),
        "power_w": round(120 + cores * chance.uniform(2, 5)),
        "load1": round((1 - idle) * cores * chance.uniform(0.3, 1.2), 2),
        "carbon_g_kwh": round(chance.uniform(20, 600)),
        "net_ms": round(chance.uniform(8, 60) if kind == "cloud" else chance.uniform(0.1, 3), 2),
        "spot": int(kind == "cloud" and chance.random() < 0.4),
        "interrupt_pct": round(chance.uniform(0, 20), 1) if kind == "cloud" else 0,
    }


def _template(chance: random.Random) -> dict[str, Any]:
    cpu, memory, disk = chance.choices(SIZES, _SIZE_WEIGHTS)[0]
    gpus = chance.choice((1, 1, 2)) if chance.random() < 0.04 else 0
    terms = chance.sample(_TERMS, chance.choices((1, 2, 3, 4), (30, 35, 25, 10))[0])
    requirement = " && ".join(_filled(chance, term) for term in terms)
    if gpus:
        requirement += ' && gpu_model != "T4"'
    return {
        "cpu": cpu,
        "mem_mb": memory,
        "disk_gb": disk,
        "gpus": gpus,
        "requirement": requirement,
        "rank": _rank(chance),
    }


_TERMS = (
    'kind == "kvm"',
    'kind == "kvm"',
    'kind != "cloud"',
    'kind != "smartos"',
    'arch == "x86_64"',
    'has(cpu_flags, "avx2")',
    'has(cpu_flags, "aes")',
    '!has(cpu_flags, "avx512f")',
    '(dc == "dc{i}" || dc == "dc{j}" || dc == "dc{k}")',
    '!(dc == "dc{i}")',
    "cpu_mhz >= {mhz}",
    "numa_nodes >= 2",
    "price_hour < {price}",
    "temp_c <= {temp}",
    "net_ms < {ms}",
    "carbon_g_kwh < {carbon}",
    "load1 / cpu_total < {share}",
    "(spot == 0 || interrupt_pct < {percent})",
    "running_vms < {many}",
    "mem_free_mb > {share} * mem_total_mb",
)

_RANKS = (
    "-price_hour",
    "-cpu_free",
    "cpu_free / cpu_total",
    "-running_vms",
    "mem_free_mb - {weight} * cpu_free",
    '(kind == "kvm" ? 100 : 0) - {weight} * price_hour',
    'kind == "cloud" ? -1000 * price_hour : 100 + 10 * cpu_free / cpu_total',
    "-power_w / cpu_total",
)

_WEIGHED = (
    "price_hour",
    "temp_c",
    "net_ms",
    "cpu_free / cpu_total",
    "mem_free_mb / mem_total_mb",
    "running_vms",
    "carbon_g_kwh",
    "load1 / cpu_total",
)


def _rank(chance: random.Random) -> str:
    if chance.random() < 0.6:
        return _filled(chance, chance.choice(_RANKS))
    first, *others = chance.sample(_WEIGHED, chance.choice((2, 3)))
    text = f"{_filled(chance, '{weight}')} * {first}"
    return text + "".join(f" {chance.choice('+-')} {_filled(chance, '{weight}')} * {term}" for term in others)


def _filled(chance: random.Random, text: str) -> str:
    first, second, third = chance.sample(range(8), 3)
    return text.format(
        i=first,
        j=second,
        k=third,
        mhz=chance.choice((2200, 2400, 2500)),
        price=round(chance.uniform(0.015, 0.1), 3),
        temp=round(chance.uniform(30, 45), 1),
        ms=round(chance.uniform(1, 50), 1),
        carbon=round(chance.uniform(200, 600)),
        share=round(chance.uniform(0.05, 0.5), 2),
        percent=chance.randint(2, 15),
        many=chance.randint(10, 60),
        weight=round(chance.uniform(0.1, 50), 1),
    )
