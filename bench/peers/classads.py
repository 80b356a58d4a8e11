"""HTCondor's ClassAds as an engine: ``classad2`` from the package ``htcondor``, with a loop of our own around it.

The negotiator is not in that package; this compares the evaluation of requirements and ranks. Run as a script inside
an environment that has the package, it reads a bench file and writes an answer file.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import Any

PACKAGE = "htcondor"

_HAS = re.compile(r'has\((\w+), *("[^"]*")\)')
_NEEDS = (("cpu_free", "cpu"), ("mem_free_mb", "mem_mb"), ("disk_free_gb", "disk_gb"), ("gpu_free", "gpus"))


def environment(folder: Path) -> Path:
    """A fresh Python environment with the package; the path of its interpreter. Raises CalledProcessError."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", PACKAGE], check=True)
    return python


def solve(python: Path, source: Path, choices: list[int]) -> tuple[float, bool]:
    """CPU seconds of deciding, and whether the choices are the same."""
    target = source.with_name("classads.json")
    subprocess.run([str(python), __file__, str(source), str(target)], check=True)
    answer = json.loads(target.read_text())
    return answer["info"]["cpu_s"], [host for _, host in answer["placements"]] == choices


def decide(document: dict[str, Any]) -> dict[str, Any]:
    """The answer, by one ad per host and one expression per text, evaluated for each pair."""
    import classad2  # type: ignore[import-not-found]  # only in the environment of its own

    ads = []
    for host in document["hosts"]:
        ad = classad2.ClassAd()
        for name, value in host.items():
            # Two integers divide as integers in this language; the bench's numbers are floats.
            ad[name] = float(value) if isinstance(value, int | float) else value
        ads.append(ad)
    trees = {
        text: classad2.ExprTree(_HAS.sub(r"member(\2, \1)", text))
        for vm in document["vms"]
        for text in (vm["requirement"], vm["rank"])
    }
    wall, cpu = time.perf_counter(), time.process_time()
    placements = []
    for index, vm in enumerate(document["vms"]):
        requirement, rank = trees[vm["requirement"]], trees[vm["rank"]]
        best, best_rank = -1, float("-inf")
        for number, ad in enumerate(ads):
            if all(ad[free] >= vm[asked] for free, asked in _NEEDS) and requirement.eval(ad) is True:
                value = float(rank.eval(ad))
                if value > best_rank:
                    best, best_rank = number, value
        if best >= 0:
            for free, asked in _NEEDS:
                ads[best][free] -= vm[asked]
            ads[best]["running_vms"] += 1.0
        placements.append([index, best])
    info = {"solve_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    return {"placements": placements, "info": info}


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(decide(json.loads(Path(sys.argv[1]).read_text()))))
