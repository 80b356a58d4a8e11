"""``Capability.SUSPEND``."""

from __future__ import annotations

import pytest

from providers import port
from providers.port import Capability, Conflict, NotFound, Provider, VMState
from tests.providers.contract.rig import Rig
from tests.providers.observed import observed

pytestmark = pytest.mark.needs(Capability.SUSPEND)


def test_suspended_vm_stays_so_until_it_is_started(rig: Rig, provider: Provider) -> None:
    site = port.require(provider, Capability.SUSPEND)
    spec = rig.spec()
    ref = rig.launch(provider, spec).ref
    site.suspend_vm(spec.host, ref)
    site.suspend_vm(spec.host, ref)
    rig.becomes(provider, spec, VMState.SUSPENDED)
    assert [vm.state for vm in provider.list_vms().vms if vm.ref == ref] == [VMState.SUSPENDED]
    assert provider.ensure_vm(spec).state is VMState.SUSPENDED, "to ensure it does not wake it"
    site.start_vm(spec.host, ref)
    assert rig.becomes(provider, spec, VMState.RUNNING).ref == ref
    site.start_vm(spec.host, ref)


def test_vm_that_was_suspended_is_deleted_with_its_memory(rig: Rig, provider: Provider) -> None:
    spec = rig.spec()
    rig.prepare(provider, spec)
    before = rig.footprint(provider)
    ref = rig.launch(provider, spec).ref
    port.require(provider, Capability.SUSPEND).suspend_vm(spec.host, ref)
    provider.delete_vm(spec.host, spec.id, ref)
    assert provider.observe_vm(spec.host, spec.id, ref) is None
    assert rig.footprint(provider) == before


def test_suspending_nothing_is_not_found(rig: Rig, provider: Provider) -> None:
    with pytest.raises(NotFound, match=rig.unknown_ref):
        port.require(provider, Capability.SUSPEND).suspend_vm(rig.host, rig.unknown_ref)


@pytest.mark.needs(Capability.STOP)
def test_suspended_vm_cannot_be_asked_to_stop_and_a_stopped_one_not_be_suspended(
    rig: Rig, provider: Provider
) -> None:
    suspending = port.require(provider, Capability.SUSPEND)
    stopping = port.require(provider, Capability.STOP)
    spec = rig.spec()
    ref = rig.launch(provider, spec).ref
    suspending.suspend_vm(spec.host, ref)
    with pytest.raises(Conflict, match="suspended"):
        stopping.stop_vm(spec.host, ref)
    rig.becomes(provider, spec, VMState.SUSPENDED)
    stopping.stop_vm(spec.host, ref, force=True)
    rig.becomes(provider, spec, VMState.STOPPED)
    with pytest.raises(Conflict):
        suspending.suspend_vm(spec.host, ref)
    assert observed(provider, spec.host, spec.id).state is VMState.STOPPED
