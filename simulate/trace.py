"""Traces: the Alibaba openb archive, the Standard Workload Format, and tables of our own.

What a trace does not say is drawn from a seed, and ``Trace.notes`` says what that was.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from placement.simulate import Task

Host = dict[str, Any]


class TraceError(ValueError):
    """A trace that cannot be read: which file, which line, what is wrong, and what to do."""


@dataclass(frozen=True)
class Trace:
    """A workload, the hosts that come with it, and what was added to it in words."""

    name: str
    tasks: Sequence[Task]
    hosts: Sequence[Host] = ()
    notes: Sequence[str] = field(default_factory=list)


def read(path: Path, seed: int = 1) -> Trace:
    """Read a trace, whichever kind it is. Raises TraceError."""
    try:
        if path.is_dir() or path.name.endswith((".tar.gz", ".tgz", ".tar")):
            return openb(path, seed)
        if path.name.endswith((".swf", ".swf.gz")):
            return swf(path, seed)
        if path.name.endswith(".json"):
            return events(path)
    except (OSError, tarfile.TarError, EOFError) as error:
        raise TraceError(f"{path}: cannot be read: {error}") from None
    raise TraceError(
        f"{path}: not a trace that is known: a .swf or .swf.gz file, the openb archive (.tar.gz) or its directory, "
        "or a broker's events (.json, of `isthmus event list --json`)"
    )


# Alibaba openb (cluster-trace-gpu-v2023)

_PODS, _NODES = "openb_pod_list_gpuspec33.csv", "openb_node_list_all_node.csv"
_PATIENT = "BE"
"""The class of service that may wait (best effort)."""


def openb(path: Path, seed: int = 1) -> Trace:
    """The openb trace: two tables in an archive or a directory.

    ``LS``, ``Guaranteed`` and ``Burstable`` tasks get a priority; ``BE`` tasks may wait, and one in three of them gets
    a deadline. A task without an end, or one that ends before it begins, is left out. A share of a GPU is a
    fraction of one.
    """
    texts = _members(path, (_PODS, _NODES))
    hosts: list[Host] = []
    for line, row in _rows(path, _NODES, texts[_NODES]):
        cores, memory = _float(row, "cpu_milli", line) / 1000, _float(row, "memory_mib", line)
        gpus = _float(row, "gpu", line)
        host: Host = {
            "name": row["sn"],
            "site": "home",
            "hypervisor": "kvm",
            "cpu_total": cores,
            "cpu_free": cores,
            "mem_total_mb": memory,
            "mem_free_mb": memory,
            "gpu_free": gpus,
            "gpu_total": gpus,
        }
        if row["model"]:
            host["gpu_model"] = row["model"]
        hosts.append(host)
    chance = random.Random(seed)  # noqa: S311 - nothing secret is drawn
    tasks: list[Task] = []
    left_out = 0
    for line, row in _rows(path, _PODS, texts[_PODS]):
        at = _float(row, "creation_time", line)
        start = _float(row, "scheduled_time", line) if row["scheduled_time"] else at
        runtime_s = (_float(row, "deletion_time", line) if row["deletion_time"] else 0.0) - start
        if runtime_s <= 0:
            left_out += 1
            continue
        patient = row["qos"] == _PATIENT
        gpus = _float(row, "num_gpu", line)
        if gpus == 1:
            gpus = _float(row, "gpu_milli", line) / 1000
        models = [model for model in row["gpu_spec"].split("|") if model]
        slack = chance.uniform(1.2, 4.0)
        tasks.append(
            Task(
                id=row["name"],
                project="batch" if patient else chance.choice(("shop", "search")),
                at=at,
                runtime_s=runtime_s,
                cpu=_float(row, "cpu_milli", line) / 1000,
                mem_mb=_float(row, "memory_mib", line),
                gpus=gpus,
                requirement=f"gpu_model in {json.dumps(models)}" if models else None,
                priority=0 if patient else 10,
                deadline=at + 3600 + slack * runtime_s if patient and chance.random() < 1 / 3 else None,
                labels={"qos": row["qos"]},
                preemptible=patient,
            )
        )
    notes = [
        f"{len(tasks)} tasks, {left_out} without a lifetime left out; {len(hosts)} hosts",
        f"drawn with seed {seed}: projects (batch is the best effort class; shop and search are the rest), and a deadline"
        " for one in three best effort tasks",
        "priority 10 for all but best effort, which may be suspended where the policy has queue.preempt",
    ]
    return Trace(path.name, tasks, hosts, notes)


def _members(path: Path, names: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    if path.is_dir():
        found = {name: (path / name).read_text() for name in names if (path / name).is_file()}
    else:
        with tarfile.open(path) as archive:
            for member in archive:
                name = Path(member.name).name
                file = archive.extractfile(member) if name in names else None
                if file is not None:
                    found[name] = file.read().decode()
    missing = [name for name in names if name not in found]
    if missing:
        raise TraceError(f"{path}: has no {missing[0]}, so it is not the openb trace")
    return found


def _rows(path: Path, name: str, text: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    for number, row in enumerate(csv.DictReader(io.StringIO(text)), 2):
        if None in row or None in row.values():
            raise TraceError(f"{path}: {name}, line {number}: has another number of columns than its head")
        yield f"{path}: {name}, line {number}", row


def _float(row: Mapping[str, str], column: str, where: str) -> float:
    try:
        return float(row[column])
    except KeyError:
        raise TraceError(f"{where}: there is no column {column}") from None
    except ValueError:
        raise TraceError(f"{where}: {column} is {row[column]!r}, which is no number") from None


# Standard Workload Format


def swf(path: Path, seed: int = 1) -> Trace:
    """A file of the Parallel Workloads Archive (Feitelson; 18 numbers a line, -1 is unknown).

    A job of n processors is one VM of n cores, so only jobs that fit a host can run; a user is a project. Memory that is
    not known is 2 GiB per core. Hosts are made from ``MaxProcs`` and ``MaxNodes`` of the head, where it has them.
    """
    opener = gzip.open if path.name.endswith(".gz") else open
    head: dict[str, str] = {}
    tasks: list[Task] = []
    left_out = 0
    with opener(path, "rt", errors="replace") as file:
        for number, line in enumerate(file, 1):
            text = str(line).strip()
            if text.startswith(";"):
                key, _, value = text.lstrip("; ").partition(":")
                head[key.strip()] = value.strip()
                continue
            if not text:
                continue
            try:
                parts = [float(part) for part in text.split()]
            except ValueError:
                raise TraceError(f"{path}:{number}: {text[:40]!r} are not numbers") from None
            if len(parts) < 18:
                raise TraceError(f"{path}:{number}: has {len(parts)} numbers; a line of this format has 18")
            job, submit, runtime_s, used, memory_kb, asked = (parts[i] for i in (0, 1, 3, 4, 9, 7))
            cores = asked if asked > 0 else used
            if runtime_s <= 0 or cores <= 0:
                left_out += 1
                continue
            memory = memory_kb * cores / 1024 if memory_kb > 0 else 2048 * cores
            user = int(parts[11])
            tasks.append(
                Task(
                    f"job-{int(job)}",
                    f"user-{user}" if user >= 0 else "unknown",
                    submit,
                    runtime_s,
                    cores,
                    memory,
                )
            )
    if not tasks:
        raise TraceError(f"{path}: has no job that ran")
    hosts = _swf_hosts(head)
    notes = [
        f"{len(tasks)} jobs, {left_out} that never ran left out; {len(hosts)} hosts from the head of the file"
    ]
    first = min(task.at for task in tasks)
    if first:
        tasks = [_earlier(task, first) for task in tasks]
    return Trace(path.name, tasks, hosts, notes)


def _earlier(task: Task, seconds: float) -> Task:
    return replace(task, at=task.at - seconds)


def _swf_hosts(head: Mapping[str, str]) -> list[Host]:
    try:
        cores = int(head["MaxProcs"].split()[0])
        nodes = int(head.get("MaxNodes", "0").split()[0]) or max(1, cores // 32)
    except (KeyError, ValueError, IndexError):
        return []
    each = max(1.0, cores / nodes)
    memory = each * 4096
    return [
        {
            "name": f"node-{number}",
            "site": "home",
            "hypervisor": "kvm",
            "cpu_total": each,
            "cpu_free": each,
            "mem_total_mb": memory,
            "mem_free_mb": memory,
        }
        for number in range(nodes)
    ]


# A broker's own events


def events(path: Path) -> Trace:
    """What a broker saw: its events, as ``isthmus event list --json`` prints them. VMs are asked for and end as they did.

    A VM that has not ended runs until the last event; one that never ran is left out, and so is one whose request has no
    size (an event of an older broker).
    """
    found = _json(path)
    if not isinstance(found, list) or not all(isinstance(one, dict) and "kind" in one for one in found):
        raise TraceError(f"{path}: must be a list of events, as `isthmus event list --json` prints")
    times = [_moment(path, one) for one in found]
    if not times:
        raise TraceError(f"{path}: has no event")
    first, last = min(times), max(times)
    asked: dict[str, tuple[float, Mapping[str, Any]]] = {}
    began: dict[str, float] = {}
    ended: dict[str, float] = {}
    for time, one in sorted(zip(times, found, strict=True), key=lambda pair: pair[0]):
        target, kind = str(one.get("target")), one["kind"]
        if kind == "vm.requested":
            asked[target] = (time, one.get("data") or {})
        elif kind == "vm.running":
            began.setdefault(target, time)
        elif kind == "vm.terminated":
            ended[target] = time
    tasks = [
        Task(
            id=target,
            project=str(data.get("project", "unknown")),
            at=time - first,
            runtime_s=ended.get(target, last) - began[target],
            cpu=float(data["vcpus"]),
            mem_mb=float(data["mem_mb"]),
            disk_gb=float(data.get("disk_gb") or 0),
            requirement=data.get("requirements"),
            priority=int(data.get("priority") or 0),
            labels={str(key): str(value) for key, value in (data.get("labels") or {}).items()},
            gpus=float(data.get("gpus") or 0),
            preemptible=bool(data.get("preemptible")),
        )
        for target, (time, data) in asked.items()
        if target in began and "vcpus" in data and ended.get(target, last) > began[target]
    ]
    if not tasks:
        raise TraceError(f"{path}: has no VM that was asked for and ran")
    notes = [f"{len(tasks)} VMs, {len(asked) - len(tasks)} that never ran left out; hosts come with --hosts"]
    return Trace(path.name, tasks, (), notes)


def _moment(path: Path, event: Mapping[str, Any]) -> float:
    try:
        return datetime.fromisoformat(event["time"]).timestamp()
    except (KeyError, TypeError, ValueError):
        raise TraceError(f"{path}: event {event.get('seq', '?')} has no time") from None


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{path}: cannot be read: {error}") from None
    except ValueError as error:
        raise TraceError(f"{path}: not JSON: {error}") from None


# Hosts


def hosts(path: Path) -> list[Host]:
    """Hosts from a file: a list of attributes as JSON (what ``isthmus host list --json`` prints), YAML, or CSV with a head.

    Raises TraceError.
    """
    found: Any
    if path.suffix == ".csv":
        try:
            found = [
                {name: _cell(text) for name, text in row.items() if text}
                for _, row in _rows(path, path.name, path.read_text())
            ]
        except (OSError, UnicodeDecodeError) as error:
            raise TraceError(f"{path}: cannot be read: {error}") from None
    elif path.suffix in (".yaml", ".yml"):
        try:
            found = YAML(typ="safe", pure=True).load(path.read_text())
        except (OSError, UnicodeDecodeError) as error:
            raise TraceError(f"{path}: cannot be read: {error}") from None
        except YAMLError as error:
            raise TraceError(f"{path}: not YAML: {error}") from None
    else:
        found = _json(path)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise TraceError(f"{path}: must be a list of hosts, as `isthmus host list --json` prints")
    return [_host(path, number, one) for number, one in enumerate(found, 1)]


def _cell(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _host(path: Path, number: int, found: Host) -> Host:
    host = {**found.pop("attributes", {}), **{k: v for k, v in found.items() if v is not None}}
    for old, new in (("vcpus_total", "cpu_total"), ("mem_total_mb", "mem_total_mb")):
        if old in host:
            host.setdefault(new, host[old])
    if host.get("elastic"):
        host["vm_cpu_max"], host["vm_mem_max_mb"] = host.get("cpu_total"), host.get("mem_total_mb")
        host.update(cpu_free=1e9, mem_free_mb=1e12, disk_free_gb=1e9)
    else:
        # A simulation begins with an empty pool.
        host.update(cpu_free=host.get("cpu_total"), mem_free_mb=host.get("mem_total_mb"))
    for name in ("name", "site", "cpu_free", "mem_free_mb"):
        if host.get(name) is None:
            raise TraceError(f"{path}: host {number} has no {name.replace('free', 'total')}")
    return host


_SIZES = ((2, 8), (4, 16), (8, 32), (16, 64), (32, 128), (64, 256), (96, 384))
_CORE_HOUR = 0.048
_GPU_HOUR = {"T4": 0.35, "P100": 1.2, "V100M16": 2.4, "V100M32": 3.0, "A10": 0.9, "G2": 0.5, "G3": 1.6}


def clouds(sites: Sequence[str], *, factor: float = 1.0, spot: bool = False) -> list[Host]:
    """A made-up price list for clouds that nobody gave hosts of: general sizes, and sizes with GPUs.

    0.048 an hour and core with 4 GiB, each further site 10 % dearer than the one before; with ``spot`` spare capacity
    of each at 35 % of that.
    """
    found: list[Host] = []
    for number, site in enumerate(sites):
        scale = factor * 1.1**number
        for cores, gib in _SIZES:
            found.append(_elastic(site, f"g{cores}", cores, gib, cores * _CORE_HOUR * scale))
        for model, price in _GPU_HOUR.items():
            for gpus in (1, 2, 4, 8):
                cores = 16 * gpus
                host = _elastic(
                    site,
                    f"{model.lower()}-x{gpus}",
                    cores,
                    8 * cores,
                    (cores * _CORE_HOUR + gpus * price) * scale,
                )
                found.append({**host, "gpu_free": 1e9, "vm_gpus_max": float(gpus), "gpu_model": model})
    if spot:
        found += [
            {
                **host,
                "name": f"{host['name']}/spot",
                "spot": 1.0,
                "price_hour": round(0.35 * host["price_hour"], 4),
            }
            for host in found
        ]
    return found


def _elastic(site: str, kind: str, cores: int, gib: int, price: float) -> Host:
    return {
        "name": f"{site}/{kind}",
        "site": site,
        "elastic": 1.0,
        "instance_type": kind,
        "cpu_total": float(cores),
        "cpu_free": 1e9,
        "mem_free_mb": 1e12,
        "disk_free_gb": 1e9,
        "gpu_free": 0.0,
        "vm_cpu_max": float(cores),
        "vm_mem_max_mb": gib * 1024.0,
        "price_hour": round(price, 4),
        "spot": 0.0,
    }
