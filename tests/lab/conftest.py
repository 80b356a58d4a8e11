"""Fixtures of the lab's tests: short directories (sockets have short paths), the guest image, a seed writer."""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import image, process
from lab.node import remove_tree


@pytest.fixture
def lab_directory() -> Iterator[Path]:
    """A directory for a lab. Whatever runs there is ended afterwards, also when the test failed."""
    directory = Path(tempfile.mkdtemp(prefix="isl-", dir="/var/tmp"))
    try:
        yield directory
    finally:
        process.kill_all(directory)
        remove_tree(directory)


@pytest.fixture(scope="session")
def tiny_image() -> image.TinyImage:
    """The tiny guest, from the user's cache or built into it."""
    return image.build()


@pytest.fixture
def write_seed() -> Callable[[Path, dict[str, str]], Path]:
    """Writes a NoCloud seed: an ISO 9660 image labelled ``cidata`` with the given files."""
    import pycdlib

    def write(path: Path, files: dict[str, str]) -> Path:
        iso = pycdlib.PyCdlib()
        iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="cidata")
        for number, (name, text) in enumerate(files.items()):
            data = text.encode()
            iso.add_fp(io.BytesIO(data), len(data), f"/F{number}.;1", rr_name=name, joliet_path=f"/{name}")
        iso.write(str(path))
        iso.close()
        return path

    return write


@pytest.fixture
def wait_for() -> Callable[..., None]:
    """``wait_for(condition, timeout_s, what)``: polls until the condition holds, fails with ``what`` otherwise."""

    def wait(condition: Callable[[], object], timeout_s: float, what: str) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, f"{what}: not within {timeout_s:g} s"
            time.sleep(0.1)

    return wait
