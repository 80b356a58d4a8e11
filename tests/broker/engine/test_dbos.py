"""kill -9 in each phase, with the real engine: the next process finishes what the one before it began."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from broker.engine.phases import PHASES

PROGRAM = Path(__file__).with_name("mortal.py")
ROOT = PROGRAM.parents[3]

CREATE = ["place", "image", "network", "launch", "boot"]
BURST = ["place", "image", "network", "peer", "launch", "boot", "enrol"]
DELETE = ["settle", "shutdown", "peer", "terminate", "gone"]
RETURN = ["settle", "shutdown", "unpeer", "terminate", "home"]
MIGRATE = ["settle", "image", "network", "turn", "move"]
PREEMPT = ["settle", "suspend", "place", "resume"]

SERIES = {
    "local": ("vm.create", CREATE),
    "burst": ("vm.create", BURST),
    "gone": ("vm.delete", DELETE),
    "home": ("vm.return", RETURN),
    "moved": ("vm.migrate", MIGRATE),
    "preempted": ("vm.preempt", PREEMPT),
}
KILLS = [
    (series, phase, point)
    for series, (_, phases) in SERIES.items()
    for phase in phases
    for point in ("before", "after")
]

LOCAL = {"machines": 1, "leases": 1, "peers": 0, "claims": 1}
CLOUD = {"machines": 1, "leases": 1, "peers": 1, "claims": 1}
NOTHING = {"machines": 0, "leases": 0, "peers": 0, "claims": 0}
END = {
    "local": ("running", LOCAL),
    "burst": ("running", CLOUD),
    "gone": ("terminated", NOTHING),
    "home": ("running", LOCAL),
    "moved": ("running", LOCAL),
    "preempted": ("running", LOCAL),
}


def name_of(series, phase, point):
    return f"{series}-{phase}-{point}"


def run(plan, timeout=120):
    return subprocess.run(
        [sys.executable, str(PROGRAM), json.dumps(plan)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def facts_of(done):
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert lines, done.stderr[-4000:]
    return json.loads(lines[-1])


@pytest.fixture(scope="module")
def aftermath(tmp_path_factory):
    """What there is after each process was killed and the next one had finished its work.

    One process is killed in several operations at once, each at a point of its own: a start costs seconds.
    """
    folder = tmp_path_factory.mktemp("mortal")
    columns = [[kill for kill in KILLS if kill[0] == series] for series in SERIES]
    known = {}
    for number in range(max(map(len, columns))):
        kills = [column[number] for column in columns if number < len(column)]
        plan = {
            "folder": str(folder),
            "setup": number == 0,
            "holds": [[name_of(*kill), SERIES[kill[0]][0], kill[1], kill[2]] for kill in kills],
            "bursts": [name_of(*kill) for kill in kills if kill[0] in ("gone", "home")],
            "locals": [name_of(*kill) for kill in kills if kill[0] in ("moved", "preempted")],
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
def test_killed_broker_finishes_what_it_began(aftermath, series, phase, point):
    """Slow: 14 starts of a real engine for 62 kills. It earns that no VM is lost, doubled or leaked."""
    state, holdings = END[series]
    found = aftermath[name_of(series, phase, point)]
    assert found["operation"] == "done"
    assert found["state"] == state
    assert {key: found[key] for key in holdings} == holdings


@pytest.mark.slow
def test_a_launch_is_not_repeated_by_a_broker_that_was_killed(aftermath):
    """Slow with the test above, whose processes it looks at."""
    launches = {
        name: found["launches"] for name, found in aftermath.items() if name.startswith(("local", "burst"))
    }
    assert set(launches.values()) == {1}


def test_every_phase_that_a_vm_can_be_killed_in_is_tested():
    assert set(CREATE) | set(BURST) == set(PHASES["vm.create"]) - {"abandon"}
    assert set(DELETE) == set(PHASES["vm.delete"])
    assert set(MIGRATE) == set(PHASES["vm.migrate"]) - {"abandon"}
    assert set(PREEMPT) == set(PHASES["vm.preempt"]) - {"abandon"}
    assert set(RETURN) == set(PHASES["vm.return"]) - set(PHASES["vm.create"])


@pytest.mark.slow
@pytest.mark.postgres
def test_another_broker_takes_over_from_one_that_was_killed(postgresql, tmp_path):
    """Slow: a claim must run out first. It earns that brokers on one PostgreSQL stand in for each other."""
    url = postgresql.database(empty=True)
    other = None
    try:
        first = run({"folder": str(tmp_path), "url": url, "setup": True})
        assert first.returncode == 0, first.stderr[-4000:]
        victim = "burst-launch-after"
        other = subprocess.Popen(
            [
                sys.executable,
                str(PROGRAM),
                json.dumps({"folder": str(tmp_path), "url": url, "finishes": victim}),
            ],
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        plan = {"folder": str(tmp_path), "url": url, "holds": [[victim, "vm.create", "launch", "after"]]}
        killed = run(plan)
        assert killed.returncode == -signal.SIGKILL, killed.stderr[-4000:]
        out, err = other.communicate(timeout=90)
        assert other.returncode == 0, err[-4000:]
        found = json.loads(out.splitlines()[-1])[victim]
        assert (found["operation"], found["state"], found["launches"]) == ("done", "running", 1)
        assert {key: found[key] for key in CLOUD} == CLOUD
    finally:
        if other is not None and other.poll() is None:
            other.kill()
            other.communicate()
        postgresql.drop(url)


def test_the_closed_part_of_dbos_is_not_installed():
    assert importlib.util.find_spec("dbos_enterprise") is None
    assert importlib.util.find_spec("dbos") is not None
