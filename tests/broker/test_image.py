"""The catalogue: images, flavors and key pairs."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from broker import flavor, image, keypair, labelled, launch, project, retention, site, vm
from broker.errors import Exists, InUse, InvalidRequest, NotFound
from broker.size import Size
from broker.states import RealisationState
from broker.store import ImageRow

if TYPE_CHECKING:
    from tests.broker.conftest import Stage

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0K0C6CJTNCUvZ8ux8uhWkDJEMwFjPa8PWnHnYqVTyX ada@lab"


def add(stage: Stage, source: Path, **asked: Any) -> ImageRow:
    return image.create(
        stage.broker, stage.admin, **{"name": "disk", "path": str(source), "format": "raw", **asked}
    )


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "source.raw"
    path.write_bytes(b"not qcow2\n" * 1000)
    return path


def test_image_is_copied_with_its_kernel_and_its_digest(stage: Stage, disk: Path, tmp_path: Path) -> None:
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
def test_image_with_a_mistake_is_refused_and_leaves_no_file(
    stage: Stage, disk: Path, asked: dict[str, str]
) -> None:
    before = sorted(stage.broker.images_dir.iterdir())
    with pytest.raises(InvalidRequest) as caught:
        add(stage, disk, **asked)
    assert caught.value.hint
    assert sorted(stage.broker.images_dir.iterdir()) == before


def test_image_that_cannot_be_copied_leaves_no_file(stage: Stage, disk: Path) -> None:
    before = sorted(stage.broker.images_dir.iterdir())
    with pytest.raises(InvalidRequest):
        add(stage, disk, kernel="/nowhere/vmlinuz")
    assert sorted(stage.broker.images_dir.iterdir()) == before


@pytest.mark.skipif(
    shutil.which("qemu-img") is None, reason="qemu-img makes the image; `make setup` installs it"
)
@pytest.mark.parametrize("installed", [True, False], ids=["qemu-img", "no qemu-img"])
@pytest.mark.parametrize("how", ["backing file", "data file"])
def test_qcow2_that_names_another_file_is_refused(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, installed: bool
) -> None:
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


def test_image_that_is_exchanged_while_it_is_copied_is_refused(
    stage: Stage, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(stage.broker.images_dir.iterdir())
    readable = image._readable

    def exchanged(path: str, noun: str) -> Path:
        file = readable(path, noun)
        monkeypatch.setattr(image, "_copy", lambda source, target: target.write_bytes(b"QFI\xfb" + bytes(76)))
        return file

    monkeypatch.setattr(image, "_readable", exchanged)
    with pytest.raises(InvalidRequest, match="is qcow2, but the format given is raw"):
        add(stage, disk)
    assert sorted(stage.broker.images_dir.iterdir()) == before


def another(disk: Path) -> Path:
    """The disk, with other bytes."""
    disk.write_bytes(disk.read_bytes() + b"more\n")
    return disk


def test_another_import_of_a_family_is_its_next_version_and_its_name_means_the_newest(
    stage: Stage, disk: Path
) -> None:
    first, second = add(stage, disk), add(stage, another(disk))
    assert [(row.version, row.name) for row in (first, second)] == [(1, "disk"), (2, "disk@2")]
    found = {
        ref: image.get(stage.broker, stage.reader, ref).id for ref in ("disk", "disk@1", "disk@2", first.id)
    }
    assert found == {"disk": second.id, "disk@1": first.id, "disk@2": second.id, first.id: first.id}
    for ref in ("disk@3", "disk@0", "disk@", "disk@x", "disk@99999999999", "@1"):
        with pytest.raises(NotFound):
            image.get(stage.broker, stage.reader, ref)
    row, _ = launch.create(stage.broker, stage.member, name="web", image_ref="disk@1", flavor_ref="small")
    assert row.image_id == first.id


def test_careless_repeat_of_an_import_makes_no_copy(stage: Stage, disk: Path, tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(b"kernel")
    add(stage, disk, kernel=str(kernel))
    before = sorted(stage.broker.images_dir.iterdir())
    with pytest.raises(Exists, match="disk@1 is the same image already") as caught:
        add(stage, disk, kernel=str(kernel))
    assert (caught.value.code, bool(caught.value.hint)) == ("image_exists", True)
    assert sorted(stage.broker.images_dir.iterdir()) == before
    kernel.write_bytes(b"new kernel")
    assert add(stage, disk, kernel=str(kernel)).version == 2
    assert add(stage, disk).version == 3


def test_deprecated_version_is_not_what_the_name_means_and_can_be_used(stage: Stage, disk: Path) -> None:
    add(stage, disk)
    second = add(stage, another(disk))
    for _ in range(2):
        assert image.deprecate(stage.broker, stage.admin, "disk@2").deprecated_at == stage.clock.now()
    assert stage.events(target=second.id) == ["image.created", "image.deprecated"]
    assert image.get(stage.broker, stage.reader, "disk").version == 1
    made, _ = stage.request("web", image_ref="disk@2")
    assert made.image_id == second.id
    image.deprecate(stage.broker, stage.admin, "disk")
    with pytest.raises(NotFound) as caught:
        image.get(stage.broker, stage.reader, "disk")
    assert "disk@2" in caught.value.hint
    assert image.deprecate(stage.broker, stage.admin, "disk@2", on=False).deprecated_at is None
    assert image.get(stage.broker, stage.reader, "disk").version == 2


def test_number_of_a_deleted_version_is_not_given_again_while_the_family_lives(
    stage: Stage, disk: Path
) -> None:
    add(stage, disk)
    add(stage, another(disk))
    with pytest.raises(InvalidRequest, match="other versions: 1") as caught:
        image.delete(stage.broker, stage.admin, "disk")
    assert "disk@2" in caught.value.hint
    image.delete(stage.broker, stage.admin, "disk@2")
    assert image.get(stage.broker, stage.reader, "disk").version == 1
    stage.wait(100 * 86400)
    retention.prune(stage.broker)
    assert add(stage, disk).version == 3
    for ref in ("disk@1", "disk@3"):
        image.delete(stage.broker, stage.admin, ref)
    assert add(stage, disk).version == 1
    image.delete(stage.broker, stage.admin, "disk")
    stage.wait(100 * 86400)
    assert retention.prune(stage.broker)["images"] == 2


def test_private_image_is_not_there_for_other_projects(stage: Stage, disk: Path) -> None:
    with pytest.raises(InvalidRequest, match="needs the project"):
        add(stage, disk, visibility="private")
    shared = add(stage, disk)
    own = add(stage, another(disk), project_ref="elsewhere", labels={"secret": "yes"})
    assert (own.version, own.visibility, stage.there(own.project).name) == (1, "private", "elsewhere")
    for actor in (stage.member, stage.reader):
        assert image.get(stage.broker, actor, "disk").id == shared.id
        with pytest.raises(NotFound):
            image.get(stage.broker, actor, own.id)
        assert own.id not in {row.id for row in image.list_images(stage.broker, actor)}
        with pytest.raises(NotFound):
            labelled.get(stage.broker, actor, "image", own.id)
        assert labelled.list_labels(stage.broker, actor, ["image"]) == []
    # An admin sees it, and can no more than its members start it in another project.
    assert own.id in {row.id for row in image.list_images(stage.broker, stage.admin)}
    assert own.id not in {row.id for row in image.list_images(stage.broker, stage.admin, here=True)}
    for actor in (stage.member, stage.admin):
        with pytest.raises(NotFound):
            stage.request("web", actor=actor, image_ref=own.id)
    # Its project's comes before the broker's of the same name.
    assert image.get(stage.broker, stage.outsider, "disk").id == own.id
    made, _ = stage.request("web", actor=stage.outsider, image_ref="disk")
    assert made.image_id == own.id
    assert labelled.list_labels(stage.broker, stage.outsider, ["image"]) == [
        ("image", own.id, "secret", "yes")
    ]


def test_project_with_an_image_is_kept(stage: Stage, disk: Path) -> None:
    owner = project.create(stage.broker, stage.admin, name="guests")
    add(stage, disk, project_ref="guests", visibility="shared")
    assert image.get(stage.broker, stage.member, "disk").project_id == owner.id
    with pytest.raises(InUse, match="has the image disk"):
        project.delete(stage.broker, stage.admin, "guests")
    stage.finish(vm.delete(stage.broker, stage.member, stage.create("web", image_ref="disk").id)[1])
    image.delete(stage.broker, stage.admin, "disk")
    project.delete(stage.broker, stage.admin, "guests")


def test_vm_needs_a_disk_as_large_as_its_image(stage: Stage, tmp_path: Path) -> None:
    source = tmp_path / "source.qcow2"
    header = b"QFI\xfb" + (3).to_bytes(4, "big") + bytes(16) + (10 * 2**30 + 1).to_bytes(8, "big") + bytes(72)
    source.write_bytes(header)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))  # qemu-img would want more of it than a header
        with pytest.raises(InvalidRequest, match="a disk of 11 GiB, which does not fit on 10"):
            add(stage, source, format="qcow2", min_disk_gb=10)
        row = add(stage, source, format="qcow2", login_user="debian")
    assert (row.min_disk_gb, row.login_user) == (11, "debian")
    with pytest.raises(InvalidRequest, match="needs a disk of 11 GiB, flavor small has 10") as caught:
        launch.create(stage.broker, stage.member, name="web", image_ref="disk", flavor_ref="small")
    assert caught.value.hint
    launch.create(stage.broker, stage.member, name="web", image_ref="disk", flavor_ref="large")


def test_image_in_use_is_kept_and_one_with_a_history_gives_its_name_back(stage: Stage, disk: Path) -> None:
    row = stage.create("web")
    with pytest.raises(InUse):
        image.delete(stage.broker, stage.admin, "tiny")
    stage.finish(vm.delete(stage.broker, stage.member, row.id)[1])
    image.delete(stage.broker, stage.admin, "tiny")
    with pytest.raises(NotFound):
        image.get(stage.broker, stage.reader, "tiny")
    assert image.list_images(stage.broker, stage.reader) == []
    assert add(stage, disk, name="tiny").name == "tiny"
    assert stage.vm(row.id).state == "terminated"


def test_image_is_mapped_to_sites_that_exist_and_forgets_those_that_go(stage: Stage) -> None:
    def realised(row: ImageRow) -> dict[str, tuple[str, RealisationState, datetime, datetime]]:
        return {
            one.site.name: (one.ref, one.state, one.created_at, one.updated_at) for one in row.realisations
        }

    with pytest.raises(NotFound):
        image.map_sites(stage.broker, stage.admin, "tiny", {"nowhere": "ami-1"})
    stage.add_site("spare", hosts=1)
    began = stage.clock.now()
    row = image.map_sites(stage.broker, stage.admin, "tiny", {"campus": "ami-1", "spare": "ami-2"})
    assert image.spec(row, stage.sites["spare"]).remote_id == "ami-2"
    stage.wait(60)
    row = image.map_sites(stage.broker, stage.admin, "tiny", {"campus": "ami-1", "spare": "ami-3"})
    later = stage.clock.now()
    assert realised(row) == {
        "campus": ("ami-1", "available", began, began),
        "spare": ("ami-3", "available", began, later),
    }
    assert realised(image.get(stage.broker, stage.reader, "tiny")) == realised(row)
    site.delete(stage.broker, stage.admin, "spare")
    row = image.get(stage.broker, stage.reader, "tiny")
    assert set(realised(row)) == {"campus"}
    assert row.refs == {stage.sites["campus"]: "ami-1"}


def test_flavor_goes_and_its_vms_keep_their_size(stage: Stage) -> None:
    row = stage.create("web")
    with pytest.raises(Exists):
        flavor.create(stage.broker, stage.admin, name="small", size=Size(vcpus=9, mem_mb=9, disk_gb=9))
    flavor.delete(stage.broker, stage.admin, "small")
    assert [item.name for item in flavor.list_flavors(stage.broker, stage.reader)] == ["large"]
    assert stage.vm(row.id).vcpus == 2


def test_key_pair_is_of_its_project(stage: Stage) -> None:
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
def test_text_that_is_no_public_key_is_refused(stage: Stage, text: str, hint: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        keypair.create(stage.broker, stage.member, name="ada", public_key=text)
    assert hint in caught.value.hint
