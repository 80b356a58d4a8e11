"""How long the command line takes, as a whole process, with the bare interpreter's start as the floor.

Goals: ``isthmus --help`` 0.3 s, ``isthmus vm list`` 0.5 s (medians of wall time).
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench._served import COMMAND, served

RUNS = 15


def seconds(command: Sequence[str], environment: dict[str, str]) -> float:
    """Wall time of one run. Raises CalledProcessError when it fails."""
    began = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> int:
    """Print the table; 1 when a goal is missed."""
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as folder, served(Path(folder)) as environment:
        rows: dict[str, tuple[Sequence[str], float | None]] = {
            "python -c pass (floor)": ([sys.executable, "-c", "pass"], None),
            "isthmus --help": ([COMMAND, "--help"], 0.3),
            "isthmus vm list": ([COMMAND, "vm", "list"], 0.5),
        }
        times: dict[str, list[float]] = {name: [] for name in rows}
        for run in range(RUNS + 1):
            for name, (command, _goal) in rows.items():
                taken = seconds(command, environment)
                if run:  # the first round warms the caches
                    times[name].append(taken)
    missed = False
    print(f"{'command':26}{'median s':>10}{'min':>8}{'max':>8}{'goal':>8}")
    for name, (_command, goal) in rows.items():
        median = statistics.median(times[name])
        missed = missed or (goal is not None and median > goal)
        shown = "" if goal is None else f"{goal:.2f}"
        print(f"{name:26}{median:10.3f}{min(times[name]):8.3f}{max(times[name]):8.3f}{shown:>8}")
    print("goal missed" if missed else "goals met")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
