"""The placement bench: its pools, its file format, its replay check, and the engines it compares."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench._pool import FORMAT, generate
from bench.peers import c_greedy, numpy_greedy
from bench.peers.language import read
from bench.placement import solve

RIGHT = {"malformed": 0, "infeasible": 0, "not best": 0, "missed": 0}


def test_equal_seeds_make_equal_pools() -> None:
    assert generate(20, 30, 7) == generate(20, 30, 7)
    assert generate(20, 30, 7) != generate(20, 30, 8)


def test_pool_is_mixed_as_the_format_asks() -> None:
    document = generate(1000, 1000)
    hosts, vms = document["hosts"], document["vms"]
    kinds = [host["kind"] for host in hosts]
    assert 0.82 < kinds.count("kvm") / 1000 < 0.9
    assert 0.03 < kinds.count("cloud") / 1000 < 0.07
    texts = [(vm["requirement"], vm["rank"]) for vm in vms]
    assert 150 < sum(texts.count(text) == 1 for text in texts) < 300, "own expressions"
    assert len(set(texts)) < 450
    assert all(0 <= host["cpu_free"] <= host["cpu_total"] for host in hosts)


@pytest.mark.parametrize("size", [(100, 100), (300, 1000), (1000, 1000)])
def test_isthmus_chooses_what_the_plain_greedy_chooses(size: tuple[int, int]) -> None:
    document = generate(*size, seed=3)
    untouched = copy.deepcopy(document)
    answer = solve(document)
    assert document == untouched
    choices, _ = numpy_greedy.solve(document)
    assert [host for _, host in answer["placements"]] == choices
    assert numpy_greedy.replay(document, answer["placements"]) == RIGHT
    assert 0.05 < choices.count(-1) / len(choices) < 0.35, "who finds no host"


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
def test_c_greedy_chooses_what_the_numpy_greedy_chooses() -> None:
    document = generate(700, 1500, seed=4)  # more than two blocks of hosts, the last one not full
    assert c_greedy.solve(document, c_greedy.compiled())[0] == numpy_greedy.solve(document)[0]


def test_command_reads_and_writes_the_format(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    document = generate(30, 60)
    source, target = tmp_path / "in.json", tmp_path / "out.json"
    source.write_text(json.dumps(document))
    subprocess.run(
        [sys.executable, "-m", "bench.placement", str(source), str(target)],
        cwd=pytestconfig.rootpath,
        check=True,
    )
    answer = json.loads(target.read_text())
    assert answer.keys() == {"placements", "info"}
    assert answer["info"].keys() == {"solve_s", "cpu_s"}
    assert all(seconds >= 0 for seconds in answer["info"].values())
    assert numpy_greedy.replay(document, answer["placements"]) == RIGHT


def test_another_format_is_refused() -> None:
    with pytest.raises(ValueError, match=FORMAT):
        solve({"format": "placement-bench/2", "hosts": [], "vms": []})


def test_vm_whose_expression_cannot_be_read_is_left_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    document = generate(5, 3)
    document["vms"][1]["requirement"] = "kind = 1"
    assert solve(document)["placements"][1] == [1, -1]
    assert document["vms"][1]["id"] in capsys.readouterr().err


def faulty_pool() -> dict[str, Any]:
    host = {
        "kind": "kvm",
        "cpu_free": 4,
        "mem_free_mb": 100,
        "disk_free_gb": 9,
        "gpu_free": 0,
        "running_vms": 0,
    }
    vm = {
        "cpu": 3,
        "mem_mb": 1,
        "disk_gb": 1,
        "gpus": 0,
        "requirement": 'kind == "kvm"',
        "rank": "cpu_free",
    }
    hosts = [host, {**host, "cpu_free": 5}, {**host, "kind": "cloud", "cpu_free": 9}]
    return {"format": FORMAT, "hosts": hosts, "vms": [{"id": str(number), **vm} for number in range(3)]}


@pytest.mark.parametrize(
    ("choices", "wrong"),
    [
        ([1, 0, -1], {}),
        ([0, 1, -1], {"not best": 1}),
        ([1, 1, -1], {"infeasible": 1, "missed": 1}),
        ([2, 1, 0], {"infeasible": 1}),
        ([1, -1, -1], {"missed": 2}),
        ([1, 0], {"malformed": 1}),
        ([1, 0, 3], {"malformed": 1}),
    ],
)
def test_replay_finds_what_is_wrong(choices: list[int], wrong: dict[str, int]) -> None:
    placements = [[vm, host] for vm, host in enumerate(choices)]
    assert numpy_greedy.replay(faulty_pool(), placements) == {**RIGHT, **wrong}


def test_replay_wants_the_placements_in_the_order_of_the_list() -> None:
    assert numpy_greedy.replay(faulty_pool(), [[1, 1], [0, 0], [2, -1]])["malformed"] == 1


def test_peers_read_expressions_with_the_precedence_of_c() -> None:
    assert read("a || b && !c == d + 2 * -e") == (
        "||",
        ("name", "a"),
        (
            "&&",
            ("name", "b"),
            (
                "==",
                ("!", ("name", "c")),
                ("+", ("name", "d"), ("*", ("number", 2.0), ("neg", ("name", "e")))),
            ),
        ),
    )
    assert read('has(f, "x") ? 1 : a ? 2 : 3') == (
        "?",
        ("has", "f", "x"),
        ("number", 1.0),
        ("?", ("name", "a"), ("number", 2.0), ("number", 3.0)),
    )
    for text in ("a b", "(a", "a +", "§"):
        with pytest.raises(ValueError):
            read(text)
