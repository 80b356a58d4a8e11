"""The tiny guest's build: what does not need packages."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import image

ELF = b"\x7fELF" + bytes(range(256)) * 64


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress], ids=["gzip", "xz"])
def test_the_kernel_inside_a_bzimage_is_found(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    assert image._decompressed(b"MZ boot code" + pack(ELF) + b"trailing bytes", tmp_path) == ELF


def test_a_bzimage_of_unknown_packing_is_used_as_it_is(tmp_path: Path) -> None:
    assert image._decompressed(b"MZ unknown", tmp_path) == b"MZ unknown"


def test_modules_are_listed_with_all_they_need_nearest_first(tmp_path: Path) -> None:
    drivers = tmp_path / "root/lib/modules/9.9/kernel/drivers"
    drivers.mkdir(parents=True)
    needs = {
        "virtio_net": "failover,virtio",
        "failover": "base",
        "virtio": "base",
        "base": "",
        "unrelated": "",
    }
    for name, depends in needs.items():
        text = f"\x7fELF..\0license=GPL\0depends={depends}\0name={name}\0"
        (drivers / f"{name}.ko").write_bytes(text.encode())
    image._copy_modules(tmp_path / "guest", tmp_path / "root", "9.9")
    target = tmp_path / "guest/lib/modules/9.9"
    lines = dict(line.split(":") for line in (target / "modules.dep").read_text().splitlines())
    assert set(lines) == {"virtio_net.ko", "failover.ko", "virtio.ko", "base.ko"}
    assert lines["virtio_net.ko"].split()[-1] == "base.ko"
    assert not (target / "unrelated.ko").exists()


def test_a_finished_image_is_used_without_asking_for_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"guest-{image._recipe()}").mkdir()
    monkeypatch.setattr(image, "_run", lambda *args, **kwargs: pytest.fail("a command was run"))
    assert image.build(tmp_path).kernel.parent.parent == tmp_path


def test_a_missing_tool_is_named(tmp_path: Path) -> None:
    with pytest.raises(image.ImageError, match="no-such-tool is not installed; run `make setup`"):
        image._run(["no-such-tool"])
