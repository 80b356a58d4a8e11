"""The catalogue: images, flavors and key pairs."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from broker import flavor, image, keypair, vm
from broker.errors import Exists, InUse, InvalidRequest, NotFound

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0K0C6CJTNCUvZ8ux8uhWkDJEMwFjPa8PWnHnYqVTyX ada@lab"


def add(stage, source, **asked):
    return image.create(
        stage.broker, stage.admin, **{"name": "disk", "path": str(source), "format": "raw", **asked}
    )


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "source.raw"
    path.write_bytes(b"not qcow2\n" * 1000)
    return path


def test_image_is_copied_with_its_kernel_and_its_digest(stage, disk, tmp_path):
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(b"kernel")
    row = add(stage, disk, kernel=str(kernel), cmdline="quiet")
    disk.unlink()
    assert row.size_bytes == 10_000
    assert row.sha256 == hashlib.sha256(b"not qcow2\n" * 1000).hexdigest()
    spec = image.spec(row, "campus")
    assert Path(spec.path).read_bytes().startswith(b"not qcow2")
    assert Path(spec.kernel).read_bytes() == b"kernel"
    assert (spec.initrd, spec.cmdline, spec.remote_id) == ("", "quiet", "")


@pytest.mark.parametrize(
    "asked", [{"path": "relative.raw"}, {"path": "/nowhere/disk.raw"}, {"format": "qcow2"}], ids=str
)
def test_image_with_a_mistake_is_refused_and_leaves_no_file(stage, disk, asked):
    before = sorted(stage.broker.images_dir.iterdir())
    with pytest.raises(InvalidRequest) as caught:
        add(stage, disk, **asked)
    assert caught.value.hint
    assert sorted(stage.broker.images_dir.iterdir()) == before


def test_image_that_cannot_be_copied_leaves_no_file(stage, disk):
    before = sorted(stage.broker.images_dir.iterdir())
    with pytest.raises(InvalidRequest):
        add(stage, disk, kernel="/nowhere/vmlinuz")
    assert sorted(stage.broker.images_dir.iterdir()) == before


@pytest.mark.skipif(
    shutil.which("qemu-img") is None, reason="qemu-img makes the image; `make setup` installs it"
)
@pytest.mark.parametrize("installed", [True, False], ids=["qemu-img", "no qemu-img"])
@pytest.mark.parametrize("how", ["backing file", "data file"])
def test_qcow2_that_names_another_file_is_refused(stage, tmp_path, monkeypatch, how, installed):
    """It would let an image read any file of a host (CVE-2024-32498), whether the broker has qemu-img or not."""
    secret, trap = tmp_path / "secret.raw", tmp_path / "trap.qcow2"
    secret.write_bytes(b"\0" * 65536)
    options = ["-F", "raw", "-b", secret] if how == "backing file" else ["-o", f"data_file={secret}"]
    size = [] if how == "backing file" else ["64K"]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, trap, *size], check=True, timeout=30)
    if not installed:
        monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InvalidRequest, match=f"needs another file, its {how}"):
        add(stage, trap, format="qcow2")


def test_image_that_is_exchanged_while_it_is_copied_is_refused(stage, disk, monkeypatch):
    before = sorted(stage.broker.images_dir.iterdir())
    readable = image._readable

    def exchanged(path, noun):
        file = readable(path, noun)
        monkeypatch.setattr(image, "_copy", lambda source, target: target.write_bytes(b"QFI\xfb" + bytes(76)))
        return file

    monkeypatch.setattr(image, "_readable", exchanged)
    with pytest.raises(InvalidRequest, match="is qcow2, but the format given is raw"):
        add(stage, disk)
    assert sorted(stage.broker.images_dir.iterdir()) == before


def test_name_of_an_image_is_taken_until_it_is_deleted(stage, disk):
    add(stage, disk)
    with pytest.raises(Exists):
        add(stage, disk)
    image.delete(stage.broker, stage.admin, "disk")
    add(stage, disk)


def test_image_in_use_is_kept_and_one_with_a_history_gives_its_name_back(stage, disk):
    row = stage.create("web")
    with pytest.raises(InUse):
        image.delete(stage.broker, stage.admin, "tiny")
    stage.finish(vm.delete(stage.broker, stage.member, row.id)[1])
    image.delete(stage.broker, stage.admin, "tiny")
    with pytest.raises(NotFound):
        image.get(stage.broker, stage.reader, "tiny")
    assert image.list_images(stage.broker, stage.reader) == []
    add(stage, disk, name="tiny")
    assert stage.vm(row.id).state == "terminated"


def test_image_is_mapped_to_sites_that_exist(stage):
    with pytest.raises(NotFound):
        image.map_sites(stage.broker, stage.admin, "tiny", {"nowhere": "ami-1"})


def test_flavor_goes_and_its_vms_keep_their_size(stage):
    row = stage.create("web")
    with pytest.raises(Exists):
        flavor.create(stage.broker, stage.admin, name="small", vcpus=9, mem_mb=9, disk_gb=9)
    flavor.delete(stage.broker, stage.admin, "small")
    assert [item.name for item in flavor.list_flavors(stage.broker, stage.reader)] == ["large"]
    assert stage.vm(row.id).vcpus == 2


def test_key_pair_is_of_its_project(stage):
    row = keypair.create(stage.broker, stage.member, name="ada", public_key=KEY)
    assert row.fingerprint.startswith("SHA256:")
    with pytest.raises(Exists):
        keypair.create(stage.broker, stage.member, name="ada", public_key=KEY)
    with pytest.raises(NotFound):
        keypair.get(stage.broker, stage.outsider, "ada")
    assert stage.create("web", key_pair="ada").state == "running"
    keypair.delete(stage.broker, stage.member, "ada")
    assert keypair.list_key_pairs(stage.broker, stage.reader) == []


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("hello", ".pub"),
        ("", ".pub"),
        (KEY + "\n" + KEY, ".pub"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "PRIVATE"),
    ],
)
def test_text_that_is_no_public_key_is_refused(stage, text, hint):
    with pytest.raises(InvalidRequest) as caught:
        keypair.create(stage.broker, stage.member, name="ada", public_key=text)
    assert hint in caught.value.hint
