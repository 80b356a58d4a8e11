"""Lists of every noun are narrowed by the database, in the same words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, Unpack

import pytest

from broker import flavor, host, image, keypair, label, labelled, listing, network, site, vm
from broker.actor import Actor
from broker.broker import Broker
from broker.size import Size
from broker.states import VMState
from broker.store import FlavorRow, ImageRow, KeyPairRow, NetworkRow, SiteRow, SubnetRow

if TYPE_CHECKING:
    from tests.broker.conftest import Stage

Thing = ImageRow | KeyPairRow | NetworkRow | SubnetRow | FlavorRow | SiteRow
Listing = Callable[..., Sequence[Thing]]
T = TypeVar("T", bound=Thing)


class Lists(Protocol):
    def __call__(self, function: Callable[..., Sequence[T]], **which: Unpack[listing.Which]) -> list[T]: ...


KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDMmqOD3D8j3yqXBEVAhcYSg4+sZaMS8uQd+pZ0Q0F0g me@example"


@pytest.fixture
def lists(stage: Stage, tmp_path: Path) -> Lists:
    """Four of each noun -> its list; of projects where it may be, with labels ``n`` and, on the second, ``Name``."""
    broker, admin = stage.broker, stage.admin
    for number, owner in enumerate((None, "lab", "elsewhere", None)):
        labels = {"n": str(number)} | ({"Name": "title"} if number == 1 else {})
        disk = tmp_path / f"{number}.raw"
        disk.write_bytes(bytes([number]) * 512)
        named: dict[str, Any] = {"name": f"thing-{number}", "labels": labels}
        offered: dict[str, Any] = {"project_ref": owner, "visibility": "shared"}
        image.create(broker, admin, path=str(disk), format="raw", **named, **offered)
        site.create(broker, admin, kind="simulated", options={"hosts": 1}, **named)
        network.create(broker, admin, cidr=f"10.{100 + number}.0.0/16", **named, **offered)
        network.add_subnet(
            broker,
            admin,
            named["name"],
            site_ref=named["name"],
            cidr=f"10.{100 + number}.1.0/24",
            labels=labels,
        )
        keypair.create(broker, admin, public_key=KEY, **named)
        flavor.create(broker, admin, size=Size(vcpus=9 - number, mem_mb=64, disk_gb=1), **named)

    def listed(function: Callable[..., Sequence[T]], **which: Unpack[listing.Which]) -> list[T]:
        rows = function(broker, admin, **which)
        return [row for row in rows if "n" in row.labels]

    return listed


LISTS: list[Listing] = [
    image.list_images,
    keypair.list_key_pairs,
    network.list_networks,
    network.list_subnets,
    flavor.list_flavors,
    site.list_sites,
]
each_list = pytest.mark.parametrize("function", LISTS, ids=[function.__name__ for function in LISTS])


@each_list
def test_what_is_asked_for_is_all_that_is_listed(lists: Lists, function: Listing) -> None:
    first, second, third, _ = every = sorted(lists(function), key=lambda row: row.labels["n"])

    def found(**which: Unpack[listing.Which]) -> set[str]:
        return {row.labels["n"] for row in lists(function, **which)}

    assert found() == found(ids=None, names=None, labels=None, only=None) == {"0", "1", "2", "3"}
    assert found(ids=[first.id, third.id, "none"]) == {"0", "2"}
    assert found(ids=[]) == set()
    assert found(labels={"n": ["1", "2"]}) == {"1", "2"}
    assert found(only={"id": [first.id, second.id]}, labels={"n": "1"}) == {"1"}
    last = "-thing-2" if function is network.list_subnets else ""
    assert found(titles=["title", f"thing-2{last}"]) == {"1", "2"}
    if function is not network.list_subnets:
        assert found(names=["thing-0", "thing-3"]) == {"0", "3"}
    assert len(every) == 4


@each_list
def test_a_page_goes_on_after_the_last_one_of_the_page_before_also_when_that_is_gone(
    lists: Lists, function: Listing
) -> None:
    def called(row: Thing) -> str:
        return row.name if isinstance(row, KeyPairRow | FlavorRow | SiteRow) else row.id

    everything = sorted(called(row) for row in lists(function))
    seen: list[str] = []
    after = everything[0] + " "  # after the first: nothing is called so
    while some := lists(function, after=after, limit=2):
        assert len(some) <= 2
        seen += [called(row) for row in some]
        after = seen[-1]
    assert seen == everything[1:]


@pytest.mark.parametrize("function", [image.list_images, network.list_networks, network.list_subnets])
def test_things_are_listed_by_whose_they_are(stage: Stage, lists: Lists, function: Listing) -> None:
    def found(*owners: str | None) -> list[str]:
        return [row.labels["n"] for row in lists(function, owners=owners)]

    theirs = stage.stranger.account
    assert sorted(found(None)) == ["0", "3"]
    assert found(theirs) == ["2"]
    assert sorted(found(theirs, None)) == ["0", "2", "3"]
    assert found("000000000000") == found() == []


def test_a_version_of_an_image_is_listed_by_its_name(stage: Stage, tmp_path: Path) -> None:
    for content in (b"1", b"2"):
        (tmp_path / "disk").write_bytes(content * 512)
        image.create(stage.broker, stage.admin, name="os", path=str(tmp_path / "disk"), format="raw")
    for name, version in (("os", 1), ("os@2", 2)):
        (row,) = image.list_images(stage.broker, stage.reader, names=[name])
        assert (row.name, row.version) == (name, version)
    assert image.list_images(stage.broker, stage.reader, only={"name": ["os@1", "os@3"]}) == []


def test_subnets_and_networks_are_told_apart_by_whether_their_sites_are_clouds(stage: Stage) -> None:
    stage.add_cloud()
    subnets = {
        elastic: [
            row.site.name for row in network.list_subnets(*as_reader(stage), only={"elastic": [elastic]})
        ]
        for elastic in (True, False)
    }
    assert subnets == {True: ["cloud"], False: ["campus"]}
    assert [row.name for row in network.list_networks(*as_reader(stage), elastic=True)] == ["net"]
    (row,) = network.list_subnets(*as_reader(stage), only={"site": ["cloud"]})
    assert network.leased(*as_reader(stage), ids=[row.id]) == {}
    network.remove_subnet(stage.broker, stage.admin, "net", "campus")
    assert network.list_networks(*as_reader(stage), elastic=False) == []


def test_an_offer_is_a_flavor_and_a_site_with_a_host_of_ours_that_is_as_large(stage: Stage) -> None:
    stage.add_cloud()
    stage.add_local(cpus=4, name="annex", part=2)
    ask = as_reader(stage)
    assert flavor.list_offers(*ask) == [("large", ""), ("small", "")]
    offers = [("large", "campus"), ("small", "annex"), ("small", "campus")]
    assert flavor.list_offers(*ask, by_site="name") == offers
    assert flavor.list_offers(*ask, by_site="name", after=("large", "lost"), limit=1) == offers[1:2]
    assert flavor.list_offers(*ask, by_site="name", names=["small"], sites=["campus"]) == offers[2:]
    assert flavor.list_offers(*ask, by_site="id", names=["large"]) == [("large", stage.sites["campus"])]
    assert flavor.list_offers(*ask, after=("large", "")) == [("small", "")]
    assert host.architectures(*ask) == ["x86_64"]


def test_vms_go_on_after_one_that_is_gone(stage: Stage) -> None:
    made = []
    for number in range(3):
        made.append(stage.request(f"web-{number}")[0])
        stage.wait(1)
    last = made[0].created_at, "vm-none"
    assert [row.id for row in vm.list_vms(*as_reader(stage), after=last)] == [made[1].id, made[2].id]
    assert [row.id for row in vm.list_vms(*as_reader(stage), after=made[1].id)] == [made[2].id]
    first = made[0].created_at, ""
    assert len(vm.list_vms(*as_reader(stage), after=first)) == 3


def test_the_name_of_a_vm_is_a_label_where_it_is_asked_for_and_has_no_other(stage: Stage) -> None:
    named, titled = stage.request("web")[0], stage.request("db", labels={"Name": "Data", "a": "b"})[0]
    unnamed = stage.request(None, labels={"a": "b"})[0]
    labelled.change(stage.broker, stage.admin, [("image", "tiny")], label.merged({"a": "c"}))
    img = image.get(*as_reader(stage), "tiny").id
    whole = [
        ("image", img, "a", "c"),
        ("vm", named.id, "Name", "web"),
        ("vm", titled.id, "Name", "Data"),
        ("vm", titled.id, "a", "b"),
        ("vm", unnamed.id, "a", "b"),
    ]

    def found(nouns: Sequence[str] = ("image", "vm"), **which: Any) -> list[tuple[str, str, str, str]]:
        return labelled.list_labels(*as_reader(stage), nouns, titles=True, **which)

    assert sorted(found()) == sorted(whole)
    assert [noun for noun, *_ in found(["vm", "image"])] == ["vm"] * 4 + ["image"]
    assert found(only={"value": ["web", "db"]}) == [whole[1]]
    assert found(only={"id": [img]}) == found(only={"noun": ["image"]}) == [whole[0]]
    assert ("vm", named.id, "Name", "web") not in labelled.list_labels(*as_reader(stage), ["vm"])
    paged: list[tuple[str, str, str, str]] = []
    while some := found(after=paged[-1][:3] if paged else None, limit=2):
        paged += some
    assert paged == found()
    vm.delete(stage.broker, stage.member, named.id)
    with stage.broker.store.transaction() as session:
        vm.set_state(stage.broker, vm.find(session, stage.member, named.id), VMState.TERMINATED)
    assert whole[1] in found(ended_after=stage.clock.now())
    stage.wait(1)
    assert whole[1] not in found(ended_after=stage.clock.now())


def as_reader(stage: Stage) -> tuple[Broker, Actor]:
    return stage.broker, stage.reader
