"""kill -9 in each phase, with the real engine: the next process finishes what the one before it began."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from broker.engine.registry import OPERATIONS
from lab.postgresql import PostgreSQL

PROGRAM = Path(__file__).with_name("mortal.py")
ROOT = PROGRAM.parents[3]

LAUNCH = [phase.word for phase in OPERATIONS["vm.create"].phases]


def phases_of(kind: str, *without: str) -> list[str]:
    return [phase.word for phase in OPERATIONS[kind].phases if phase.word not in without]


SERIES = {
    "local": ("vm.create", phases_of("vm.create", "peer", "enrol")),
    "burst": ("vm.create", phases_of("vm.create")),
    "gone": ("vm.delete", phases_of("vm.delete")),
    # From "place" on they are those of vm.create.
    "home": ("vm.return", phases_of("vm.return", *LAUNCH)),
    "again": ("vm.relaunch", phases_of("vm.relaunch", *LAUNCH)),
    "moved": ("vm.migrate", phases_of("vm.migrate")),
    "preempted": ("vm.preempt", phases_of("vm.preempt")),
    "suspended": ("vm.suspend", phases_of("vm.suspend")),
    "resumed": ("vm.resume", phases_of("vm.resume")),
    "started": ("vm.start", phases_of("vm.start")),
    "stopped": ("vm.stop", phases_of("vm.stop")),
    "rebooted": ("vm.reboot", phases_of("vm.reboot")),
    # At sites that refuse it for good.
    "unmade": ("vm.create", ["abandon"]),
    "unstarted": ("vm.start", ["abandon"]),
    "unbooted": ("vm.reboot", ["abandon"]),
    "unresumed": ("vm.resume", ["abandon"]),
    "unmoved": ("vm.migrate", ["abandon"]),
    "unstopped": ("vm.stop", ["abandon"]),
    "unsuspended": ("vm.suspend", ["abandon"]),
    "unpreempted": ("vm.preempt", ["abandon"]),
    "kept": ("vm.return", ["abandon"]),
    "kept-again": ("vm.relaunch", ["abandon"]),
}
KILLS = [
    (series, phase, point)
    for series, (_, phases) in SERIES.items()
    for phase in phases
    for point in ("before", "after")
]
STARTS = 8
"""Of one process not more operations are held than an engine drives at a time at one site."""

LOCAL = {"machines": 1, "leases": 1, "peers": 0, "claims": 1}
CLOUD = {"machines": 1, "leases": 1, "peers": 1, "claims": 1}
NOTHING = {"machines": 0, "leases": 0, "peers": 0, "claims": 0}
CUT_OFF = CLOUD | {"peers": 0}
END = {
    "local": ("running", LOCAL),
    "burst": ("running", CLOUD),
    "gone": ("terminated", NOTHING),
    "home": ("running", LOCAL),
    "again": ("running", CLOUD),
    "moved": ("running", LOCAL),
    "preempted": ("running", LOCAL),
    "suspended": ("suspended", LOCAL),
    "resumed": ("running", LOCAL),
    "started": ("running", LOCAL),
    "stopped": ("stopped", LOCAL),
    "rebooted": ("running", LOCAL),
    # Until the reconciler writes what it finds, they are in error.
    "unmade": ("error", NOTHING),
    "unstarted": ("stopped", LOCAL),
    "unbooted": ("running", LOCAL),
    "unresumed": ("suspended", LOCAL),
    "unmoved": ("running", LOCAL),
    "unstopped": ("running", LOCAL),
    "unsuspended": ("running", LOCAL),
    "unpreempted": ("running", LOCAL),
    "kept": ("stopped", CUT_OFF),
    "kept-again": ("running", CUT_OFF),
}

CLOUDS = {"gone": "cloud", "home": "cloud", "again": "cloud", "kept": "keeping", "kept-again": "keeping"}
"""Series on VMs that run in a cloud before they begin, and in which."""
LOCALS = {
    **dict.fromkeys(("started", "stopped", "rebooted"), "campus"),
    **dict.fromkeys(("moved", "preempted", "suspended", "resumed"), "campus"),
    **dict.fromkeys(("unstarted", "unbooted", "unresumed", "unmoved"), "frail"),
    **dict.fromkeys(("unstopped", "unsuspended", "unpreempted"), "stiff"),
}
"""Series on VMs that run on a host of our own before they begin, and at which site."""
PLACES = {"local": "campus", "burst": "cloud", "unmade": "broken", **CLOUDS, **LOCALS}


def name_of(series: str, phase: str, point: str) -> str:
    return f"{series}-{phase}-{point}"


def run(plan: dict[str, Any], timeout: float = 120) -> CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PROGRAM), json.dumps(plan)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def facts_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert lines, done.stderr[-4000:]
    facts: dict[str, Any] = json.loads(lines[-1])
    return facts


@pytest.fixture(scope="module")
def aftermath(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What there is after each process was killed and the next one had finished its work.

    One process is killed in several operations at once, each at a point of its own: a start costs seconds.
    """
    folder = tmp_path_factory.mktemp("mortal")
    known = {}
    for number in range(STARTS):
        kills = KILLS[number::STARTS]
        plan = {
            "folder": str(folder),
            "setup": number == 0,
            "holds": [[name_of(*kill), SERIES[kill[0]][0], kill[1], kill[2]] for kill in kills],
            "places": {name_of(*kill): PLACES[kill[0]] for kill in kills},
            "bursts": [name_of(*kill) for kill in kills if kill[0] in CLOUDS],
            "locals": [name_of(*kill) for kill in kills if kill[0] in LOCALS],
            "stopped": [name_of(*kill) for kill in kills if kill[0] in ("started", "unstarted")],
            "suspended": [name_of(*kill) for kill in kills if kill[0] in ("resumed", "unresumed")],
        }
        done = run(plan)
        assert done.returncode == -signal.SIGKILL, done.stdout[-2000:] + done.stderr[-6000:]
        known.update(facts_of(done))
    done = run({"folder": str(folder)})
    assert done.returncode == 0, done.stderr[-4000:]
    known.update(facts_of(done))
    return known


