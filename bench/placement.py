"""How fast the match is, beside other engines on the same pool.

``python -m bench.placement IN OUT`` reads a file of the format ``placement-bench/1``, decides, and writes the
placements: what any engine can be compared by. Without arguments pools of four sizes are made and decided by Isthmus,
a plain greedy in numpy and one in C (gcc), and every answer is replayed. ``--classads`` adds HTCondor's ClassAds,
installed from the Python package index into an environment of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench._pool import FORMAT, generate
from placement.language import ExpressionError
from placement.match import Matcher
from placement.request import Decision, Request
from placement.table import HostTable
from placement.why import Explainer

SIZES = ((100, 100), (1000, 1000), (3200, 10000), (10000, 100000))
"""(hosts, VMs)."""

CLASSADS_SIZES = SIZES[:2]
"""ClassAds pay for each VM and host: minutes and more at the larger sizes."""

MOST_OF_C = 3.0
LEAST_OF_NUMPY = 2.0
MIDDLE = (3200, 10000)
"""Goals at this size, in CPU time of deciding: at most so many times the C greedy, and so many times less than numpy."""

MOST_WHY = 1.0
"""Goal there: to say why of every VM costs at most as much again as to decide."""

TOP = (10000, 100000)
MOST_WHOLE_S = 5.0
"""Goal at this size: CPU seconds of the whole process from start to end."""


def solve(document: dict[str, Any], *, why: bool = False) -> dict[str, Any]:
    """What the answer file holds. The times begin when expressions are compiled and columns are built.

    ``why`` adds what it costs to say why of every VM, in CPU seconds.

    Raises ValueError for another format.
    """
    if document.get("format") != FORMAT:
        raise ValueError(f"the format is {document.get('format')!r}, not {FORMAT!r}")
    table = HostTable.from_rows(document["hosts"])
    requests = [
        Request(
            id=vm["id"],
            cpu=vm["cpu"],
            mem_mb=vm["mem_mb"],
            disk_gb=vm.get("disk_gb", 0),
            gpus=vm.get("gpus", 0),
            requirement=vm.get("requirement"),
            rank=vm.get("rank"),
        )
        for vm in document["vms"]
    ]
    matcher = Matcher(table, runners_up=False)
    for request in requests:
        try:
            matcher.compile(request)
        except ExpressionError as error:
            print(f"{request.id} cannot be placed: {error}", file=sys.stderr)
    wall, cpu = time.perf_counter(), time.process_time()
    decisions: list[Decision] = matcher.place_all(requests)
    info = {"solve_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    if why:
        info["why_s"] = _explained_s(document["hosts"], requests)
    placements = [
        [index, -1 if decision.host is None else decision.host] for index, decision in enumerate(decisions)
    ]
    return {"placements": placements, "info": info}


def _explained_s(hosts: list[dict[str, Any]], requests: Sequence[Request]) -> float:
    """CPU seconds of the explanation of every VM: the runner-up and its gap where one was placed, which terms refused
    how many hosts, the nearest miss and the smallest change where none was."""
    seconds = []
    for runners_up in (False, True):
        table = HostTable.from_rows(hosts)
        matcher = Matcher(table, runners_up=runners_up)
        for request in requests:
            with contextlib.suppress(ExpressionError):
                matcher.compile(request)
        began = time.process_time()
        decisions = matcher.place_all(requests)
        seconds.append(time.process_time() - began)
    began = time.process_time()
    explainer = Explainer(table)
    for request, decision in zip(requests, decisions, strict=True):
        if decision.host is None and not decision.error:
            explainer.explain(request)
    return max(0.0, seconds[1] - seconds[0]) + time.process_time() - began


def run(source: Path, target: Path, *, why: bool = False) -> None:
    """Read one file and write the other."""
    # One short run over data that stays: there is no garbage in cycles to look for.
    gc.disable()
    target.write_text(json.dumps(solve(json.loads(source.read_bytes()), why=why)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer one file, or print the table; 1 when a goal is missed or an answer is wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench.placement", description=__doc__)
    parser.add_argument("source", nargs="?", type=Path, metavar="IN", help="a pool and its queue")
    parser.add_argument("target", nargs="?", type=Path, metavar="OUT", help="where the placements go")
    parser.add_argument("--classads", action="store_true", help="compare with HTCondor's ClassAds too")
    parser.add_argument("--generate", metavar="HOSTSxVMS", help="write such a pool to IN and end")
    parser.add_argument("--why", action="store_true", help="also measure what the explanations cost")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=int, default=3, help="the median of so many runs is shown")
    asked = parser.parse_args(arguments)
    if asked.generate:
        if asked.source is None:
            parser.error("name the file to write")
        hosts, vms = map(int, asked.generate.split("x"))
        asked.source.write_text(json.dumps(generate(hosts, vms, asked.seed)))
        return 0
    if asked.source is None:
        return compare(asked.seed, asked.runs, classads=asked.classads)
    if asked.target is None:
        parser.error("OUT is missing")
    run(asked.source, asked.target, why=asked.why)
    return 0


def compare(seed: int, runs: int, *, classads: bool) -> int:
    """Print the table; 1 when a goal is missed or an answer is wrong."""
    from bench.peers import c_greedy
    from bench.peers import classads as ads

    failures: list[str] = []
    per_vm: dict[tuple[int, int], float] = {}
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as folder:
        try:
            scan = c_greedy.compiled()
        except FileNotFoundError:
            scan = None
            print("no gcc: without the C greedy")
        python = ads.environment(Path(folder) / "classads") if classads else None
        print(
            "CPU seconds of deciding (median); 'whole' is the whole process: start, read, compile, decide, write; "
            "'why x': to say why of every VM, beside deciding"
        )
        print(
            f"{'hosts x VMs':16}{'placed':>8}{'Isthmus':>10}{'whole':>8}{'us/VM':>8}"
            f"{'why x':>7}{'numpy':>9}{'C':>9}{'x C':>7}{'numpy x':>9}  replay"
        )
        for size in SIZES:
            row = _row(size, seed, runs, Path(folder), scan)
            per_vm[size] = row["ours"] / size[1] * 1e6
            c, ratio = (f"{row['c']:.4f}", f"{row['ours'] / row['c']:.2f}") if scan else ("-", "-")
            print(
                f"{size[0]:>6} x {size[1]:<7}{row['placed']:>8}{row['ours']:10.4f}{row['whole']:8.2f}"
                f"{per_vm[size]:8.1f}{row['why']:7.2f}{row['numpy']:9.4f}{c:>9}{ratio:>7}{row['numpy'] / row['ours']:9.2f}"
                f"  {row['verdict']}",
                flush=True,
            )
            if row["verdict"] != _RIGHT:
                failures.append(f"{size[0]} x {size[1]}: {row['verdict']}")
            failures += _missed(size, row)
            if python is not None and size in CLASSADS_SIZES:
                seconds, same = ads.solve(python, Path(folder) / "pool.json", row["choices"])
                print(
                    f"{'':16}ClassAds {seconds:.3f}, {seconds / row['ours']:.0f} times as long; same choices: {same}"
                )
    (few, _), (many, _) = SIZES[0], SIZES[-1]
    hosts, cost = many / few, per_vm[SIZES[-1]] / per_vm[SIZES[0]]
    print(f"{hosts:.0f} times the hosts: {cost:.1f} times the cost of a VM")
    if cost >= hosts:
        failures.append("the cost of a VM grows as fast as the number of hosts")
    print("\n".join(f"MISSED {failure}" for failure in failures) or "goals met")
    return int(bool(failures))


_RIGHT = "the plain greedy's"


def _row(size: tuple[int, int], seed: int, runs: int, folder: Path, scan: Any) -> dict[str, Any]:
    from bench.peers import c_greedy, numpy_greedy

    document = generate(*size, seed)
    source, target = folder / "pool.json", folder / "answer.json"
    source.write_text(json.dumps(document))
    ours, whole, plain, c, explained = [], [], [], [], []
    choices: list[int] = []
    for _ in range(runs):
        before = _children_s()
        command = [sys.executable, "-m", "bench.placement", str(source), str(target)]
        subprocess.run(command, check=True)
        whole.append(_children_s() - before)
        answer = json.loads(target.read_text())
        subprocess.run([*command, "--why"], check=True)
        beside = json.loads(target.read_text())["info"]
        explained.append(beside["why_s"] / beside["cpu_s"])
        ours.append(answer["info"]["cpu_s"])
        choices, seconds = numpy_greedy.solve(document)
        plain.append(seconds)
        if scan:
            scanned, seconds = c_greedy.solve(document, scan)
            c.append(seconds)
            assert scanned == choices, "the C greedy and the numpy greedy disagree"
    found = numpy_greedy.replay(document, answer["placements"])
    wrong = ", ".join(f"{count} {kind}" for kind, count in found.items() if count)
    if not wrong and [host for _, host in answer["placements"]] != choices:
        wrong = "other choices than the plain greedy's"
    return {
        "placed": sum(host >= 0 for host in choices),
        "choices": choices,
        "ours": statistics.median(ours),
        "whole": statistics.median(whole),
        "why": statistics.median(explained),
        "numpy": statistics.median(plain),
        "c": statistics.median(c) if c else None,
        "verdict": wrong or _RIGHT,
    }


def _missed(size: tuple[int, int], row: dict[str, Any]) -> list[str]:
    """The goals that this row misses, in words."""
    missed = []
    if size == MIDDLE:
        if row["c"] is not None and row["ours"] > MOST_OF_C * row["c"]:
            missed.append(f"{row['ours'] / row['c']:.2f} times the C greedy, at most {MOST_OF_C:g} wanted")
        if row["numpy"] < LEAST_OF_NUMPY * row["ours"]:
            times = row["numpy"] / row["ours"]
            missed.append(f"{times:.2f} times as fast as plain numpy, {LEAST_OF_NUMPY:g} wanted")
        if row["why"] > MOST_WHY:
            missed.append(f"why costs {row['why']:.2f} times the decisions, {MOST_WHY:g} wanted")
    if size == TOP and row["whole"] > MOST_WHOLE_S:
        missed.append(
            f"{row['whole']:.1f} CPU seconds for the whole process, at most {MOST_WHOLE_S:g} wanted"
        )
    return missed


def _children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    sys.exit(main())
