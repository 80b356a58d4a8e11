"""Readers of traces, on the real one and on broken ones."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from simulate import trace

OPENB = Path(__file__).parents[2] / "examples/traces/openb-gpu-2023.tar.gz"
SWF = """\
; MaxNodes: 2
; MaxProcs: 16
1 100 5 60 4 -1 1024 4 -1 -1 1 7 1 1 1 -1 -1 -1
2 160 0 -1 1 -1 -1 1 -1 -1 0 7 1 1 1 -1 -1 -1
"""


def test_openb_trace_has_its_tasks_and_hosts() -> None:
    found = trace.read(OPENB)
    assert (len(found.tasks), len(found.hosts)) == (8151, 1523)
    assert sum(host["gpu_free"] for host in found.hosts) == 6212
    first = found.tasks[0]
    assert (first.cpu, first.mem_mb, first.gpus, first.runtime_s) == (12.0, 16384.0, 1.0, 12537496.0)
    assert found.tasks[1].gpus == 0.46
    assert any(task.requirement == 'gpu_model in ["V100M16", "V100M32"]' for task in found.tasks)


def test_same_seed_draws_the_same() -> None:
    assert trace.read(OPENB, 3).tasks == trace.read(OPENB, 3).tasks
    assert trace.read(OPENB, 3).tasks != trace.read(OPENB, 4).tasks


@pytest.mark.parametrize("packed", [False, True])
def test_workload_format_is_read(tmp_path: Path, packed: bool) -> None:
    file = tmp_path / ("jobs.swf.gz" if packed else "jobs.swf")
    file.write_bytes(gzip.compress(SWF.encode()) if packed else SWF.encode())
    found = trace.read(file)
    (task,) = found.tasks
    assert (task.id, task.project, task.at, task.runtime_s, task.cpu, task.mem_mb) == (
        "job-1", "user-7", 0.0, 60.0, 4.0, 8192.0,
    )  # fmt: skip
    assert [host["cpu_total"] for host in found.hosts] == [8.0, 8.0]
    assert "1 that never ran left out" in found.notes[0]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.swf", "1 2 3\n", "a.swf:1: has 3 numbers; a line of this format has 18"),
        ("a.swf", "one two\n", "a.swf:1: 'one two' are not numbers"),
        ("a.swf", "; MaxProcs: 3\n", "has no job that ran"),
        ("a.txt", "", "not a trace that is known"),
        ("a.tar.gz", "", "cannot be read"),
    ],
)
def test_bad_trace_is_refused_with_its_place(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(trace.TraceError, match=message.replace("(", "\\(")):
        trace.read(tmp_path / name)


def test_hosts_are_what_the_command_lists(tmp_path: Path) -> None:
    listed = [
        {"name": "a", "site": "home", "vcpus_total": 8, "mem_total_mb": 4096, "elastic": False,
         "attributes": {"cpu_total": 8, "rack": "r1"}},
        {"name": "z/t", "site": "aws", "elastic": True,
         "attributes": {"cpu_total": 2, "mem_total_mb": 4096, "price_hour": 0.1}},
    ]  # fmt: skip
    file = tmp_path / "hosts.json"
    file.write_text(json.dumps(listed))
    own, cloud = trace.hosts(file)
    assert (own["cpu_free"], own["rack"], cloud["vm_cpu_max"]) == (8, "r1", 2)
    file.write_text('[{"name": "a", "site": "home"}]')
    with pytest.raises(trace.TraceError, match="host 1 has no cpu_total"):
        trace.hosts(file)


def test_events_of_a_broker_are_a_trace(tmp_path: Path) -> None:
    size = {"project": "web", "vcpus": 2, "mem_mb": 512, "disk_gb": 4, "requirements": None, "priority": 3}
    rows = [
        ("vm.requested", "vm-1", "2026-11-20T10:00:00Z", size),
        ("vm.running", "vm-1", "2026-11-20T10:00:30Z", {}),
        ("vm.requested", "vm-2", "2026-11-20T10:01:00Z", size),
        ("vm.terminated", "vm-1", "2026-11-20T11:00:30Z", {}),
        ("vm.requested", "vm-3", "2026-11-20T11:00:40Z", size),
        ("vm.running", "vm-3", "2026-11-20T11:00:50Z", {}),
        ("vm.labelled", "vm-3", "2026-11-20T11:10:50Z", {}),
    ]
    events = [
        {"seq": seq, "kind": kind, "target": target, "time": time, "message": "", "data": data}
        for seq, (kind, target, time, data) in enumerate(rows, 1)
    ]
    path = tmp_path / "events.json"
    path.write_text(json.dumps(events[::-1]))
    found = trace.read(path)
    assert [(task.id, task.at, task.runtime_s, task.cpu) for task in found.tasks] == [
        ("vm-1", 0, 3600, 2),
        ("vm-3", 3640, 600, 2),
    ]
    assert "1 that never ran" in found.notes[0]
    path.write_text("[]")
    with pytest.raises(trace.TraceError, match="no event"):
        trace.read(path)


def test_hosts_may_be_csv_or_yaml(tmp_path: Path) -> None:
    table = tmp_path / "hosts.csv"
    table.write_text("name,site,cpu_total,mem_total_mb,rack\na,home,8,16384,r1\nb,home,16,32768,\n")
    listed = tmp_path / "hosts.yaml"
    listed.write_text(
        "- {name: a, site: home, cpu_total: 8, mem_total_mb: 16384, rack: r1}\n"
        "- {name: b, site: home, cpu_total: 16, mem_total_mb: 32768}\n"
    )
    assert trace.hosts(table) == trace.hosts(listed)
    assert trace.hosts(table)[0]["cpu_free"] == 8
    listed.write_text("- [")
    with pytest.raises(trace.TraceError, match="YAML"):
        trace.hosts(listed)
