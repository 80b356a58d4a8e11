"""Networks and the addresses of their subnets."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from broker import auth, event, gateway, labelled, network, project, vm
from broker.actor import Actor
from broker.auth import CanView
from broker.errors import BrokerError, Exists, Forbidden, InUse, InvalidRequest, NotFound, Overlap
from broker.store import NetworkRow, SubnetRow

if TYPE_CHECKING:
    from tests.broker.conftest import Stage


@pytest.fixture
def stage(bare_stage: Stage) -> Stage:
    """Two sites that have no subnet yet."""
    bare_stage.catalogue()
    bare_stage.add_site("campus", hosts=4)
    bare_stage.add_site("annex", hosts=1)
    return bare_stage


@pytest.fixture
def hybrid(bare_stage: Stage) -> Stage:
    bare_stage.catalogue()
    bare_stage.add_local()
    bare_stage.add_cloud()
    return bare_stage


def add(
    stage: Stage, cidr: str = "10.20.1.0/24", site_ref: str = "campus", ref: str = "net", **options: Any
) -> SubnetRow:
    return network.add_subnet(stage.broker, stage.admin, ref, site_ref=site_ref, cidr=cidr, **options)


def test_network_that_overlaps_the_tunnels_own_pool_is_refused(stage: Stage) -> None:
    with pytest.raises(Overlap, match="tunnels"):
        network.create(stage.broker, stage.admin, name="other", cidr="169.254.0.0/16")


@pytest.mark.parametrize("cidr", ["10.30.0.1/16", "10.30.0.0/33", "hello", "fd00::/64", ""])
def test_prefix_that_is_none_is_refused_with_a_mend(stage: Stage, cidr: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        network.create(stage.broker, stage.admin, name="other", cidr=cidr)
    assert caught.value.hint


def test_name_of_a_network_is_taken_once(stage: Stage) -> None:
    with pytest.raises(Exists):
        network.create(stage.broker, stage.admin, name="net", cidr="10.30.0.0/16")


def test_subnet_lies_inside_its_network(stage: Stage) -> None:
    with pytest.raises(InvalidRequest, match="not inside"):
        add(stage, "10.21.0.0/24")
    with pytest.raises(InvalidRequest, match="not inside"):
        add(stage, "10.0.0.0/8")


@pytest.mark.parametrize("cidr", ["10.20.1.0/24", "10.20.0.0/22", "10.20.1.128/25"])
def test_subnets_of_two_sites_that_overlap_are_refused(stage: Stage, cidr: str) -> None:
    add(stage)
    with pytest.raises(Overlap, match="campus"):
        add(stage, cidr, "annex")


def test_site_has_one_subnet_of_a_network(stage: Stage) -> None:
    add(stage)
    with pytest.raises(Exists):
        add(stage, "10.20.2.0/24")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cidr": "10.20.1.0/31"}, "no room"),
        ({"gateway": "10.20.2.1"}, "gateway"),
        ({"gateway": "me"}, "gateway"),
        ({"dns": ["nine.nine"]}, "dns"),
        ({"reserved": ["10.20.9.1"]}, "reserved"),
        ({"reserved": ["10.20.1.9-10.20.1.2"]}, "range"),
        ({"mode": "bridge"}, "bridge"),
        ({"mode": "nat", "bridge": "br0"}, "bridge"),
    ],
    ids=str,
)
def test_subnet_with_a_mistake_is_refused(stage: Stage, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        add(stage, **options)


def test_gateway_and_reserved_addresses_are_never_leased(stage: Stage) -> None:
    add(stage, "10.20.1.0/28", gateway="10.20.1.3", reserved=["10.20.1.1", "10.20.1.5-10.20.1.12"])
    addresses = [stage.create(f"web-{number}").nics[0].address for number in range(4)]
    assert addresses == ["10.20.1.2", "10.20.1.4", "10.20.1.13", "10.20.1.14"]


def test_address_that_was_given_back_rests_before_it_is_leased_again(stage: Stage) -> None:
    add(stage, "10.20.1.0/29")
    first = stage.create("first")
    stage.finish(vm.delete(stage.broker, stage.member, first.id)[1])
    assert stage.create("second").nics[0].address == "10.20.1.3"
    stage.wait(stage.settings.timing.quarantine_s + 1)
    assert stage.create("third").nics[0].address == "10.20.1.2"


def test_subnet_full_of_resting_addresses_is_free_after_the_quarantine(stage: Stage) -> None:
    add(stage, "10.20.1.0/30")
    first = stage.create("first")
    stage.finish(vm.delete(stage.broker, stage.member, first.id)[1])
    row, task = stage.request("second")
    stage.step(task)
    assert "is full" in stage.vm(row.id).status_reason
    began = stage.clock.now()
    stage.finish(task)
    assert (stage.clock.now() - began).total_seconds() >= stage.settings.timing.quarantine_s - 60
    assert stage.vm(row.id).nics[0].address == "10.20.1.2"


def test_wanted_address_is_leased_at_the_site_that_has_it(stage: Stage) -> None:
    add(stage)
    add(stage, "10.20.2.0/24", "annex")
    row = stage.create("web", address="10.20.2.77")
    assert (stage.there(row.site).name, row.nics[0].address) == ("annex", "10.20.2.77")


def test_wanted_address_that_is_taken_is_waited_for(stage: Stage) -> None:
    add(stage)
    first = stage.create("first", address="10.20.1.9")
    row, task = stage.request("second", address="10.20.1.9")
    stage.drive(task, most_s=60)
    assert "10.20.1.9 is taken" in stage.vm(row.id).status_reason
    stage.finish(vm.delete(stage.broker, stage.member, first.id)[1])
    stage.finish(task)
    assert stage.vm(row.id).nics[0].address == "10.20.1.9"


def test_vm_on_two_networks_has_a_nic_on_each(stage: Stage) -> None:
    add(stage)
    network.create(stage.broker, stage.admin, name="storage", cidr="10.40.0.0/16")
    add(stage, "10.40.1.0/24", ref="storage")
    with pytest.raises(InvalidRequest, match="several networks"):
        stage.request("web")
    row = stage.create("web", networks=["storage", "net"])
    assert [nic.address for nic in row.nics] == ["10.40.1.2", "10.20.1.2"]
    assert len({nic.mac for nic in row.nics}) == 2


def test_network_with_leases_is_kept(stage: Stage) -> None:
    add(stage)
    row = stage.create("web")
    assert network.leased(stage.broker, stage.reader) == {row.nics[0].subnet_id: 1}
    with pytest.raises(InUse):
        network.delete(stage.broker, stage.admin, "net")
    with pytest.raises(InUse):
        network.remove_subnet(stage.broker, stage.admin, "net", "campus")
    stage.finish(vm.delete(stage.broker, stage.member, row.id)[1])
    network.remove_subnet(stage.broker, stage.admin, "net", "campus")
    network.delete(stage.broker, stage.admin, "net")
    assert network.list_networks(stage.broker, stage.reader) == []


def test_network_that_a_waiting_vm_asks_for_is_kept(stage: Stage) -> None:
    stage.request("web")
    with pytest.raises(InUse):
        network.delete(stage.broker, stage.admin, "net")


def test_subnet_that_is_not_there_cannot_be_removed(stage: Stage) -> None:
    with pytest.raises(NotFound):
        network.remove_subnet(stage.broker, stage.admin, "net", "campus")
    with pytest.raises(BrokerError):
        network.remove_subnet(stage.broker, stage.admin, "net", "nowhere")


def test_mode_of_a_subnet_is_what_its_site_can_do(hybrid: Stage) -> None:
    at = {row.site.name: row.mode for row in network.get(hybrid.broker, hybrid.reader, "net").subnets}
    assert at == {"campus": "nat", "cloud": "tunnel"}
    network.create(hybrid.broker, hybrid.admin, name="second", cidr="10.50.0.0/16")
    with pytest.raises(InvalidRequest, match="tunnel"):
        add(hybrid, "10.50.1.0/24", "campus", "second", mode="tunnel")
    with pytest.raises(InvalidRequest, match="tunnel"):
        add(hybrid, "10.50.2.0/24", "cloud", "second", mode="nat")
    assert add(hybrid, "10.50.1.0/24", "campus", "second").mode == "nat"
    assert add(hybrid, "10.50.2.0/24", "cloud", "second").mode == "tunnel"


def own(stage: Stage, name: str = "own", cidr: str = "10.70.0.0/16", **asked: Any) -> NetworkRow:
    asked.setdefault("project_ref", stage.owner.name)
    return network.create(stage.broker, stage.admin, name=name, cidr=cidr, **asked)


def names(stage: Stage, actor: Actor, **asked: Any) -> list[str]:
    return [row.name for row in network.list_networks(stage.broker, actor, **asked)]


def test_networks_are_the_brokers_and_shared_or_a_projects_and_private(stage: Stage) -> None:
    shared = network.get(stage.broker, stage.reader, "net")
    assert (shared.project, shared.visibility) == (None, "shared")
    row = own(stage)
    assert (stage.there(row.project).name, row.visibility) == (stage.owner.name, "private")
    offered = own(stage, "offered", visibility="shared")
    assert (stage.there(offered.project).name, offered.visibility) == (stage.owner.name, "shared")
    with pytest.raises(InvalidRequest, match="needs the project that it is for"):
        own(stage, "nobodys", project_ref=None, visibility="private")
    with pytest.raises(NotFound):
        own(stage, "lost", project_ref="nowhere")
    with pytest.raises(Forbidden):
        network.create(stage.broker, stage.member, name="mine", cidr="10.71.0.0/16")


def test_private_network_is_not_there_for_others(stage: Stage) -> None:
    row = own(stage, labels={"secret": "yes"})
    subnet = add(stage, "10.70.1.0/24", ref="own")
    own(stage, "offered", "10.80.0.0/16", visibility="shared")
    _, _ = gateway.create(
        stage.broker,
        stage.admin,
        name="gate",
        site_ref="campus",
        network_ref="own",
        endpoint="203.0.113.7:51820",
    )
    broker, outsider, admin = stage.broker, stage.outsider, stage.admin
    assert names(stage, stage.member) == names(stage, admin) == ["net", "offered", "own"]
    assert names(stage, outsider) == ["net", "offered"]

    def can(action: str, ref: str, actor: Actor = outsider) -> CanView:
        return auth.can(broker, actor, who="me", action=action, what=ref)

    unseen: dict[Callable[[str], object], tuple[str, ...]] = {
        lambda ref: network.get(broker, outsider, ref): ("own", row.id),
        lambda ref: stage.request("web", actor=outsider, networks=[ref]): ("own", row.id),
        lambda ref: gateway.get(broker, outsider, ref): ("gate",),
        lambda ref: labelled.get(broker, outsider, "network", ref): ("own", row.id),
        lambda ref: labelled.get(broker, outsider, "subnet", ref): (subnet.id,),
        lambda ref: labelled.get(broker, outsider, "gateway", ref): ("gate",),
        lambda ref: can("network.get", ref): ("own", f"network:{row.id}"),
        lambda ref: can("gateway.get", ref): ("gate",),
    }
    for look, refs in unseen.items():
        for ref in refs:
            with pytest.raises(NotFound) as caught:
                look(ref)
            with pytest.raises(NotFound) as unknown:
                look("network:none" if ":" in ref else "none")
            assert (caught.value.code, caught.value.hint) == (unknown.value.code, unknown.value.hint)
    assert gateway.list_gateways(broker, outsider) == []
    assert [gate.name for gate in gateway.list_gateways(broker, stage.reader)] == ["gate"]
    told = {one.target for one in event.list_events(broker, outsider)}
    assert not told & {row.id, subnet.id}
    assert {row.id, subnet.id} <= {one.target for one in event.list_events(broker, stage.member)}
    for actor, seen in ((outsider, []), (stage.member, [row.id])):
        found = labelled.list_labels(
            broker, actor, ["network", "subnet", "gateway"], only={"key": ["secret"]}
        )
        assert [resource for _, resource, _, _ in found] == seen
    assert can("network.get", "own", stage.member).allowed
    assert can("network.get", "offered").allowed
    assert not can("network.delete", "net").allowed


def test_vm_is_on_its_projects_networks_and_on_shared_ones(stage: Stage) -> None:
    own(stage)
    add(stage, "10.70.1.0/24", ref="own")
    add(stage)
    assert stage.create("web", networks=["own"]).nics[0].address == "10.70.1.2"
    # For others there is one network still; an admin, who sees all, makes VMs on those of the own project.
    other = stage.request("far", actor=stage.outsider)[0]
    assert [nic.network_name for nic in other.nics] == ["net"]
    theirs = own(stage, "theirs", "10.71.0.0/16", project_ref=stage.stranger.name)
    with pytest.raises(NotFound):
        stage.request("no", actor=stage.admin, networks=[theirs.id])
    with pytest.raises(InvalidRequest, match="several networks"):
        stage.request("which")


def test_name_means_the_projects_own_network_first(stage: Stage) -> None:
    own(stage, "net")
    with pytest.raises(Exists):
        own(stage, "net")
    own(stage, "net", project_ref=stage.stranger.name)
    for actor, owner in ((stage.member, stage.owner), (stage.outsider, stage.stranger)):
        theirs = network.get(stage.broker, actor, "net").project
        assert theirs is not None
        assert theirs.name == owner.name
    shared = next(row for row in network.list_networks(stage.broker, stage.member) if row.project is None)
    assert network.get(stage.broker, stage.member, shared.id).id == shared.id
    assert [row.visibility for row in network.list_networks(stage.broker, stage.member)] == [
        "shared",
        "private",
    ]


def test_project_with_a_network_is_kept(stage: Stage) -> None:
    project.create(stage.broker, stage.admin, name="third")
    row = own(stage, project_ref="third")
    with pytest.raises(InUse, match="has the network own"):
        project.delete(stage.broker, stage.admin, "third")
    network.delete(stage.broker, stage.admin, row.id)
    project.delete(stage.broker, stage.admin, "third")


def test_labels_of_a_network_are_changed_by_who_made_it(stage: Stage) -> None:
    own(stage)
    with pytest.raises(Forbidden):
        labelled.change(stage.broker, stage.member, [("network", "own")], lambda have: {"a": "b"})
    assert labelled.change(stage.broker, stage.admin, [("network", "own")], lambda have: {"a": "b"}) == [
        {"a": "b"}
    ]
