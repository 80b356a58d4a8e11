"""Hooks of the build of ``isthmus-server``: the kernel of the match, and the version of the SDK that it needs.

``placement/kernel.c`` is compiled when the server is installed or packed into a wheel. Without a C compiler it is left
out, and the match decides in numpy: the same, but slower.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

# Results must be those of numpy bit by bit: no fused multiply-add, no fast-math.
FLAGS = ("-O3", "-std=c11", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")


class DependenciesHook(MetadataHookInterface):
    """Adds the SDK of the very same version, since the two share ``isthmus/schema``."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Fill in the dependencies: those of pyproject.toml, and the SDK."""
        metadata["dependencies"] = [f"isthmus=={metadata['version']}", *self.config["dependencies"]]


class KernelHook(BuildHookInterface):
    """Compiles into the source folder, where an editable install finds it too."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and have the wheel take the library along."""
        folder = Path(self.root, "placement")
        library, fresh = folder / "_kernel.so", folder / f"_kernel.{os.getpid()}.so"
        compiler = os.environ.get("CC", "cc")
        command = [compiler, *FLAGS, "-o", str(fresh), str(folder / "kernel.c"), "-lm"]
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            fresh.unlink(missing_ok=True)
            library.unlink(missing_ok=True)
            print(f"without the compiled match, which is faster: {error}", file=sys.stderr)
            return
        # A process that has the old one open keeps it.
        fresh.replace(library)
        build_data["artifacts"].append("placement/_kernel.so")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
