"""``Capability.STOP`` and ``Capability.REBOOT``."""

from __future__ import annotations

import pytest

from providers import port
from providers.port import Capability, Conflict, NotFound, Provider, VMState
from tests.providers.contract.rig import Rig
from tests.providers.observed import observed


@pytest.mark.needs(Capability.STOP)
def test_plug_is_pulled_and_the_vm_started_again_each_twice(rig: Rig, provider: Provider) -> None:
    site = port.require(provider, Capability.STOP)
    spec = rig.spec()
    ref = rig.launch(provider, spec).ref
    site.start_vm(spec.host, ref)
    site.stop_vm(spec.host, ref, force=True)
    rig.becomes(provider, spec, VMState.STOPPED)
    site.stop_vm(spec.host, ref, force=True)
    site.stop_vm(spec.host, ref)
    assert rig.becomes(provider, spec, VMState.STOPPED).ref == ref
    assert provider.ensure_vm(spec).state is VMState.STOPPED, "to ensure it does not start what was stopped"
    site.start_vm(spec.host, ref)
    assert rig.becomes(provider, spec, VMState.RUNNING).ref == ref
    site.start_vm(spec.host, ref)
    assert [vm.ref for vm in provider.list_vms().vms if vm.vm_id == spec.id] == [ref]


@pytest.mark.needs(Capability.STOP)
def test_guest_that_is_asked_shuts_down(rig: Rig, provider: Provider) -> None:
    if not rig.guests:
        pytest.skip("the VMs of this site have no guests")
    site = port.require(provider, Capability.STOP)
    spec = rig.spec()
    report = rig.launch(provider, spec)
    rig.until(lambda: rig.heeds(provider, report), "the guest")

    def down() -> bool:
        site.stop_vm(spec.host, report.ref)
        return observed(provider, spec.host, spec.id).state is VMState.STOPPED

    rig.until(down, "the guest's shutdown")
    rig.becomes(provider, spec, VMState.STOPPED)


@pytest.mark.needs(Capability.STOP)
def test_start_and_stop_of_nothing_are_not_found(rig: Rig, provider: Provider) -> None:
    site = port.require(provider, Capability.STOP)
    for call in (site.start_vm, site.stop_vm):
        with pytest.raises(NotFound, match=rig.unknown_ref):
            call(rig.host, rig.unknown_ref)


@pytest.mark.needs(Capability.REBOOT)
def test_rebooted_vm_is_the_same_and_runs(rig: Rig, provider: Provider) -> None:
    site = port.require(provider, Capability.REBOOT)
    spec = rig.spec()
    ref = rig.launch(provider, spec).ref
    site.reboot_vm(spec.host, ref)
    assert rig.becomes(provider, spec, VMState.RUNNING).ref == ref
    with pytest.raises(NotFound, match=rig.unknown_ref):
        site.reboot_vm(spec.host, rig.unknown_ref)


@pytest.mark.needs(Capability.REBOOT, Capability.STOP)
def test_vm_that_is_off_stays_off_when_it_is_to_be_rebooted(rig: Rig, provider: Provider) -> None:
    spec = rig.spec()
    ref = rig.launch(provider, spec).ref
    port.require(provider, Capability.STOP).stop_vm(spec.host, ref, force=True)
    rig.becomes(provider, spec, VMState.STOPPED)
    if Capability.ELASTIC in rig.capabilities:
        return  # EC2 says nothing of it
    with pytest.raises(Conflict):
        port.require(provider, Capability.REBOOT).reboot_vm(spec.host, ref)
    assert observed(provider, spec.host, spec.id).state is VMState.STOPPED
