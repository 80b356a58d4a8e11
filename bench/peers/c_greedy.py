"""The plain greedy in C, compiled with gcc when it is asked for. Python only reads the file and writes the code."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.peers.language import Tree, is_text, read
from bench.peers.numpy_greedy import CAPACITY, Pool

GCC = ("gcc", "-O3", "-march=native", "-shared", "-fPIC")

BLOCK = 256
_OPERATIONS = {
    name: code
    for code, name in enumerate(
        (
            "column",
            "constant",
            "neg",
            "!",
            "+",
            "-",
            "*",
            "/",
            "<",
            "<=",
            ">",
            ">=",
            "==",
            "!=",
            "&&",
            "||",
            "?",
        )
    )
}


def compiled() -> Callable[..., None]:
    """The C function. Raises FileNotFoundError without gcc, CalledProcessError when it fails."""
    source = Path(__file__).with_name("greedy.c")
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as folder:
        library = Path(folder) / "greedy.so"
        subprocess.run([*GCC, "-o", str(library), str(source), "-lm"], check=True)
        function: Callable[..., None] = ctypes.CDLL(str(library)).greedy
        return function


def solve(document: dict[str, Any], function: Callable[..., None]) -> tuple[list[int], float]:
    """The host of each VM, and the CPU seconds of deciding alone."""
    pool = Pool(document["hosts"])
    vms = document["vms"]
    rows = -(-pool.rows // BLOCK) * BLOCK
    names = [name for name, _ in CAPACITY] + ["running_vms"]
    names += [name for name in pool.columns if name not in names]
    columns = np.full((len(names), rows), -1.0)
    for number, name in enumerate(names):
        columns[number, : pool.rows] = pool.columns[name]
    writer = _Writer(pool, {name: number for number, name in enumerate(names)})
    spans = np.array(
        [[writer.span(vm[part]) for part in ("requirement", "rank")] for vm in vms], dtype=np.int64
    )
    begins, ends = np.ascontiguousarray(spans[:, :, 0]), np.ascontiguousarray(spans[:, :, 1])
    needs = np.array([[vm[asked] for _, asked in CAPACITY] for vm in vms], dtype=np.float64)
    code = np.array(writer.code, dtype=np.int32)
    constants = np.array(writer.constants, dtype=np.float64)
    chosen = np.empty(len(vms), dtype=np.int64)

    def pointer(array: NDArray[Any]) -> ctypes.c_void_p:
        return ctypes.c_void_p(array.ctypes.data)

    counts = [ctypes.c_int64(count) for count in (len(vms), pool.rows, rows)]
    began = time.process_time()
    function(
        counts[0],
        counts[1],
        pointer(columns),
        counts[2],
        pointer(needs),
        pointer(code),
        pointer(begins),
        pointer(ends),
        pointer(constants),
        pointer(chosen),
    )
    taken = time.process_time() - began
    return chosen.tolist(), taken


class _Writer:
    """Expressions as postfix code, each text once."""

    def __init__(self, pool: Pool, numbers: dict[str, int]) -> None:
        self.pool = pool
        self.numbers = numbers
        self.code: list[tuple[int, int]] = []
        self.constants: list[float] = []
        self.spans: dict[str, tuple[int, int]] = {}

    def span(self, text: str) -> tuple[int, int]:
        found = self.spans.get(text)
        if found is None:
            begin = len(self.code)
            self.write(read(text))
            found = self.spans[text] = (begin, len(self.code))
        return found

    def write(self, tree: Tree) -> None:
        kind, *parts = tree
        if kind == "number":
            self.constant(parts[0])
        elif kind == "name":
            self.emit("column", self.numbers[str(parts[0])])
        elif kind == "has":
            key = f"{parts[0]} has {parts[1]}"
            self.emit("column", self.numbers[key if key in self.numbers else "no such item"])
        elif kind in ("==", "!=") and is_text(parts[0], frozenset(self.pool.codes)):
            (_, name), (_, value) = parts[0], parts[1]
            self.emit("column", self.numbers[str(name)])
            self.constant(self.pool.codes[str(name)].get(str(value), -1))
            self.emit(str(kind))
        else:
            for part in parts:
                self.write(part)
            self.emit(str(kind))

    def emit(self, operation: str, argument: int = 0) -> None:
        self.code.append((_OPERATIONS[operation], argument))

    def constant(self, value: float) -> None:
        self.constants.append(value)
        self.emit("constant", len(self.constants) - 1)
