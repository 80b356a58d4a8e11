"""A running guest is saved and goes on, and goes from one host to another, without noticing."""

from __future__ import annotations

import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab import network as wires
from lab.host import Host
from providers.kvm import KvmProvider
from providers.port import NetworkSpec, ProviderError, VMSpec, VMState
from tests.providers.observed import observed

if TYPE_CHECKING:
    from tests.providers.kvm.conftest import RealHost, WaitFor

Pair = tuple[KvmProvider, dict[str, Host], Path]
"""The site, its hosts, and the directory that these are in."""

pytestmark = pytest.mark.lab
FETCH = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=2).read().decode())"


@pytest.fixture
def spec(make_spec: Callable[..., VMSpec], real_host: RealHost) -> VMSpec:
    return make_spec(image=real_host.image)


@pytest.fixture
def pair(
    tmp_path_factory: pytest.TempPathFactory,
    make_provider: Callable[..., KvmProvider],
    real_host: RealHost,
    network: NetworkSpec,
) -> Iterator[Pair]:
    """A site of two hosts on one wire, with image and network on both."""
    directory = tmp_path_factory.mktemp("km")
    addresses = {"a": "10.78.0.1", "b": "10.78.0.2"}
    nodes = {
        name: Host(f"km-{name}{secrets.token_hex(2)}", directory / name, lab=directory, address=address)
        for name, address in addresses.items()
    }
    try:
        for node in nodes.values():
            node.up()
        wires.connect(nodes["a"], "eth0", nodes["b"], "eth0")
        for name, node in nodes.items():
            node.ip(f"addr add {addresses[name]}/24 dev eth0", "link set eth0 up")
        provider = make_provider(
            [{"uri": node.uri, "name": name} for name, node in nodes.items()],
            acceleration="tcg",
            migration="plain",
        )
        for name in nodes:
            provider.ensure_image(name, real_host.image)
            provider.ensure_network(name, network)
        yield provider, nodes, directory
        for vm in provider.list_vms().vms:
            provider.delete_vm(vm.host, vm.vm_id, vm.ref)
    finally:
        for node in nodes.values():
            node.down()
        shutil.rmtree(directory, ignore_errors=True)


def files(directory: Path, host: str, vm_id: str) -> list[str]:
    pool = directory / host / "var-lib-libvirt" / "images" / "isthmus"
    return sorted(path.name for path in pool.glob(f"{vm_id}.*"))


def page(node: Host, spec: VMSpec) -> str:
    url = f"http://{spec.nics[0].address}/"
    return node.run([sys.executable, "-c", FETCH, url], check=False).stdout


def test_suspended_vm_holds_no_memory_and_goes_on_where_it_was(
    campus: KvmProvider, real_host: RealHost, spec: VMSpec, wait_for: WaitFor
) -> None:
    ref = campus.ensure_vm(spec).ref
    wait_for(lambda: b"isthmus-guest ready" in campus.console_log("a", ref), 60)
    campus.suspend_vm("a", ref)
    assert observed(campus, "a", spec.id, ref).state is VMState.SUSPENDED
    assert campus.inventory()[0].attributes["running_vms"] == 0
    campus.start_vm("a", ref)
    assert observed(campus, "a", spec.id, ref).state is VMState.RUNNING
    wait_for(lambda: f"hello from {spec.name}" in page(real_host.node, spec), 30)
    assert campus.console_log("a", ref).count(b"isthmus-guest ready") == 1, "it did not boot again"


def test_paused_domain_is_told_as_an_error_with_its_reason(campus: KvmProvider, spec: VMSpec) -> None:
    ref = campus.ensure_vm(spec).ref
    domain = campus._host("a").connection.current().lookupByUUIDString(ref)
    domain.suspend()
    report = observed(campus, "a", spec.id, ref)
    assert (report.state, "virsh resume" in report.reason) == (VMState.ERROR, True)
    domain.resume()
    assert observed(campus, "a", spec.id, ref).state is VMState.RUNNING


def test_running_vm_moves_with_its_disk_and_leaves_nothing(
    pair: Pair, real_host: RealHost, make_spec: Callable[..., VMSpec], wait_for: WaitFor
) -> None:
    provider, nodes, directory = pair
    spec = make_spec(image=real_host.image)
    target = replace(spec, host="b")
    ref = provider.ensure_vm(spec).ref
    wait_for(lambda: f"hello from {spec.name}" in page(nodes["a"], spec), 60)
    told = []
    report = provider.migrate_vm(target, "a", lambda done, total: told.append((done, total)))
    assert (report.host, report.state, report.ref) == ("b", VMState.RUNNING, ref)
    assert provider.migrate_vm(target, "a") == report, "a second time it is there already"
    assert f"hello from {spec.name}" in wait_for(lambda: page(nodes["b"], spec), 30)
    assert [(vm.host, vm.vm_id) for vm in provider.list_vms().vms] == [("b", spec.id)]
    assert files(directory, "a", spec.id) == []
    assert files(directory, "b", spec.id) == [
        f"{spec.id}.console.log",
        f"{spec.id}.qcow2",
        f"{spec.id}.seed.iso",
    ]
    assert all(0 <= done <= total for done, total in told)


def test_vm_that_cannot_move_runs_on_where_it_is(
    pair: Pair, real_host: RealHost, make_spec: Callable[..., VMSpec], wait_for: WaitFor
) -> None:
    provider, nodes, directory = pair
    spec = make_spec(image=real_host.image)
    target = replace(spec, host="b")
    ref = provider.ensure_vm(spec).ref
    nodes["b"].ip("addr del 10.78.0.2/24 dev eth0")  # QEMU's data finds no way
    with pytest.raises(ProviderError, match="host b"):
        provider.migrate_vm(target, "a")
    assert observed(provider, "a", spec.id, ref).state is VMState.RUNNING
    assert provider.observe_vm("b", spec.id, ref) is None
    assert files(directory, "b", spec.id) == []


def test_migration_is_encrypted_unless_the_site_says_plain(
    pair: Pair,
    make_provider: Callable[..., KvmProvider],
    real_host: RealHost,
    make_spec: Callable[..., VMSpec],
) -> None:
    """The lab's hosts have no certificates: QEMU refuses, and nothing is sent in the clear instead."""
    _, nodes, directory = pair
    strict = make_provider(
        [{"uri": node.uri, "name": name} for name, node in nodes.items()], acceleration="tcg"
    )
    spec = make_spec(image=real_host.image)
    ref = strict.ensure_vm(spec).ref
    with pytest.raises(ProviderError, match="cert"):
        strict.migrate_vm(replace(spec, host="b"), "a")
    assert observed(strict, "a", spec.id, ref).state is VMState.RUNNING
    assert files(directory, "b", spec.id) == []
