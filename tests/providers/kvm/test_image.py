"""Images are named by content, and a file that is no image is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from providers.kvm.image import image_key, virtual_size
from providers.kvm.vm import check_spec
from providers.port import ImageSpec, InvalidSpec, VMSpec

GIB = 1024**3


def qcow2(path: Path, size: int) -> str:
    """A file that begins as a qcow2 of that virtual size does."""
    path.write_bytes(b"QFI\xfb" + (3).to_bytes(4, "big") + bytes(16) + size.to_bytes(8, "big") + bytes(480))
    return str(path)


def test_key_tells_contents_apart() -> None:
    assert image_key(ImageSpec("img-1", "x", sha256="a" * 64)) != image_key(
        ImageSpec("img-1", "x", sha256="b" * 64)
    )


def test_virtual_size_is_read_from_the_qcow2_header(tmp_path: Path) -> None:
    assert virtual_size(ImageSpec("i", "x", path=qcow2(tmp_path / "x", 3 * GIB))) == 3 * GIB


def test_raw_image_is_as_large_as_its_file(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(bytes(12345))
    assert virtual_size(ImageSpec("i", "x", "raw", str(tmp_path / "raw"))) == 12345


def test_file_that_is_no_qcow2_is_refused(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(bytes(12345))
    with pytest.raises(InvalidSpec, match="is not a qcow2 file"):
        virtual_size(ImageSpec("i", "x", "qcow2", str(tmp_path / "raw")))


def test_disk_smaller_than_its_image_is_refused(make_spec: Callable[..., VMSpec], tmp_path: Path) -> None:
    image = ImageSpec("i", "debian", path=qcow2(tmp_path / "x", 2 * GIB + 1))
    with pytest.raises(InvalidSpec, match="debian needs a disk of 3 GiB, the flavor has 2 GiB"):
        check_spec(make_spec(image=image, disk_gb=2))
    check_spec(make_spec(image=image, disk_gb=3))
