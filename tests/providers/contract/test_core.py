"""What every provider promises, whatever it can do beyond that."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from providers import port
from providers.port import (
    Capability,
    Conflict,
    Listing,
    NotFound,
    Provider,
    Unreachable,
    Unsupported,
    VMReport,
    VMSpec,
    VMState,
    split_strangers,
)
from tests.providers.contract.rig import Rig

NOBODY = "vm-00000000000000fff"
GONE = (None, VMState.TERMINATED)


def ours(listing: Listing, broker_id: str = "brk-1") -> list[str]:
    """The VMs of a broker that are not gone."""
    return [
        vm.vm_id for vm in split_strangers(listing.vms, broker_id)[0] if vm.state is not VMState.TERMINATED
    ]


def state(provider: Provider, spec: VMSpec, ref: str = "") -> VMState | None:
    report = provider.observe_vm(spec.host, spec.id, ref)
    return None if report is None else report.state


def test_it_has_what_the_capabilities_demand_that_it_declares(rig: Rig, provider: Provider) -> None:
    assert isinstance(provider, Provider)
    assert provider.capabilities == rig.capabilities
    for name in rig.capabilities:
        assert port.missing(provider, name) == [], name
    for name in set(Capability) - rig.capabilities:
        with pytest.raises(Unsupported, match=name):
            port.require(provider, name)


def test_site_is_reached_and_its_hosts_have_names_that_last(rig: Rig, provider: Provider) -> None:
    provider.check()
    hosts = provider.inventory()
    names = [host.name for host in hosts]
    assert len(names) == len(set(names))
    assert {rig.host, rig.other_host, rig.spot_host} - {""} <= {host.name for host in hosts if host.reachable}
    assert [host.name for host in provider.inventory()] == names
    assert [host.name for host in rig.make().inventory()] == names


def test_hosts_report_numbers_texts_and_lists_and_how_large_they_are(provider: Provider) -> None:
    for host in provider.inventory():
        for total in (host.attributes["cpu_total"], host.attributes["mem_total_mb"]):
            assert isinstance(total, float | int)
            assert total > 0
        for name, value in host.attributes.items():
            if isinstance(value, tuple):
                assert all(isinstance(each, str) for each in value), name
            else:
                assert value is None or isinstance(value, float | int | str), name


def test_second_ensure_changes_nothing(rig: Rig, provider: Provider) -> None:
    spec = rig.spec()
    rig.prepare(provider, spec)
    prepared = rig.footprint(provider)
    rig.prepare(provider, spec)
    rig.prepare(rig.make(), spec)
    assert rig.footprint(provider) == prepared
    first = rig.launch(provider, spec)
    launched = rig.footprint(provider)
    assert launched != prepared
    for again in (provider, rig.make()):  # the second as after a restart of the broker
        assert again.ensure_vm(spec).ref == first.ref
    assert rig.footprint(provider) == launched


def test_two_calls_at_once_make_one_vm(rig: Rig, provider: Provider) -> None:
    spec = rig.spec()
    rig.prepare(provider, spec)
    rig.assist(provider, spec)
    start = threading.Barrier(2)
    refs: list[str] = []

    def ensure() -> None:
        start.wait(30)
        refs.append(provider.ensure_vm(spec).ref)

    threads = [threading.Thread(target=ensure) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(rig.patience_s)
    assert len(refs) == 2, "one of the calls did not come back, or failed"
    assert len(set(refs)) == 1
    rig.becomes(provider, spec, VMState.RUNNING)
    assert [vm.ref for vm in provider.list_vms().vms if vm.vm_id == spec.id] == refs[:1]


def test_vm_is_seen_with_its_marks_where_it_runs(rig: Rig, provider: Provider) -> None:
    spec = rig.spec()
    report = rig.launch(provider, spec)
    listing = provider.list_vms()
    for seen in (report, *(vm for vm in listing.vms if vm.ref == report.ref)):
        assert (seen.broker_id, seen.vm_id, seen.name, seen.host) == ("brk-1", spec.id, spec.name, spec.host)
        assert (seen.ref, seen.state) == (report.ref, VMState.RUNNING)
        assert seen.vcpus > 0
        assert seen.mem_mb > 0
    assert ours(listing) == [spec.id]
    assert provider.observe_vm(spec.host, spec.id, report.ref) == report


def test_listing_is_whole_for_every_host_that_answers(rig: Rig, provider: Provider) -> None:
    answering = {host.name for host in provider.inventory() if host.reachable}
    listing = provider.list_vms()
    assert answering <= listing.complete
    assert not listing.complete & set(listing.unreachable)
    spec = rig.spec()
    rig.launch(provider, spec)
    assert rig.host in provider.list_vms().complete


def test_vm_of_another_broker_is_a_stranger_that_is_left_alone(rig: Rig, provider: Provider) -> None:
    spec = rig.spec()
    report = rig.launch(provider, spec)
    other = rig.make("brk-2")
    assert ours(other.list_vms(), "brk-2") == []
    assert other.observe_vm(spec.host, spec.id) is None
    assert other.observe_vm(spec.host, spec.id, report.ref) is None
    with pytest.raises(Conflict):
        other.delete_vm(spec.host, spec.id, report.ref)
    assert state(provider, spec) is VMState.RUNNING


def test_machine_that_no_broker_made_has_no_marks_and_is_left_alone(rig: Rig, provider: Provider) -> None:
    ref = rig.stranger()
    if not ref:
        pytest.skip("only the broker makes machines on this site")

    def listed() -> list[VMReport]:
        return [vm for vm in provider.list_vms().vms if vm.ref == ref]

    (seen,) = rig.until(listed, "the stranger being listed")
    assert (seen.broker_id, seen.vm_id, seen.host) == ("", "", rig.host)
    assert provider.observe_vm(rig.host, NOBODY, ref) is None
    with pytest.raises(Conflict):
        provider.delete_vm(rig.host, NOBODY, ref)
    assert [vm.state for vm in listed()] == [seen.state]


def test_vm_that_never_was_is_none_and_deleting_it_is_nothing(rig: Rig, provider: Provider) -> None:
    for ref in ("", rig.unknown_ref):
        assert provider.observe_vm(rig.host, NOBODY, ref) is None
        provider.delete_vm(rig.host, NOBODY, ref)


def test_deleting_takes_all_that_was_made_and_again_takes_nothing(rig: Rig, provider: Provider) -> None:
    spec = rig.spec()
    rig.prepare(provider, spec)
    before = rig.footprint(provider)
    ref = rig.launch(provider, spec).ref
    other = rig.spec()
    kept = rig.launch(provider, other)
    provider.delete_vm(spec.host, spec.id, ref)
    provider.delete_vm(spec.host, spec.id, ref)
    rig.make().delete_vm(spec.host, spec.id)
    rig.until(lambda: state(provider, spec, ref) in GONE, "the end of the VM")
    provider.delete_vm(spec.host, spec.id, ref)
    assert ours(provider.list_vms()) == [other.id]
    assert state(provider, other, kept.ref) is VMState.RUNNING
    provider.delete_vm(other.host, other.id)
    rig.until(lambda: state(provider, other, kept.ref) in GONE, "the end of the other VM")
    assert rig.footprint(provider) == before


def test_image_that_the_site_cannot_have_is_not_found(rig: Rig, provider: Provider) -> None:
    if rig.missing_image is None:
        pytest.skip("this site takes every image")
    with pytest.raises(NotFound, match=rf"{rig.missing_image.name}|{rig.missing_image.remote_id or '-'}"):
        provider.ensure_image(rig.host, rig.missing_image)


def test_vm_is_not_made_on_a_host_without_its_image(rig: Rig, provider: Provider) -> None:
    image = replace(rig.image, id="img-8")
    if Capability.ELASTIC in rig.capabilities:
        if rig.missing_image is None:
            pytest.skip("this site takes every image")
        image = rig.missing_image
    spec = rig.spec(image=image)
    for nic in spec.nics:
        provider.ensure_network(spec.host, nic.network)
    with pytest.raises(NotFound):
        provider.ensure_vm(spec)
    assert provider.observe_vm(spec.host, spec.id) is None


def test_nothing_is_concluded_of_a_host_that_does_not_answer(rig: Rig, provider: Provider) -> None:
    cut = rig.cut()
    if cut is None:
        pytest.skip("this site cannot be cut off")
    spec = rig.spec()
    ref = rig.launch(provider, spec).ref
    with cut:
        with pytest.raises(Unreachable):
            provider.observe_vm(spec.host, spec.id, ref)
        try:
            listing = provider.list_vms()
        except Unreachable:
            listing = port.Listing([], unreachable={rig.host: "nothing of the site answers"})
        assert rig.host not in listing.complete
        assert listing.unreachable[rig.host]
        try:
            (host,) = [host for host in provider.inventory() if host.name == rig.host]
            assert not host.reachable
            assert host.reason
        except Unreachable:
            pass
    rig.until(lambda: _found_again(provider, spec, ref), "the host's answer")


def _found_again(provider: Provider, spec: VMSpec, ref: str) -> bool:
    try:
        return state(provider, spec, ref) is VMState.RUNNING
    except Unreachable:
        return False


def test_provider_is_closed_twice_as_once(provider: Provider) -> None:
    provider.check()
    provider.close()
    provider.close()
