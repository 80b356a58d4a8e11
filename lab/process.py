"""Finding and ending the lab's processes, however they came to be left over.

Every process that the lab starts carries ``ISTHMUS_LAB=DIRECTORY`` in its environment. The process 1 of each node
does too, and when that one dies the kernel ends all others of its process name space, so nothing can escape the mark.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path

MARK = "ISTHMUS_LAB"
_KEPT = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "TERM", "TZ", "TMPDIR")


def environment(directory: Path) -> dict[str, str]:
    """The environment of a process that belongs to the lab in ``directory``: its mark, and a home of the lab's.

    Of the user's own only what says how programs are found and how they speak: a proxy, a cloud account or the
    settings of another broker must not reach into the lab.
    """
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**kept, "HOME": str(directory / "home"), MARK: str(directory)}


def marked(directory: Path) -> list[int]:
    """The ids of all live processes of the lab in ``directory``, this one excepted."""
    mark = f"{MARK}={directory}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid() and mark in _words(entry / "environ"):
            found.append(int(entry.name))
    return sorted(found)


def describe(pid: int) -> str:
    """``PID COMMAND`` of a process, for people."""
    words = [word.decode(errors="replace") for word in _words(Path(f"/proc/{pid}/cmdline")) if word]
    return f"{pid} {' '.join(words)}"[:120]


def children(pid: int) -> list[int]:
    """The ids of a process's children."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # The second field, the program's name in brackets, may hold blanks and brackets: proc(5).
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(entry.name))
    return sorted(found)


def started_at(pid: int) -> str:
    """The clock tick at which a process started; with its id it names the process for good. Empty: no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def kill(pid: int, still_ours: Callable[[int], bool] = lambda pid: True, timeout_s: float = 10.0) -> bool:
    """Kill one process and wait until it is gone. False: it would not die in time.

    The process is pinned first and ``still_ours`` asked then, so an id that was used again meanwhile is safe.
    """
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        if not still_ours(pid):
            return True
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        poller = select.poll()
        poller.register(handle, select.POLLIN)
        return bool(poller.poll(timeout_s * 1000))
    except ProcessLookupError:
        return True
    finally:
        os.close(handle)


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process; nothing when it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def kill_all(directory: Path, timeout_s: float = 15.0) -> list[int]:
    """End every process of the lab in ``directory``; returns those that are left after ``timeout_s``."""
    end = time.monotonic() + timeout_s
    while (left := marked(directory)) and time.monotonic() < end:
        for pid in left:
            kill(pid, lambda pid: pid in marked(directory), timeout_s=2.0)
    return left


def _words(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().split(b"\0")
    except OSError:
        return []
