"""A kvm site on libvirt's own test driver: everything that needs no running guest."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from providers.kvm import KvmProvider
from providers.kvm.domain import DomainFiles, Machine, domain_xml
from providers.kvm.host import Session
from providers.port import Conflict, NetworkSpec, NotFound, VMSpec, VMState, split_strangers
from tests.providers.observed import observed

BROKER = "brk-1"


@pytest.fixture
def site(make_provider: Callable[..., KvmProvider], node_uri: str) -> KvmProvider:
    return make_provider([{"uri": node_uri, "name": "a", "attributes": {"rack": 4.0}}])


@pytest.fixture
def define(site: KvmProvider) -> Callable[..., str]:
    """Put a VM's domain on the host by hand, as an earlier call of the broker left it."""

    def define(spec: VMSpec, broker: str = BROKER, start: bool = True) -> str:
        files = DomainFiles("/pool/d.qcow2", "/pool/s.iso", "/pool/c.log")

        def act(session: Session) -> str:
            text = domain_xml(spec, Machine("test", "i686", "q35"), files, broker)
            domain = session.connection.defineXML(text)
            if start:
                domain.create()
            return str(domain.UUIDString())

        return site._host("a").call(act)

    return define


def test_inventory_has_the_hosts_facts_and_what_strangers_hold(site: KvmProvider) -> None:
    report = site.inventory()[0]
    assert (report.name, report.reachable) == ("a", True)
    assert (report.reserved_vcpus, report.reserved_mem_mb) == (3.0, 2048.0)
    attributes = report.attributes
    assert attributes["cpu_total"] == 16.0
    assert attributes["numa_nodes"] == 2.0
    assert attributes["mem_total_mb"] == 65536.0
    assert attributes["hypervisor"] == "kvm"
    assert attributes["running_vms"] == 1.0
    assert attributes["rack"] == 4.0
    total, free = attributes["disk_total_gb"], attributes["disk_free_gb"]
    assert isinstance(total, float)
    assert isinstance(free, float)
    assert total >= free > 0


def test_ours_and_strangers_are_told_apart(
    site: KvmProvider, define: Callable[..., str], make_spec: Callable[..., VMSpec]
) -> None:
    spec = make_spec()
    define(spec)
    define(make_spec(), broker="brk-of-somebody-else")
    listing = site.list_vms()
    assert listing.complete == {"a"}
    ours, strangers = split_strangers(listing.vms, BROKER)
    assert [(vm.vm_id, vm.ref, vm.state, vm.vcpus, vm.mem_mb) for vm in ours] == [
        (spec.id, spec.uuid, VMState.RUNNING, 1, 128)
    ]
    assert len(strangers) == 2
    assert site.inventory()[0].reserved_vcpus == 4.0


def test_domain_that_was_only_defined_is_started(
    site: KvmProvider, define: Callable[..., str], make_spec: Callable[..., VMSpec]
) -> None:
    spec = make_spec()
    define(spec, start=False)
    assert observed(site, "a", spec.id).state is VMState.STOPPED
    assert site.ensure_vm(spec).state is VMState.RUNNING


def test_domain_that_ran_and_stopped_stays_stopped(
    site: KvmProvider, define: Callable[..., str], make_spec: Callable[..., VMSpec]
) -> None:
    spec = make_spec()
    ref = define(spec)
    site.stop_vm("a", ref, force=True)
    report = site.ensure_vm(spec)
    assert (report.state, report.reason) == (VMState.STOPPED, "destroyed")
    site.start_vm("a", ref)
    assert observed(site, "a", spec.id, ref).state is VMState.RUNNING


def test_domain_of_another_broker_is_a_conflict_and_left_alone(
    site: KvmProvider, define: Callable[..., str], make_spec: Callable[..., VMSpec]
) -> None:
    spec = make_spec()
    ref = define(spec, broker="brk-2")
    with pytest.raises(Conflict, match="not VM"):
        site.ensure_vm(spec)
    with pytest.raises(Conflict, match="left alone"):
        site.delete_vm("a", spec.id, ref)
    assert site.observe_vm("a", spec.id, ref) is None
    assert len(site.list_vms().vms) == 2


def test_vm_without_its_image_is_refused(site: KvmProvider, make_spec: Callable[..., VMSpec]) -> None:
    with pytest.raises(NotFound, match="ensure_image first"):
        site.ensure_vm(make_spec())


