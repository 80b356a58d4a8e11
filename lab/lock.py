"""One command at a time on a lab."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Busy(Exception):
    """Another command works on this lab."""


@contextmanager
def only_one(directory: Path) -> Iterator[None]:
    """Hold the lab in ``directory`` for a while. Raises Busy.

    The lock is a socket of the abstract name space (unix(7)): it is no file, and the kernel drops it with the
    process that holds it, however that one ends.
    """
    name = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:32]
    with socket.socket(socket.AF_UNIX) as lock:
        try:
            lock.bind(f"\0isthmus-lab-{name}")
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise Busy(f"another command works on the lab in {directory}: wait for its end") from None
        yield
