"""Labels: written in one place, read with their rows, sought by index, gone with what carried them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event, select, text

from broker import flavor, image, keypair, label, labelled, launch, network, project, site, vm
from broker.errors import Forbidden, InvalidRequest, NotFound
from broker.size import Size
from broker.store import LabelRow, NetworkRow, VMRow

if TYPE_CHECKING:
    from tests.broker.conftest import Stage

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDMmqOD3D8j3yqXBEVAhcYSg4+sZaMS8uQd+pZ0Q0F0g me@example"


def make(stage: Stage, name: str | None, **labels: Any) -> VMRow:
    row, _ = launch.create(
        stage.broker, stage.member, name=name, image_ref="tiny", flavor_ref="small", labels=labels
    )
    return row


def names(stage: Stage, **labels: Any) -> list[str]:
    return [row.name for row in vm.list_vms(stage.broker, stage.member, labels=labels)]


def stored(stage: Stage) -> set[tuple[str, str]]:
    with stage.broker.store.reading() as session:
        return {(row.resource, row.key) for row in session.scalars(select(LabelRow))}


def test_a_vm_shows_the_labels_it_was_made_with(stage: Stage) -> None:
    row = make(stage, "web", tier="web", env="prod")
    assert row.labels == {"env": "prod", "tier": "web"}
    assert vm.get(stage.broker, stage.member, "web").labels == row.labels
    assert vm.attributes(vm.get(stage.broker, stage.member, "web"))["labels"] == row.labels
    assert make(stage, "bare").labels == {}
    assert vm.get(stage.broker, stage.member, "bare").labels == {}


def test_a_list_has_what_carries_all_labels(stage: Stage) -> None:
    make(stage, "one", tier="web", env="prod")
    make(stage, "two", tier="web", env="test")
    make(stage, "three", tier="db")
    assert names(stage, tier="web") == ["one", "two"]
    assert names(stage, tier="web", env="test") == ["two"]
    assert names(stage, tier="web", env=["prod", "test"]) == ["one", "two"]
    assert names(stage, env=None) == ["one", "two"]
    assert names(stage, tier="w%") == []


def test_changes_touch_what_they_name_and_nothing_else(stage: Stage) -> None:
    make(stage, "web", a="1", b="1")
    other = make(stage, "other", a="1")
    change = label.merged({"a": "2", "b": None, "c": "", "never": None})
    (now,) = labelled.change(stage.broker, stage.member, [("vm", "web")], change)
    assert now == {"a": "2", "c": ""}
    assert vm.get(stage.broker, stage.member, "web").labels == now
    assert vm.get(stage.broker, stage.member, other.id).labels == {"a": "1"}
    assert vm.set_labels(stage.broker, stage.member, "web", {"z": "9"}).labels == {"z": "9"}


def test_of_two_changes_at_once_both_count(stage: Stage) -> None:
    make(stage, "web")
    failed = []

    def change(key: str) -> None:
        try:
            for number in range(10):
                labelled.change(stage.broker, stage.member, [("vm", "web")], label.merged({key: str(number)}))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=change, args=(key,)) for key in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    assert vm.get(stage.broker, stage.member, "web").labels == {"a": "9", "b": "9", "c": "9"}


@pytest.mark.parametrize(
    "labels",
    [
        {"": "x"},
        {"k" * 129: "x"},
        {"k": "x" * 257},
        {"aws:x": "y"},
        {"AWS:x": "y"},
        {str(number): "" for number in range(51)},
    ],
    ids=["no key", "long key", "long value", "reserved", "reserved in capitals", "too many"],
)
def test_labels_that_nothing_may_have_are_refused(stage: Stage, labels: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest):
        launch.create(
            stage.broker, stage.member, name="web", image_ref="tiny", flavor_ref="small", labels=labels
        )
    with pytest.raises(NotFound):
        vm.get(stage.broker, stage.member, "web")
    make(stage, "web")
    with pytest.raises(InvalidRequest):
        vm.set_labels(stage.broker, stage.member, "web", labels)
    assert stored(stage) == set()


def test_the_longest_labels_are_taken(stage: Stage) -> None:
    labels = {f"{number:0128}": "v" * 256 for number in range(50)}
    make(stage, "web")
    assert vm.set_labels(stage.broker, stage.member, "web", labels).labels == labels


def test_a_change_of_many_things_is_made_of_all_or_none(stage: Stage) -> None:
    make(stage, "web")
    with pytest.raises(NotFound):
        labelled.change(
            stage.broker, stage.member, [("vm", "web"), ("vm", "nowhere")], label.merged({"a": "1"})
        )
    assert stored(stage) == set()
    with pytest.raises(Forbidden):
        labelled.change(stage.broker, stage.member, [("vm", "web"), ("flavor", "small")], label.merged({}))
    with pytest.raises(InvalidRequest, match="carries no labels"):
        labelled.get(stage.broker, stage.member, "token", "x")


def test_every_noun_with_labels_shows_finds_and_forgets_them(stage: Stage) -> None:
    broker, admin = stage.broker, stage.admin
    wanted = {"team": "a"}
    network.create(broker, admin, name="lab", cidr="10.99.0.0/16", labels=wanted)
    network.add_subnet(broker, admin, "lab", site_ref="campus", cidr="10.99.1.0/24", labels=wanted)
    flavor.create(broker, admin, name="odd", size=Size(vcpus=1, mem_mb=64, disk_gb=1), labels=wanted)
    keypair.create(broker, admin, name="me", public_key=KEY, labels=wanted)
    project.create(broker, admin, name="spare", labels=wanted)
    site.create(broker, admin, name="spare", kind="simulated", options={"hosts": 1}, labels=wanted)
    assert label.RESERVED == "aws:"
    (net,) = network.list_networks(broker, admin, labels=wanted)
    assert (net.name, net.labels, net.subnets[0].labels) == ("lab", wanted, wanted)
    assert [row.labels for row in flavor.list_flavors(broker, admin, labels=wanted)] == [wanted]
    assert [row.labels for row in keypair.list_key_pairs(broker, admin, labels=wanted)] == [wanted]
    assert [row.labels for row in project.list_projects(broker, admin, labels=wanted)] == [wanted]
    assert [row.labels for row in site.list_sites(broker, admin, labels=wanted)] == [wanted]
    assert image.list_images(broker, admin, labels=wanted) == []
    assert len(stored(stage)) == 6
    labelled.change(broker, admin, [("image", "tiny")], label.merged(wanted))
    assert image.get(broker, admin, "tiny").labels == wanted
    for delete, name in (
        (network.delete, "lab"),
        (flavor.delete, "odd"),
        (keypair.delete, "me"),
        (project.delete, "spare"),
        (site.delete, "spare"),
        (image.delete, "tiny"),
    ):
        delete(broker, admin, name)
    assert stored(stage) == set()


def test_a_page_of_vms_is_read_with_as_many_statements_as_one_vm(stage: Stage) -> None:
    statements = []
    event.listen(stage.broker.store.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    counts = []
    for _ in range(2):
        for number in range(4):
            make(stage, None, n=str(number))
        statements.clear()
        rows = vm.list_vms(stage.broker, stage.member)
        assert all(row.labels for row in rows)
        counts.append(len(statements))
    assert counts[0] == counts[1]


def test_a_label_is_sought_by_index(stage: Stage) -> None:
    query = label.filter(select(VMRow.id), VMRow, {"tier": "web"})
    with stage.broker.store.reading() as session:
        if not stage.broker.store.is_sqlite:
            session.execute(text("SET enable_seqscan = off"))
        explain = "EXPLAIN QUERY PLAN " if stage.broker.store.is_sqlite else "EXPLAIN "
        compiled = str(query.compile(stage.broker.store.engine, compile_kwargs={"literal_binds": True}))
        plan = "\n".join(str(row) for row in session.execute(text(explain + compiled.replace(":", r"\:"))))
    assert "ix_label_key" in plan


def test_rows_that_come_along_leave_their_labels_out(stage: Stage) -> None:
    make(stage, "web")
    with stage.broker.store.reading() as session:
        row = session.scalar(select(NetworkRow))
        assert "labels" not in row.__dict__
        assert "labels" in session.scalar(select(VMRow)).__dict__
