"""The capabilities that have no methods: what the core then reports and does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from providers.port import Capability, Conflict, VMState


def test_hosts_are_elastic_where_the_provider_says_so_and_nowhere_else(rig, provider):
    elastic = Capability.ELASTIC in rig.capabilities
    for host in provider.inventory():
        assert host.elastic is elastic, host.name
        if elastic:
            assert {"price_hour", "zone", "instance_type"} <= set(host.attributes), host.name
            assert (host.reserved_vcpus, host.reserved_mem_mb) == (0, 0)


def test_spare_capacity_is_reported_where_it_is_declared_and_nowhere_else(rig, provider):
    spare = {host.name for host in provider.inventory() if host.attributes.get("spot")}
    assert bool(spare) is (Capability.SPOT in rig.capabilities)


@pytest.mark.needs(Capability.SPOT)
def test_vm_on_spare_capacity_is_seen_there(rig, provider):
    spec = rig.spec(host=rig.spot_host)
    report = rig.launch(provider, spec)
    assert report.host == rig.spot_host
    assert [vm.host for vm in provider.list_vms().vms if vm.vm_id == spec.id] == [rig.spot_host]
    assert rig.spot_host in provider.list_vms().complete


@pytest.mark.needs(Capability.ADDRESSES)
def test_vm_has_the_address_that_was_leased_for_it(rig, provider):
    spec = rig.spec()
    assert rig.launch(provider, spec).address == spec.nics[0].address


@pytest.mark.needs(Capability.ADDRESSES)
def test_subnet_with_another_definition_is_a_conflict(rig, provider):
    spec = rig.spec()
    rig.prepare(provider, spec)
    before = rig.footprint(provider)
    with pytest.raises(Conflict, match=r"10\.77\.0\.1"):
        provider.ensure_network(rig.host, replace(rig.network, gateway="10.77.0.2"))
    assert rig.footprint(provider) == before


@pytest.mark.needs(Capability.DIRECT_KERNEL)
def test_image_with_a_kernel_boots(rig, provider):
    assert rig.image.kernel, "the rig's image has a kernel"
    spec = rig.spec()
    report = rig.launch(provider, spec)
    assert report.state is VMState.RUNNING
    rig.until(lambda: rig.heeds(provider, report), "the guest")