@pytest.mark.slow
@pytest.mark.parametrize(("series", "phase", "point"), KILLS)
def test_killed_broker_finishes_what_it_began(
    aftermath: dict[str, Any], series: str, phase: str, point: str
) -> None:
    """Slow: nine starts of a real engine for all kills. It earns that no VM is lost, doubled or leaked."""
    state, holdings = END[series]
    found = aftermath[name_of(series, phase, point)]
    given_up = phase == "abandon"
    assert found["operation"] == ("failed" if given_up else "done")
    assert found["state"] in (state, "error") if given_up else found["state"] == state
    assert {key: found[key] for key in holdings} == holdings


@pytest.mark.slow
def test_a_launch_is_not_repeated_by_a_broker_that_was_killed(aftermath: dict[str, Any]) -> None:
    """Slow with the test above, whose processes it looks at."""
    launches = {
        name: found["launches"] for name, found in aftermath.items() if name.startswith(("local", "burst"))
    }
    assert set(launches.values()) == {1}


@pytest.mark.parametrize("kind", OPERATIONS)
def test_every_kind_of_operation_is_killed_in_each_of_its_phases(kind: str) -> None:
    killed = {phase for of, phases in SERIES.values() if of == kind for phase in phases}
    if kind in ("vm.return", "vm.relaunch"):
        killed |= set(LAUNCH)
    assert killed == {phase.word for phase in OPERATIONS[kind].every}


@pytest.mark.slow
@pytest.mark.postgres
def test_another_broker_takes_over_from_one_that_was_killed(postgresql: PostgreSQL, tmp_path: Path) -> None:
    """Slow: a claim must run out first. It earns that brokers on one PostgreSQL stand in for each other."""
    url = postgresql.database()
    victim = "burst-launch-after"
    common = {"folder": str(tmp_path), "url": url}
    try:
        first = run(common | {"setup": True})
        assert first.returncode == 0, first.stderr[-4000:]
        killed = run(
            common | {"holds": [[victim, "vm.create", "launch", "after"]], "places": {victim: "cloud"}}
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr[-4000:]
        # It starts after the kill, long before the claim runs out: one that ran already might have been given the VM itself.
        other = run(common | {"finishes": victim})
        assert other.returncode == 0, other.stderr[-4000:]
        found = facts_of(other)[victim]
        assert (found["operation"], found["state"], found["launches"]) == ("done", "running", 1)
        assert {key: found[key] for key in CLOUD} == CLOUD
    finally:
        postgresql.drop(url)


def test_the_closed_part_of_dbos_is_not_installed() -> None:
    assert importlib.util.find_spec("dbos_enterprise") is None
    assert importlib.util.find_spec("dbos") is not None
