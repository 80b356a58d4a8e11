"""Running a command: the only place of the VPN that does. Keys and rules go by standard input or file."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence

Run = Callable[[Sequence[str], str], str]
"""Called with (argv, standard input); answers standard output. Raises CommandError."""

TIMEOUT_S = 20.0


class CommandError(Exception):
    """A command that is missing, failed or hung, in words."""


def run(argv: Sequence[str], stdin: str = "") -> str:
    """Run a command without a shell and answer what it printed. Raises CommandError."""
    try:
        done = subprocess.run(
            list(argv), input=stdin, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except FileNotFoundError as error:
        raise CommandError(f"{argv[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"{' '.join(argv)}: no end after {TIMEOUT_S:.0f} s") from error
    if done.returncode != 0:
        raise CommandError(f"{' '.join(argv)}: {done.stderr.strip() or f'exit status {done.returncode}'}")
    return done.stdout
