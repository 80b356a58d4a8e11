"""How long the simulator takes for 8,152 tasks over 149 days: the goal is 10 seconds for the whole command."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

GOAL_S = 10.0
ROOT = Path(__file__).parents[1]


def main() -> int:
    """Run the command; 1 when it takes longer than the goal."""
    command = [
        str(Path(sys.executable).with_name("isthmus")),
        "policy",
        "simulate",
        str(ROOT / "examples/policy.yaml"),
        "--trace",
        str(ROOT / "examples/traces/openb-gpu-2023.tar.gz"),
        "--json",
    ]
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    took = time.perf_counter() - began
    print(
        f"isthmus policy simulate: {took:.1f} s for 8,151 tasks over 149 days on 1,523 hosts (goal {GOAL_S:g})"
    )
    return int(took > GOAL_S)


if __name__ == "__main__":
    sys.exit(main())
