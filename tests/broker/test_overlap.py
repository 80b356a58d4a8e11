"""Networks of equal prefixes: side by side where nothing routes both, refused where something does."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from broker import gateway, network, overlap, peer, token, vm
from broker.broker import Broker
from broker.errors import Overlap
from broker.launch import Wishes
from broker.store import NetworkRow, SubnetRow
from vpn import keys

if TYPE_CHECKING:
    from tests.broker.conftest import Agent, Stage


@pytest.fixture
def stage(bare_stage: Stage) -> Stage:
    """Two sites of hosts, and the network ``net``, 10.20.0.0/16, that is nowhere yet."""
    bare_stage.catalogue()
    bare_stage.add_site("campus", hosts=2)
    bare_stage.add_site("annex", hosts=2)
    return bare_stage


@pytest.fixture
def twins(bare_stage: Stage) -> Stage:
    """``net`` at campus and ``twin`` at annex, prefix for prefix the same, each with a gateway, over one cloud."""
    bare_stage.catalogue()
    bare_stage.add_local()
    bare_stage.add_cloud()
    bare_stage.add_site("annex", hosts=2)
    add_network(bare_stage, "twin", project_ref="lab")
    add(bare_stage, "twin", site_ref="annex")
    add(bare_stage, "twin", "10.20.128.0/24", site_ref="cloud")
    add_gateway(bare_stage, "twin", "annex")
    return bare_stage


def add_network(stage: Stage, name: str, cidr: str = "10.20.0.0/16", **asked: Any) -> NetworkRow:
    return network.create(stage.broker, stage.admin, name=name, cidr=cidr, **asked)


def add(
    stage: Stage, ref: str, cidr: str = "10.20.1.0/24", site_ref: str = "campus", **options: Any
) -> SubnetRow:
    return network.add_subnet(stage.broker, stage.admin, ref, site_ref=site_ref, cidr=cidr, **options)


def add_gateway(
    stage: Stage,
    ref: str,
    site_ref: str = "campus",
    endpoint: str = "198.51.100.7:51820",
    key: str | None = None,
) -> Agent | None:
    _, secret = gateway.create(
        stage.broker,
        stage.admin,
        name=f"gate-{ref}",
        site_ref=site_ref,
        network_ref=ref,
        endpoint=endpoint,
    )
    if not stage.agents:
        return None
    agent = type(stage.agents[0])(stage, token.authenticate(stage.broker, secret), key or keys.generate()[1])
    gateway.register(stage.broker, agent.actor, agent.key)
    agent.turn()
    stage.agents.append(agent)
    return agent


@pytest.mark.parametrize("cidr", ["10.20.0.0/16", "10.0.0.0/8", "10.20.4.0/24"])
def test_prefix_of_another_network_is_no_reason_to_refuse_a_network(stage: Stage, cidr: str) -> None:
    assert add_network(stage, "other", cidr).cidr == cidr


@pytest.mark.parametrize("cidr", ["10.20.1.0/24", "10.20.0.0/22", "10.20.1.128/25"])
@pytest.mark.parametrize("modes", [("nat", "nat"), ("nat", "route"), ("bridge", "nat"), ("route", "bridge")])
def test_hosts_of_a_site_route_one_of_two_equal_prefixes(
    stage: Stage, cidr: str, modes: tuple[str, str]
) -> None:
    first, second = ({"mode": mode} | ({"bridge": "br0"} if mode == "bridge" else {}) for mode in modes)
    add(stage, "net", **first)
    add_network(stage, "other")
    with pytest.raises(Overlap, match="hosts of site campus have one routing table") as caught:
        add(stage, "other", cidr, **second)
    assert "10.20.1.0/24 of network net" in caught.value.message
    assert "--mode bridge" in caught.value.hint
    add(stage, "other", cidr, site_ref="annex", **second)
    add(stage, "other", "10.20.4.0/24", **second)


def test_one_bridge_is_one_segment_and_two_bridges_are_two(stage: Stage) -> None:
    add(stage, "net", mode="bridge", bridge="br0")
    add_network(stage, "other")
    with pytest.raises(Overlap, match="both are on the bridge br0, one segment"):
        add(stage, "other", mode="bridge", bridge="br0")
    assert add(stage, "other", mode="bridge", bridge="br1").cidr == "10.20.1.0/24"
    # Where one of them has its gateway, both may meet in it.
    for ref in ("net", "other"):
        with pytest.raises(Overlap, match="share a routing table"):
            add_gateway(stage, ref)


def test_gateway_routes_all_of_its_network_at_its_site(stage: Stage) -> None:
    add(stage, "net", mode="bridge", bridge="br0")
    add_gateway(stage, "net")
    add_network(stage, "other")
    with pytest.raises(Overlap, match="all of which gateway gate-net routes at site campus"):
        add(stage, "other", "10.20.77.0/24", mode="bridge", bridge="br1")
    add(stage, "other", "10.20.77.0/24", site_ref="annex")
    gateway.delete(stage.broker, stage.admin, "gate-net")
    add(stage, "other", "10.20.78.0/24")


def test_network_with_a_gateway_has_no_prefix_of_another_bridge_of_its_site(stage: Stage) -> None:
    add_network(stage, "wide", "10.0.0.0/8")
    add(stage, "wide", "10.99.0.0/24")
    add_gateway(stage, "wide")
    with pytest.raises(Overlap, match="gateway gate-wide routes"):
        add(stage, "net", mode="bridge", bridge="br7")
    network.remove_subnet(stage.broker, stage.admin, "wide", "campus")
    with pytest.raises(Overlap, match="gateway gate-wide routes"):
        add(stage, "net", mode="bridge", bridge="br7")


def test_gateways_of_one_machine_are_of_networks_apart(stage: Stage) -> None:
    add(stage, "net")
    add_gateway(stage, "net", endpoint="Gate.example.org:51820")
    add_network(stage, "other")
    add(stage, "other", site_ref="annex")
    with pytest.raises(Overlap, match=r"the same machine: Gate\.example\.org:51820"):
        add_gateway(stage, "other", "annex", endpoint="gate.example.org:51821")
    add_gateway(stage, "other", "annex", endpoint="gate2.example.org:51820")


def test_agent_that_has_the_key_of_another_gateway_is_refused_where_the_networks_overlap(
    twins: Stage,
) -> None:
    with pytest.raises(Overlap, match="one machine"):
        gateway.register(twins.broker, twins.agents[1].actor, twins.agents[0].key)
    gateway.register(twins.broker, twins.agents[0].actor, twins.agents[0].key)


def test_vm_is_not_on_two_networks_of_one_prefix(twins: Stage) -> None:
    with pytest.raises(Overlap, match="one routing table"):
        twins.request("both", networks=["net", "twin"])
    overlap.check_vm([NetworkRow(name="a", cidr="10.1.0.0/16"), NetworkRow(name="b", cidr="10.2.0.0/16")])


def test_two_networks_of_one_prefix_have_vms_with_the_same_addresses(twins: Stage) -> None:
    at = {"net": Wishes(site="campus"), "twin": Wishes(site="annex")}
    first, second = (twins.create(name, networks=[name], wishes=at[name]) for name in at)
    assert first.nics[0].address == second.nics[0].address == "10.20.1.2"
    assert first.nics[0].mac != second.nics[0].mac
    assert (twins.there(first.site).name, twins.there(second.site).name) == ("campus", "annex")
    assert set(network.leased(twins.broker, twins.member).values()) == {1}
    twins.finish(vm.delete(twins.broker, twins.member, first.id)[1])
    # What rests in one network is not in the way of the other, nor forgotten with it.
    assert twins.create("again", networks=["twin"], wishes=at["twin"]).nics[0].address == "10.20.1.3"
    assert twins.create("anew", networks=["net"], wishes=at["net"]).nics[0].address == "10.20.1.3"
    assert twins.create("back", networks=["twin"], address="10.20.1.9").nics[0].address == "10.20.1.9"


def test_two_networks_of_one_prefix_have_tunnels_of_their_own(twins: Stage) -> None:
    first, second = (twins.burst(name, networks=[name]) for name in ("net", "twin"))
    assert first.nics[0].address == second.nics[0].address == "10.20.128.2"
    documents = [gateway.document(twins.broker, agent.actor) for agent in twins.agents]
    assert [[each.allowed_ips for each in found.peers] for found in documents] == [[("10.20.128.2/32",)]] * 2
    ends = {each.vm_id: each for each in peer.list_peers(twins.broker, twins.member)}
    assert [[each.public_key for each in found.peers] for found in documents] == [
        [ends[row.id].public_key] for row in (first, second)
    ]
    twins.finish(vm.delete(twins.broker, twins.member, first.id)[1])
    assert [len(gateway.document(twins.broker, agent.actor).peers) for agent in twins.agents] == [0, 1]


def test_networks_of_one_name_are_two_on_a_host(twins: Stage) -> None:
    add_network(twins, "net", "10.30.0.0/16", project_ref="lab")
    row = add(twins, "net", "10.30.1.0/24")
    shared = next(each for each in network.list_networks(twins.broker, twins.outsider) if each.name == "net")
    names = {network.spec(each).name for each in (row, *shared.subnets)}
    assert names == {"net", f"net.{row.network_id}"}


def test_of_two_that_take_one_prefix_at_once_one_has_it(stage: Stage) -> None:
    for name in ("one", "two"):
        add_network(stage, name)
    start = threading.Barrier(2)

    def take(broker: Broker, name: str) -> str:
        start.wait(10)
        try:
            network.add_subnet(broker, stage.admin, name, site_ref="campus", cidr="10.20.1.0/24")
        except Overlap:
            return "refused"
        return "has it"

    with ThreadPoolExecutor(2) as pool:
        asked = [
            pool.submit(take, broker, name)
            for broker, name in ((stage.broker, "one"), (stage.another(), "two"))
        ]
        assert sorted(each.result(30) for each in asked) == ["has it", "refused"]
