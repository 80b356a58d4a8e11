"""The suite itself: an honest provider passes, and each that declares what it does not do fails where it should."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from lxml import etree

from providers.port import Capability
from tests.providers.contract import liars

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
HONEST = ("Honest", "SaysLess")
LIARS = {
    name: rig for name, rig in vars(liars).items() if getattr(rig, "found_by", "") and rig is not liars.Liar
}


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Rig -> the tests that failed on it, of one run as somebody else would run the suite on their provider.

    On a liar runs only the test that is to find it out: what else fails with it proves nothing.
    """
    report = tmp_path_factory.mktemp("liars") / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += [str(HERE), f"--ignore={__file__}", f"--junitxml={report}"]
    asked = [f"({rig.found_by} and {name})" for name, rig in LIARS.items()]
    command += ["-k", " or ".join([*HONEST, *asked])]
    command += [f"--rig=tests.providers.contract.liars:{name}" for name in (*HONEST, *LIARS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    found: dict[str, set[str]] = defaultdict(set)
    ran: dict[str, int] = defaultdict(int)
    for case in etree.parse(report).iter("testcase"):
        test, _, rig = str(case.attrib["name"]).removesuffix("]").partition("[")
        ran[rig] += 1
        if case.find("failure") is not None or case.find("error") is not None:
            found[rig].add(test)
    assert all(ran[name] > 15 for name in HONEST), ran
    assert all(ran[name] == 1 for name in LIARS), ran
    return found


@pytest.mark.parametrize("name", HONEST)
def test_provider_that_keeps_its_promises_passes(failed: dict[str, set[str]], name: str) -> None:
    assert failed[name] == set()


@pytest.mark.parametrize("name", LIARS)
def test_provider_that_does_not_keep_a_promise_is_found_out(failed: dict[str, set[str]], name: str) -> None:
    assert failed[name] == {LIARS[name].found_by}


def test_every_capability_is_lied_about() -> None:
    assert {rig.lies_about for rig in LIARS.values() if getattr(rig, "lies_about", None)} == set(Capability)
