"""The capabilities that have no methods: what the core then reports and does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from providers import port
from providers.port import Capability, Conflict, Provider, VMState
from tests.providers.contract.rig import Rig
from tests.providers.contract.rigs import SimulatedRig


def test_hosts_are_elastic_where_the_provider_says_so_and_nowhere_else(rig: Rig, provider: Provider) -> None:
    elastic = Capability.ELASTIC in rig.capabilities
    for host in provider.inventory():
        assert host.elastic is elastic, host.name
        if elastic:
            assert {"price_hour", "zone", "instance_type"} <= set(host.attributes), host.name
            assert (host.reserved_vcpus, host.reserved_mem_mb) == (0, 0)


def test_spare_capacity_is_reported_where_it_is_declared_and_nowhere_else(
    rig: Rig, provider: Provider
) -> None:
    spare = {host.name for host in provider.inventory() if host.attributes.get("spot")}
    assert bool(spare) is (Capability.SPOT in rig.capabilities)


@pytest.mark.needs(Capability.SPOT)
def test_vm_on_spare_capacity_is_seen_there(rig: Rig, provider: Provider) -> None:
    spec = rig.spec(host=rig.spot_host)
    report = rig.launch(provider, spec)
    assert report.host == rig.spot_host
    assert [vm.host for vm in provider.list_vms().vms if vm.vm_id == spec.id] == [rig.spot_host]
    assert rig.spot_host in provider.list_vms().complete


@pytest.mark.needs(Capability.ADDRESSES)
def test_vm_has_the_address_that_was_leased_for_it(rig: Rig, provider: Provider) -> None:
    spec = rig.spec()
    assert rig.launch(provider, spec).address == spec.nics[0].address


@pytest.mark.needs(Capability.ADDRESSES)
def test_subnet_with_another_definition_is_a_conflict(rig: Rig, provider: Provider) -> None:
    spec = rig.spec()
    rig.prepare(provider, spec)
    before = rig.footprint(provider)
    with pytest.raises(Conflict, match=r"10\.77\.0\.1"):
        provider.ensure_network(rig.host, replace(rig.network, gateway="10.77.0.2"))
    assert rig.footprint(provider) == before


@pytest.mark.needs(Capability.SUBNETS)
def test_subnet_that_nobody_needs_is_taken_from_the_host_and_again_takes_nothing(
    rig: Rig, provider: Provider
) -> None:
    nothing = rig.footprint(provider)
    site = port.require(provider, Capability.SUBNETS)
    network = replace(rig.network, id="sub-7", name="spare", cidr="10.79.0.0/24", gateway="10.79.0.1")
    provider.ensure_network(rig.host, network)
    assert rig.footprint(provider) != nothing
    assert "sub-7" in site.list_networks()[rig.host]
    for _ in range(2):
        site.remove_network(rig.host, "sub-7")
        assert "sub-7" not in site.list_networks()[rig.host]
    assert rig.footprint(provider) == nothing
    # Another subnet of the same prefix finds its place free.
    provider.ensure_network(rig.host, replace(network, id="sub-8"))
    site.remove_network(rig.host, "sub-8")


@pytest.mark.needs(Capability.SUBNETS)
def test_subnet_that_a_machine_is_on_stays(rig: Rig, provider: Provider) -> None:
    spec = rig.spec()
    rig.launch(provider, spec)
    site = port.require(provider, Capability.SUBNETS)
    before = rig.footprint(provider)
    with pytest.raises(Conflict, match="is on the network"):
        site.remove_network(rig.host, rig.network.id)
    assert rig.footprint(provider) == before
    assert rig.network.id in site.list_networks()[rig.host]


@pytest.mark.needs(Capability.SUBNETS)
def test_subnet_of_another_broker_is_left_alone(rig: Rig, provider: Provider) -> None:
    if isinstance(rig, SimulatedRig):
        pytest.skip("a simulated site has one broker")
    site, other = (port.require(each, Capability.SUBNETS) for each in (provider, rig.make("brk-2")))
    network = replace(rig.network, id="sub-7", name="theirs", cidr="10.79.0.0/24", gateway="10.79.0.1")
    other.ensure_network(rig.host, network)
    before = rig.footprint(provider)
    assert "sub-7" not in site.list_networks()[rig.host]
    site.remove_network(rig.host, "sub-7")
    assert rig.footprint(provider) == before
    other.remove_network(rig.host, "sub-7")


@pytest.mark.needs(Capability.SUBNETS)
def test_host_that_does_not_answer_tells_no_subnets(rig: Rig, provider: Provider) -> None:
    rig.prepare(provider, rig.spec())
    site = port.require(provider, Capability.SUBNETS)
    away = rig.cut()
    if away is None:
        pytest.skip("the rig cannot cut off a host")
    with away:
        assert rig.host not in site.list_networks()


@pytest.mark.needs(Capability.DIRECT_KERNEL)
def test_image_with_a_kernel_boots(rig: Rig, provider: Provider) -> None:
    assert rig.image.kernel, "the rig's image has a kernel"
    spec = rig.spec()
    report = rig.launch(provider, spec)
    assert report.state is VMState.RUNNING
    rig.until(lambda: rig.heeds(provider, report), "the guest")
