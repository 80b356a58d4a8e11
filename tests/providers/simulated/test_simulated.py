"""A simulated site keeps the port's promises and refuses what a real site refuses."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from providers.port import (
    Capability,
    Conflict,
    InvalidSpec,
    NotFound,
    OutOfCapacity,
    QuotaExceeded,
    Unreachable,
    Unsupported,
    VMState,
)
from providers.simulated import SimulatedProvider, World
from tests.providers.observed import observed

if TYPE_CHECKING:
    from tests.providers.simulated.conftest import Clock, MakeSite, MakeSpec

TYPES = {"small": {"vcpus": 1, "mem_mb": 512, "price_hour": 0.01, "quota": 2}}


def test_ensure_vm_twice_makes_one_vm(
    make_site: MakeSite, make_spec: MakeSpec, prepared: Callable[..., None]
) -> None:
    provider, world = make_site(hosts=1)
    prepared(provider, "sim-01")
    spec = make_spec()
    first, second = provider.ensure_vm(spec), provider.ensure_vm(spec)
    assert first == second
    assert first.state is VMState.RUNNING
    assert len(world.vms()) == 1
    assert world.calls("ensure_vm") == 2


def test_vm_is_pending_until_it_has_booted(
    make_site: MakeSite, make_spec: MakeSpec, prepared: Callable[..., None], clock: Clock
) -> None:
    provider, _ = make_site(hosts=1, boot_s=10)
    prepared(provider, "sim-01")
    assert provider.ensure_vm(make_spec()).state is VMState.PENDING
    clock.now += 9.9
    assert observed(provider, "sim-01", "vm-1").state is VMState.PENDING
    clock.now += 0.1
    assert observed(provider, "sim-01", "vm-1").state is VMState.RUNNING


def test_full_host_refuses_the_next_vm(
    make_site: MakeSite, make_spec: MakeSpec, prepared: Callable[..., None]
) -> None:
    provider, _ = make_site(hosts=[{"name": "a", "attributes": {"cpu_total": 3}}])
    prepared(provider, "a")
    provider.ensure_vm(make_spec("vm-1", "a"))
    with pytest.raises(OutOfCapacity, match="1 vCPUs free, 2 are needed"):
        provider.ensure_vm(make_spec("vm-2", "a"))
    provider.delete_vm("a", "vm-1")
    provider.ensure_vm(make_spec("vm-2", "a"))


def test_vm_that_lives_on_another_host_is_a_conflict(
    make_site: MakeSite, make_spec: MakeSpec, prepared: Callable[..., None]
) -> None:
    provider, world = make_site(hosts=2)
    prepared(provider, "sim-01", "sim-02")
    spec = make_spec()
    provider.ensure_vm(spec)
    with pytest.raises(Conflict, match="sim-01"):
        provider.ensure_vm(replace(spec, host="sim-02"))
    assert len(world.vms()) == 1


def test_address_that_is_in_use_is_a_conflict(
    make_site: MakeSite, make_spec: MakeSpec, prepared: Callable[..., None]
) -> None:
    provider, _ = make_site(hosts=1)
    prepared(provider, "sim-01")
    spec = make_spec("vm-1")
    provider.ensure_vm(spec)
    with pytest.raises(Conflict, match="held by VM vm-1"):
        provider.ensure_vm(make_spec("vm-2", nics=spec.nics))


def test_vm_needs_its_image_and_network_on_the_host(
    make_site: MakeSite, make_spec: MakeSpec, prepared: Callable[..., None]
) -> None:
    provider, _ = make_site(hosts=2)
    with pytest.raises(NotFound, match="ensure_image"):
        provider.ensure_vm(make_spec())
    prepared(provider, "sim-01")
    provider.ensure_vm(make_spec())


def test_unreachable_host_delays_nobody_and_is_reported(
    make_site: MakeSite, make_spec: MakeSpec, prepared: Callable[..., None]
) -> None:
    provider, world = make_site(hosts=2)
    prepared(provider, "sim-01", "sim-02")
    provider.ensure_vm(make_spec("vm-1", "sim-01"))
    world.set_unreachable("sim-01", "power failure")
    with pytest.raises(Unreachable, match="power failure"):
        provider.observe_vm("sim-01", "vm-1")
    provider.ensure_vm(make_spec("vm-2", "sim-02"))
    listing = provider.list_vms()
    assert [vm.vm_id for vm in listing.vms] == ["vm-2"]
    assert listing.complete == {"sim-02"}
    assert listing.unreachable == {"sim-01": "power failure"}
    assert [(host.name, host.reachable) for host in provider.inventory()] == [
        ("sim-01", False),
        ("sim-02", True),
    ]
    world.set_reachable("sim-01")
    assert observed(provider, "sim-01", "vm-1").state is VMState.RUNNING


def test_ordered_failures_come_as_often_as_ordered(
    make_site: MakeSite, make_spec: MakeSpec, prepared: Callable[..., None]
) -> None:
    fail = [{"method": "ensure_vm", "error": "OutOfCapacity", "times": 2, "message": "no room"}]
    provider, world = make_site(hosts=1, fail=fail)
    prepared(provider, "sim-01")
    for _ in range(2):
        with pytest.raises(OutOfCapacity, match="no room"):
            provider.ensure_vm(make_spec())
    assert world.vms() == []
    assert provider.ensure_vm(make_spec()).state is VMState.RUNNING


def test_lost_answer_leaves_the_vm_that_was_made(
    make_site: MakeSite, make_spec: MakeSpec, prepared: Callable[..., None]
) -> None:
    provider, world = make_site(hosts=1)
    prepared(provider, "sim-01")
    world.fail("ensure_vm", "Unreachable", "connection reset", after=True)
    spec = make_spec()
    with pytest.raises(Unreachable):
        provider.ensure_vm(spec)
    assert [vm.vm_id for vm in world.vms()] == ["vm-1"]
    assert provider.ensure_vm(spec).ref == world.vms()[0].ref


def test_latency_is_slept_per_method(make_site: MakeSite, clock: Clock) -> None:
    provider, _ = make_site(hosts=1, latency_s={"inventory": 3.0, "*": 0.5})
    provider.inventory()
    provider.list_vms()
    assert clock.slept == [3.0, 0.5]


def test_strangers_are_listed_and_reserve_room(make_site: MakeSite) -> None:
    provider, world = make_site(hosts=1)
    world.add_stranger("sim-01", "web", vcpus=3, mem_mb=2048)
    report = provider.inventory()[0]
    assert (report.reserved_vcpus, report.reserved_mem_mb) == (3.0, 2048.0)
    stranger = provider.list_vms().vms[0]
    assert (stranger.name, stranger.vm_id, stranger.broker_id) == ("web", "", "")


def test_deaf_guest_stops_only_by_force(
    make_site: MakeSite, make_spec: MakeSpec, prepared: Callable[..., None]
) -> None:
    provider, world = make_site(hosts=1)
    prepared(provider, "sim-01")
    ref = provider.ensure_vm(make_spec()).ref
    world.deafen_vm("vm-1")
    provider.stop_vm("sim-01", ref)
    assert observed(provider, "sim-01", "vm-1").state is VMState.RUNNING
    provider.stop_vm("sim-01", ref, force=True)
    assert observed(provider, "sim-01", "vm-1").state is VMState.STOPPED
    provider.start_vm("sim-01", ref)
    assert observed(provider, "sim-01", "vm-1").state is VMState.RUNNING
    assert b"[boot 2]" in provider.console_log("sim-01", ref)


def test_suspended_vm_holds_no_room_and_goes_on_when_there_is_some(
    make_site: MakeSite, make_spec: MakeSpec, prepared: Callable[..., None]
) -> None:
    provider, _ = make_site(hosts=1, attributes={"cpu_total": 2.0})
    prepared(provider, "sim-01")
    first = provider.ensure_vm(make_spec(vcpus=2)).ref
    provider.suspend_vm("sim-01", first)
    provider.suspend_vm("sim-01", first)
    assert observed(provider, "sim-01", "vm-1").state is VMState.SUSPENDED
    with pytest.raises(Conflict, match="suspended"):
        provider.stop_vm("sim-01", first)
    second = provider.ensure_vm(make_spec("vm-2", vcpus=2)).ref
    with pytest.raises(OutOfCapacity):
        provider.start_vm("sim-01", first)
    provider.delete_vm("sim-01", "vm-2", second)
    provider.start_vm("sim-01", first)
    assert observed(provider, "sim-01", "vm-1").state is VMState.RUNNING
    assert b"[boot 2]" not in provider.console_log("sim-01", first), "it went on, it did not boot"
    provider.stop_vm("sim-01", first, force=True)
    with pytest.raises(Conflict, match="start it first"):
        provider.suspend_vm("sim-01", first)


def test_vm_migrates_once_to_a_host_that_is_prepared_and_has_room(
    make_site: MakeSite, make_spec: MakeSpec, prepared: Callable[..., None]
) -> None:
    provider, world = make_site(hosts=2, attributes={"cpu_total": 2.0})
    prepared(provider, "sim-01")
    spec = make_spec(vcpus=2)
    provider.ensure_vm(spec)
    away = replace(spec, host="sim-02")
    with pytest.raises(NotFound, match="ensure_image"):
        provider.migrate_vm(away, "sim-01")
    prepared(provider, "sim-02")
    stranger = world.add_stranger("sim-02", vcpus=2)
    with pytest.raises(OutOfCapacity):
        provider.migrate_vm(away, "sim-01")
    world.remove_stranger(stranger)
    told = []
    report = provider.migrate_vm(away, "sim-01", lambda done, total: told.append((done, total)))
    assert (report.host, report.state, told) == ("sim-02", VMState.RUNNING, [(spec.mem_mb, spec.mem_mb)])
    assert provider.migrate_vm(away, "sim-01") == report
    assert [vm.host for vm in world.live_vms()] == ["sim-02"]


def test_delete_is_idempotent_and_frees_the_address(
    make_site: MakeSite, make_spec: MakeSpec, prepared: Callable[..., None]
) -> None:
    provider, world = make_site(hosts=1)
    prepared(provider, "sim-01")
    spec = make_spec()
    ref = provider.ensure_vm(spec).ref
    provider.delete_vm("sim-01", "vm-1", ref)
    provider.delete_vm("sim-01", "vm-1", ref)
    assert world.vms() == []
    with pytest.raises(NotFound):
        provider.stop_vm("sim-01", ref)
    provider.ensure_vm(make_spec("vm-2", nics=spec.nics))


def test_delete_leaves_a_stranger_alone(make_site: MakeSite) -> None:
    provider, world = make_site(hosts=1)
    ref = world.add_stranger("sim-01")
    with pytest.raises(Conflict, match="left alone"):
        provider.delete_vm("sim-01", "vm-9", ref)
    assert len(world.vms()) == 1


def test_elastic_hosts_are_zones_times_types_with_a_price(make_site: MakeSite) -> None:
    provider, _ = make_site(elastic=True, zones=["z1", "z2"], types=TYPES)
    assert Capability.ELASTIC in provider.capabilities
    assert Capability.ADDRESSES not in provider.capabilities
    reports = provider.inventory()
    assert [report.name for report in reports] == ["z1/small", "z2/small"]
    assert all(report.elastic and report.attributes["price_hour"] == 0.01 for report in reports)


def test_cloud_may_give_addresses_so_that_a_trial_needs_no_gateway(make_site: MakeSite) -> None:
    provider, _ = make_site(elastic=True, addresses=True, types=TYPES)
    assert {Capability.ELASTIC, Capability.ADDRESSES} <= provider.capabilities


def test_site_may_lack_what_others_of_its_kind_can_do(
    make_site: MakeSite, make_spec: MakeSpec, prepared: Callable[..., None]
) -> None:
    provider, _ = make_site(hosts=1, without=["stop", "console"])
    assert not {Capability.STOP, Capability.CONSOLE} & provider.capabilities
    prepared(provider, "sim-01")
    ref = provider.ensure_vm(make_spec()).ref
    for call in (provider.stop_vm, provider.console_log):
        with pytest.raises(Unsupported, match="site sim has no capability"):
            call("sim-01", ref)
    provider.suspend_vm("sim-01", ref)
    provider.start_vm("sim-01", ref)
    assert observed(provider, "sim-01", "vm-1").state is VMState.RUNNING


def test_elastic_quota_and_capacity_refuse(make_site: MakeSite, make_spec: MakeSpec) -> None:
    types = {"small": TYPES["small"], "big": {"vcpus": 8, "mem_mb": 1, "price_hour": 1, "capacity": 0}}
    provider, _ = make_site(elastic=True, zones=["z"], types=types)
    provider.ensure_vm(make_spec("vm-1", "z/small"))
    provider.ensure_vm(make_spec("vm-2", "z/small"))
    with pytest.raises(QuotaExceeded) as quota:
        provider.ensure_vm(make_spec("vm-3", "z/small"))
    assert quota.value.code == "InstanceLimitExceeded"
    with pytest.raises(OutOfCapacity) as capacity:
        provider.ensure_vm(make_spec("vm-4", "z/big"))
    assert capacity.value.code == "InsufficientInstanceCapacity"


def test_one_token_launches_one_instance_ever(make_site: MakeSite, make_spec: MakeSpec) -> None:
    provider, world = make_site(elastic=True, zones=["z"], types=TYPES)
    spec = make_spec("vm-1", "z/small")
    ref = provider.ensure_vm(spec).ref
    world.destroy_vm("vm-1", "Server.SpotInstanceTermination")
    again = provider.ensure_vm(spec)
    assert (again.ref, again.state, again.reason) == (
        ref,
        VMState.TERMINATED,
        "Server.SpotInstanceTermination",
    )
    with pytest.raises(Conflict) as mismatch:
        provider.ensure_vm(replace(spec, id="vm-2"))
    assert mismatch.value.code == "IdempotentParameterMismatch"
    assert provider.ensure_vm(replace(spec, token="another")).ref != ref


def test_terminated_instance_is_listed_for_an_hour(
    make_site: MakeSite, make_spec: MakeSpec, clock: Clock
) -> None:
    provider, world = make_site(elastic=True, zones=["z"], types=TYPES, stop_s=5)
    ref = provider.ensure_vm(make_spec("vm-1", "z/small")).ref
    provider.delete_vm("z/small", "vm-1", ref)
    assert observed(provider, "z/small", "vm-1", ref).state is VMState.TERMINATING
    clock.now += 5
    assert observed(provider, "z/small", "vm-1", ref).state is VMState.TERMINATED
    assert world.live_vms() == []
    clock.now += 3601
    assert provider.list_vms().vms == []


def test_watch_tells_what_changed_until_closed(
    make_site: MakeSite, make_spec: MakeSpec, prepared: Callable[..., None]
) -> None:
    provider, world = make_site(hosts=1)
    prepared(provider, "sim-01")
    told: list[tuple[str, str]] = []
    heard = threading.Event()

    def notify(vm_id: str, host: str) -> None:
        told.append((vm_id, host))
        heard.set()

    thread = threading.Thread(target=provider.watch, args=(notify,))
    thread.start()
    try:
        for number in range(50):  # the watcher hears of what happens after it began to listen
            provider.ensure_vm(make_spec("vm-1"))
            if heard.wait(0.1):
                break
            provider.delete_vm("sim-01", "vm-1")
            assert number < 49, "the watcher heard nothing"
        assert told[0] == ("vm-1", "sim-01")
        told.clear()
        heard.clear()
        world.power_off_vm("vm-1")
        assert heard.wait(5)
        assert set(told) == {("vm-1", "sim-01")}
    finally:
        provider.close()
        thread.join(5)
    assert not thread.is_alive()


def test_thousands_of_hosts_are_quick(
    make_site: MakeSite, make_spec: MakeSpec, prepared: Callable[..., None]
) -> None:
    provider, _ = make_site(hosts=3000)
    names = [report.name for report in provider.inventory()]
    assert (len(names), names[0], names[-1]) == (3000, "sim-0001", "sim-3000")
    prepared(provider, *names[:1000])
    for number, name in enumerate(names[:1000]):
        provider.ensure_vm(make_spec(f"vm-{number}", name, nics=()))
    assert len(provider.list_vms().vms) == 1000


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"host": 3}, "unknown option 'host'"),
        ({"hosts": [{"attributes": {}}]}, "each host needs a `name`"),
        ({"hosts": ["a", "a"]}, "named twice"),
        ({"elastic": True}, "at least one zone"),
        ({"boot_s": "5"}, "option boot_s must be a number"),
        ({"without": ["flight"]}, "option without: 'flight' is none of console, direct-kernel, events"),
        ({"fail": [{"method": "run"}]}, "no such method 'run'"),
        ({"fail": [{"method": "ensure_vm", "error": "Oops"}]}, "no such error 'Oops'"),
        ({"fail": [{"metod": "ensure_vm"}]}, "method is required"),
    ],
)
def test_bad_options_are_refused_in_words(
    make_site: MakeSite,
    options: dict[str, Any],
    told: str,
) -> None:
    with pytest.raises(InvalidSpec, match=told):
        make_site(**options)


def test_state_file_survives_a_killed_broker(
    make_site: MakeSite, make_spec: MakeSpec, prepared: Callable[..., None], tmp_path: Path
) -> None:
    """Another process is killed right after its call took effect; the next broker adopts."""
    state_file = tmp_path / "world.json"
    program = textwrap.dedent("""
        import os, signal, sys
        from providers.port import *
        from providers.simulated import SimulatedProvider
        options = {"hosts": 1, "state_file": sys.argv[1]}
        provider = SimulatedProvider(SiteContext("brk-1", "site-1", "sim", options=options))
        image = ImageSpec("img-1", "tiny")
        provider.ensure_image("sim-01", image)
        spec = VMSpec("vm-1", "uuid-1", "token-vm-1", "vm-1", "sim-01", 2, 1024, 1, image)
        provider.ensure_vm(spec)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    killed = subprocess.run([sys.executable, "-c", program, str(state_file)], check=False, timeout=60)
    assert killed.returncode == -9
    json.loads(state_file.read_text())
    provider, world = make_site(hosts=1, state_file=str(state_file))
    assert [vm.vm_id for vm in world.vms()] == ["vm-1"]
    assert provider.ensure_vm(make_spec(nics=())).ref == "uuid-1"
    outsider = World(state_file=str(state_file))
    outsider.destroy_vm("vm-1")
    assert provider.observe_vm("sim-01", "vm-1") is None


def test_failures_of_the_options_are_not_ordered_again_after_a_restart(
    make_site: MakeSite, tmp_path: Path
) -> None:
    options = {
        "hosts": 1,
        "state_file": str(tmp_path / "world.json"),
        "fail": [{"method": "check", "error": "AuthenticationFailed", "message": "no"}],
    }
    provider, _ = make_site(**options)
    with pytest.raises(Exception, match="no"):
        provider.check()
    SimulatedProvider.forget_worlds()
    restarted, _ = make_site(**options)
    restarted.check()
