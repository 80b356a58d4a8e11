"""The plain greedy in numpy: for each VM all hosts anew, no cache but the compiled expressions.

It is the reference as well: ``steps`` yields what a replay check compares a decision with.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.peers.language import Tree, is_text, read

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

CAPACITY = (("cpu_free", "cpu"), ("mem_free_mb", "mem_mb"), ("disk_free_gb", "disk_gb"), ("gpu_free", "gpus"))


@dataclass(frozen=True)
class Step:
    """What the greedy sees when a VM's turn comes: who could take it, and their ranks, minus infinity for the others."""

    feasible: Bools
    ranks: Floats


class Pool:
    """Columns of the hosts: numbers as they are, texts as codes, one truth column per item of a list."""

    def __init__(self, hosts: list[dict[str, Any]]) -> None:
        self.rows = len(hosts)
        self.columns: dict[str, NDArray[Any]] = {}
        self.codes: dict[str, dict[str, int]] = {}
        for name in dict.fromkeys(name for host in hosts for name in host):
            cells = [host[name] for host in hosts]
            if isinstance(cells[0], str):
                codes: dict[str, int] = {}
                self.columns[name] = np.array([codes.setdefault(cell, len(codes)) for cell in cells])
                self.codes[name] = codes
            elif isinstance(cells[0], list):
                for item in {item for cell in cells for item in cell}:
                    self.columns[f"{name} has {item}"] = np.array([item in cell for cell in cells])
            else:
                self.columns[name] = np.array(cells, dtype=np.float64)
        self.columns["no such item"] = np.zeros(self.rows, dtype=np.bool_)

    def compiled(self, text: str) -> CodeType:
        """The expression as Python code over ``c``, the columns."""
        return compile(self._source(read(text)), "<expression>", "eval")

    def _source(self, tree: Tree) -> str:
        kind, *parts = tree
        if kind == "number":
            return repr(parts[0])
        if kind == "name":
            return f"c[{parts[0]!r}]"
        if kind == "has":
            key = f"{parts[0]} has {parts[1]}"
            return f"c[{key if key in self.columns else 'no such item'!r}]"
        if kind in ("==", "!=") and is_text(parts[0], frozenset(self.codes)):
            (_, name), (_, value) = parts[0], parts[1]
            return f"(c[{name!r}] {kind} {self.codes[str(name)].get(str(value), -1)})"
        sources = [self._source(part) for part in parts]
        if kind == "?":
            return f"where({sources[0]}, {sources[1]}, {sources[2]})"
        if kind == "!":
            return f"~{sources[0]}"
        if kind == "neg":
            return f"(-{sources[0]})"
        symbol = {"&&": "&", "||": "|"}.get(str(kind), str(kind))
        return f"({sources[0]} {symbol} {sources[1]})"


def steps(document: dict[str, Any], choices: list[int] | None = None) -> Iterator[tuple[int, int, Step]]:
    """Each VM in turn: (VM, chosen host or -1, what was seen). ``choices``: follow these instead of the best."""
    pool = Pool(document["hosts"])
    vms = document["vms"]
    code = {text: pool.compiled(text) for vm in vms for text in (vm["requirement"], vm["rank"])}
    scope = {"c": pool.columns, "where": np.where, "__builtins__": {}}
    for index, vm in enumerate(vms):
        yield index, *_step(pool, vm, code, scope, None if choices is None else choices[index])


def _step(
    pool: Pool, vm: dict[str, Any], code: dict[str, CodeType], scope: dict[str, Any], choice: int | None
) -> tuple[int, Step]:
    columns = pool.columns
    mask = (columns["cpu_free"] >= vm["cpu"]) & (columns["mem_free_mb"] >= vm["mem_mb"])
    mask &= columns["disk_free_gb"] >= vm["disk_gb"]
    mask &= columns["gpu_free"] >= vm["gpus"]
    mask &= eval(code[vm["requirement"]], scope)  # noqa: S307 - our own code, made from a parsed tree
    rank = eval(code[vm["rank"]], scope)  # noqa: S307
    ranks = np.where(mask, rank, -np.inf)
    best = int(ranks.argmax())
    host = (best if mask[best] else -1) if choice is None else choice
    seen = Step(mask, ranks)
    if host >= 0:
        for name, asked in CAPACITY:
            columns[name][host] -= vm[asked]
        columns["running_vms"][host] += 1
    return host, seen


def solve(document: dict[str, Any]) -> tuple[list[int], float]:
    """The host of each VM, and the CPU seconds of deciding alone (columns and compiled code are there)."""
    pool = Pool(document["hosts"])
    vms = document["vms"]
    code = {text: pool.compiled(text) for vm in vms for text in (vm["requirement"], vm["rank"])}
    scope = {"c": pool.columns, "where": np.where, "__builtins__": {}}
    began = time.process_time()
    hosts = [_step(pool, vm, code, scope, None)[0] for vm in vms]
    return hosts, time.process_time() - began


def replay(document: dict[str, Any], placements: list[list[int]]) -> dict[str, int]:
    """Follow somebody's placements and count what is wrong with them; all zero when they are the plain greedy's.

    ``overcommitted``: the host lacked room or its requirement was not true. ``not best``: another feasible host
    ranked higher, or as high with a lower index. ``missed``: left although a host was feasible. ``malformed``: not
    exactly one placement per VM in list order, or no such host.
    """
    found = {"malformed": 0, "infeasible": 0, "not best": 0, "missed": 0}
    vms, hosts = len(document["vms"]), len(document["hosts"])
    if [vm for vm, _ in placements] != list(range(vms)) or any(
        not -1 <= host < hosts for _, host in placements
    ):
        found["malformed"] = 1
        return found
    for _index, host, seen in steps(document, [host for _, host in placements]):
        if host < 0:
            found["missed"] += bool(seen.feasible.any())
        elif not seen.feasible[host]:
            found["infeasible"] += 1
        else:
            found["not best"] += int(seen.ranks.argmax()) != host
    return found