def test_stop_start_reboot_of_nothing_is_not_found(site: KvmProvider) -> None:
    missing = "22222222-2222-2222-2222-222222222222"
    for act in (site.start_vm, site.stop_vm, site.reboot_vm, site.console_log):
        with pytest.raises(NotFound, match=missing):
            act("a", missing)
    site.delete_vm("a", "vm-missing", missing)
    assert site.observe_vm("a", "vm-missing", missing) is None


def test_network_is_made_once_and_kept_running(site: KvmProvider, network: NetworkSpec) -> None:
    site.ensure_network("a", network)
    site.ensure_network("a", network)

    def state(session: Session) -> tuple[int, int, int]:
        networks = session.connection.listAllNetworks()
        there = next(net for net in networks if net.name() == "isthmus-lan")
        return len(networks), there.isActive(), there.autostart()

    count, active, autostart = site._host("a").call(state)
    assert (active, autostart) == (1, 1)
    site.ensure_network(
        "a", replace(network, id="sub-2", name="other", cidr="10.78.0.0/24", gateway="10.78.0.1")
    )
    assert site._host("a").call(lambda session: session.connection.numOfNetworks()) == count + 1


def test_network_of_another_definition_is_a_conflict_that_says_what_differs(
    site: KvmProvider, network: NetworkSpec
) -> None:
    site.ensure_network("a", network)
    changed = replace(network, gateway="10.77.0.2", mode="route")
    with pytest.raises(Conflict) as refusal:
        site.ensure_network("a", changed)
    assert "gateway is 10.77.0.1/24, 10.77.0.2/24 is wanted" in str(refusal.value)
    assert "mode is nat, route is wanted" in str(refusal.value)


def test_unknown_host_is_not_found(site: KvmProvider) -> None:
    with pytest.raises(NotFound, match="no host 'b'"):
        site.observe_vm("b", "vm-1")


def test_one_dead_host_hides_no_other(
    make_provider: Callable[..., KvmProvider], node_uri: str, tmp_path: Path
) -> None:
    dead = f"qemu+unix:///system?socket={tmp_path}/none"
    site = make_provider(
        [{"uri": dead, "name": "dead", "attributes": {"rack": 1.0}}, {"uri": node_uri, "name": "a"}]
    )
    site.check()
    reports = site.inventory()
    assert [(report.name, report.reachable) for report in reports] == [("dead", False), ("a", True)]
    assert "does libvirtd run there" in reports[0].reason
    assert reports[0].attributes == {"rack": 1.0}
    listing = site.list_vms()
    assert listing.complete == {"a"}
    assert set(listing.unreachable) == {"dead"}


def test_host_without_a_name_is_called_as_libvirt_calls_it(
    make_provider: Callable[..., KvmProvider], node_uri: str, tmp_path: Path
) -> None:
    site = make_provider([node_uri])
    name = site.inventory()[0].name
    assert name != node_uri
    assert json.loads((tmp_path / "cache-0" / "hostnames.json").read_text()) == {node_uri: name}
    other = make_provider([node_uri])
    assert other.observe_vm(name, "vm-1") is None  # known by name without an inventory before


def test_network_that_nobody_needs_goes_with_its_bridge_and_makes_room_for_another(
    site: KvmProvider, network: NetworkSpec
) -> None:
    stranger = "<network><name>default</name><bridge name='virbr0'/></network>"
    site._host("a").call(lambda session: session.connection.networkDefineXML(stranger))
    site.ensure_network("a", network)
    assert site.list_networks() == {"a": {network.id}}
    site.remove_network("a", network.id)
    site.remove_network("a", network.id)
    assert site.list_networks() == {"a": set()}
    names = site._host("a").call(lambda session: {net.name() for net in session.connection.listAllNetworks()})
    assert names == {"default"}
    site.ensure_network("a", replace(network, id="sub-2"))
    site.remove_network("a", "sub-2")


@pytest.mark.parametrize("start", [True, False], ids=["running", "stopped"])
def test_network_that_a_domain_is_on_stays_also_when_it_does_not_run(
    site: KvmProvider,
    network: NetworkSpec,
    define: Callable[..., str],
    make_spec: Callable[..., VMSpec],
    start: bool,
) -> None:
    site.ensure_network("a", network)
    spec = make_spec()
    define(spec, start=start)
    with pytest.raises(Conflict, match="is on the network isthmus-lan"):
        site.remove_network("a", network.id)
    site.delete_vm("a", spec.id, spec.uuid)
    site.remove_network("a", network.id)
    assert site.list_networks() == {"a": set()}
