"""``Capability.MIGRATE``."""

from __future__ import annotations

from dataclasses import replace

import pytest

from providers import port
from providers.port import Capability, Conflict, NotFound, Provider, VMSpec, VMState
from tests.providers.contract.rig import Rig

pytestmark = pytest.mark.needs(Capability.MIGRATE)


def hosts_of(provider: Provider, spec: VMSpec) -> list[tuple[str, VMState]]:
    return [(vm.host, vm.state) for vm in provider.list_vms().vms if vm.vm_id == spec.id]


def test_running_vm_moves_once_and_leaves_nothing(rig: Rig, provider: Provider) -> None:
    site = port.require(provider, Capability.MIGRATE)
    spec = rig.spec()
    target = replace(spec, host=rig.other_host)
    rig.prepare(provider, spec)
    rig.prepare(provider, target)
    before = rig.footprint(provider)
    ref = rig.launch(provider, spec).ref
    told: list[tuple[int, int]] = []
    report = site.migrate_vm(target, spec.host, lambda done, total: told.append((done, total)))
    assert (report.host, report.vm_id, report.ref) == (rig.other_host, spec.id, ref)
    assert site.migrate_vm(target, spec.host).host == rig.other_host, "a second time it is there already"
    assert rig.becomes(provider, target, VMState.RUNNING).ref == ref
    assert hosts_of(provider, spec) == [(rig.other_host, VMState.RUNNING)]
    assert provider.observe_vm(spec.host, spec.id, ref) is None
    assert all(0 <= done <= total for done, total in told)
    provider.delete_vm(rig.other_host, spec.id, ref)
    assert rig.footprint(provider) == before


@pytest.mark.needs(Capability.STOP)
def test_vm_that_does_not_run_stays_where_it_is(rig: Rig, provider: Provider) -> None:
    site = port.require(provider, Capability.MIGRATE)
    spec = rig.spec()
    target = replace(spec, host=rig.other_host)
    rig.prepare(provider, target)
    with pytest.raises(NotFound):
        site.migrate_vm(target, spec.host)
    ref = rig.launch(provider, spec).ref
    port.require(provider, Capability.STOP).stop_vm(spec.host, ref, force=True)
    rig.becomes(provider, spec, VMState.STOPPED)
    before = rig.footprint(provider)
    with pytest.raises(Conflict):
        site.migrate_vm(target, spec.host)
    assert hosts_of(provider, spec) == [(spec.host, VMState.STOPPED)]
    assert rig.footprint(provider) == before
