"""What a host lends to VMs, and what it says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from broker import host, image, network, queue, reconcile, site, vm, why
from broker.errors import InvalidRequest
from broker.host import HostView

if TYPE_CHECKING:
    from tests.broker.conftest import Stage


def view(stage: Stage, name: str) -> HostView:
    return host.get(stage.broker, stage.admin, name)


def test_overcommitted_host_takes_more_vms_and_none_larger_than_itself(bare_stage: Stage) -> None:
    stage = bare_stage
    stage.catalogue()
    stage.add_site("campus", hosts=1, attributes={"cpu_total": 4.0, "cpu_overcommit": 2.0})
    network.add_subnet(stage.broker, stage.admin, "net", site_ref="campus", cidr="10.20.1.0/24", mode="nat")
    assert view(stage, "sim-01").vcpus_free == 8
    for number in range(4):
        stage.create(f"web-{number}")
    full, _ = stage.request("web-5")
    queue.place_pending(stage.broker)
    assert stage.vm(full.id).host is None
    large, _ = stage.request("large", flavor_ref="large")
    for row in stage.machines(stage.vm("web-0").id):
        assert row.host == "sim-01"
    stage.finish(vm.delete(stage.broker, stage.member, full.id)[1])
    for number in range(4):
        stage.finish(vm.delete(stage.broker, stage.member, f"web-{number}")[1])
    stage.broker.signals.set("place")
    queue.place_pending(stage.broker)
    assert stage.vm(large.id).host is None, "eight vCPUs on four cores: twice four is not eight for one VM"
    assert view(stage, "sim-01").attributes["vm_cpu_max"] == 4


def test_what_is_reserved_for_the_host_is_not_lent(bare_stage: Stage) -> None:
    stage = bare_stage
    site.create(
        stage.broker, stage.admin, name="campus", kind="simulated", options={"hosts": 2},
        attributes={"mem_reserved_mb": 1024}, host_attributes={"sim-01": {"cpu_reserved": 3, "cpu_overcommit": 1.5}},
    )  # fmt: skip
    plain, ours = view(stage, "sim-02"), view(stage, "sim-01")
    assert ours.vcpus_free == (plain.vcpus_free - 3) * 1.5
    assert ours.mem_free_mb == plain.mem_free_mb
    assert plain.attributes["mem_total_mb"] == plain.mem_free_mb


@pytest.mark.parametrize(
    "attributes", [{"cpu_overcommit": 0}, {"mem_overcommit": "4x"}, {"cpu_reserved": -1}]
)
def test_ratio_that_is_none_is_refused(bare_stage: Stage, attributes: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(attributes))):
        site.create(
            bare_stage.broker, bare_stage.admin, name="campus", kind="simulated", options={"hosts": 1},
            attributes=attributes,
        )  # fmt: skip


def test_rank_may_prefer_a_host_that_has_the_image(stage: Stage) -> None:
    first = stage.create("first", rank='name == "sim-02"')
    reconcile.reconcile(stage.broker)
    assert view(stage, "sim-02").attributes["images"] == ["tiny"]
    assert view(stage, "sim-01").attributes["images"] == []
    second = stage.create("second", rank="vm.image in images ? 1 : 0")
    assert {stage.there(first.host).name, stage.there(second.host).name} == {"sim-02"}


def test_host_does_not_name_the_private_images_that_it_has(stage: Stage, tmp_path: Path) -> None:
    source = tmp_path / "own.raw"
    source.write_bytes(b"of one project\n")
    image.create(
        stage.broker, stage.admin, name="own", path=str(source), format="raw", project_ref="elsewhere"
    )
    row, task = stage.request(actor=stage.outsider, image_ref="own")
    stage.finish(task)
    stage.create("web")
    reconcile.reconcile(stage.broker)
    hosts = [view(stage, name).attributes["images"] for name in ("sim-01", "sim-02")]
    assert stage.vm(row.id).host is not None
    assert {name for images in hosts for name in images} == {"tiny"}


def test_why_says_by_how_much_the_winner_won(stage: Stage) -> None:
    row = stage.create("web", rank='name == "sim-02" ? 5 : 2')
    found = why.why(stage.broker, stage.member, row.id)
    assert (found.host, found.rank, found.runner_up_rank, found.gap) == ("campus/sim-02", 5, 2, 3)
