"""A VM's whole life over the native API, through the SDK, on a simulated site."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

import isthmus

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me@example"


def test_a_vm_is_created_stopped_started_rebooted_and_deleted(furnished: Any) -> None:
    client = furnished.client("member")
    client.keypairs.create("me", KEY)
    vm = client.vms.create("web", "tiny", "small", networks=["lan"], key_pair="me", labels={"tier": "front"})
    assert vm.state == "pending"
    (asked,) = vm.nics
    assert (asked.network, asked.subnet, asked.address, asked.addresses) == ("lan", None, None, [])
    vm.wait_until("running", timeout=30, poll=0.2)
    (nic,) = vm.nics
    assert (nic.id, nic.mac) == (asked.id, asked.mac)
    assert nic.addresses == [nic.address] == [vm.address]
    assert (vm.site, vm.elastic, vm.key_pair) == ("campus", False, "me")
    assert vm.address is not None
    assert vm.address.startswith("10.0.1.")
    assert vm.why().placed
    vm.stop(force=True).wait(30, poll=0.2)
    assert vm.refresh().state == "stopped"
    vm.start().wait(30, poll=0.2)
    assert vm.refresh().state == "running"
    vm.reboot().wait(30, poll=0.2)
    assert isinstance(vm.console(), str)
    assert vm.update({"tier": "back"}).labels == {"tier": "back"}
    assert [found.name for found in client.vms.list(labels={"tier": "back"}, state="running")] == ["web"]
    assert list(client.vms.list(labels={"tier": "front"})) == []
    vm.delete().wait(30, poll=0.2)
    assert vm.refresh().state == "terminated"
    assert list(client.vms.list()) == []
    assert [gone.id for gone in client.vms.list(all=True)] == [vm.id]
    with pytest.raises(isthmus.NotFound):
        client.vms.get("web")


def test_a_list_says_of_a_vm_all_that_the_vm_itself_says(furnished: Any) -> None:
    client = furnished.client("member")
    client.keypairs.create("me", KEY)
    placed = client.vms.create(
        "web",
        "tiny",
        "small",
        networks=["lan"],
        key_pair="me",
        labels={"tier": "front", "a": ""},
        site="campus",
        requirements="cpu_free > 0",
        rank="cpu_free",
        priority=3,
        runtime_s=3600,
        preemptible=True,
        affinity=[isthmus.schema.AffinityRule(kind="spread", group="front")],
    )
    placed.wait_until("running", timeout=30, poll=0.2)
    waits = client.vms.create("big", "tiny", "small", requirements="cpu_free > 4000")
    listed = {found.id: found for found in client.vms.list()}
    for vm in (placed, waits):
        # What it waits for may change between the two.
        changing = {"status_reason"}
        assert listed[vm.id].model_dump(exclude=changing) == vm.refresh().model_dump(exclude=changing)
    assert listed[placed.id].nics[0].addresses == [placed.address]


def test_a_vm_that_fits_nowhere_says_why(furnished: Any) -> None:
    client = furnished.client()
    vm = client.vms.create("big", "tiny", "small", requirements="cpu_free > 4000")
    deadline = time.monotonic() + 20
    while not vm.refresh().status_reason and time.monotonic() < deadline:
        time.sleep(0.05)
    why = vm.why()
    assert vm.state == "pending"
    assert not why.placed
    (site,) = why.sites
    assert (site.site, site.hosts, site.feasible) == ("campus", 2, 0)
    assert any("4000" in term.text and term.refused == 2 for term in site.terms)
    with pytest.raises(isthmus.OperationTimeout):
        vm.wait_until("running", timeout=0.3, poll=0.1)
    vm.delete().wait(30, poll=0.2)


def test_waiting_for_an_operation_is_answered_the_moment_it_is_over(
    furnished: Any, only_signals: None, later: Any
) -> None:
    client = furnished.client()
    for host in client.hosts.list():
        host.maintenance()
    vm = client.vms.create("web", "tiny", "small")
    operation = client.operations.get(vm.operation or "")
    assert not operation.ended
    host = next(iter(client.hosts.list()))
    begun = time.monotonic()
    later(host.maintenance, False)
    over = furnished.ask("GET", f"/v1/operations/{operation.id}?wait=20").json()
    assert over["state"] == "done"
    assert time.monotonic() - begun < 10


def test_an_operation_that_is_cancelled_ends_the_wait(furnished: Any, later: Any) -> None:
    client = furnished.client()
    vm = client.vms.create("web", "tiny", "small", requirements="hypervisor == 'none'")
    later(furnished.ask, "DELETE", "/v1/vms/web")
    with pytest.raises(isthmus.OperationFailed, match="cancelled"):
        client.operations.get(vm.operation or "").wait(20)


def test_waiting_for_an_event_is_answered_the_moment_there_is_one(
    furnished: Any, only_signals: None, later: Any
) -> None:
    newest = furnished.ask("GET", "/v1/events?limit=1").json()["items"][-1]["seq"]
    body = {"name": "tall", "vcpus": 1, "mem_mb": 256, "disk_gb": 1}
    begun = time.monotonic()
    later(furnished.ask, "POST", "/v1/flavors", body)
    (event,) = furnished.ask("GET", f"/v1/events?after={newest}&wait=20").json()["items"]
    assert (event["kind"], event["target"]) == ("flavor.created", "tall")
    assert time.monotonic() - begun < 10


def test_a_long_poll_that_sees_nothing_ends_in_time(furnished: Any) -> None:
    newest = furnished.ask("GET", "/v1/events?limit=1").json()["items"][-1]["seq"]
    begun = time.monotonic()
    answer = furnished.ask("GET", f"/v1/events?after={newest}&wait=0.4")
    assert answer.json() == {"items": [], "next": None}
    assert 0.3 < time.monotonic() - begun < 5


def test_many_long_polls_leave_the_api_free_for_others(furnished: Any) -> None:
    newest = furnished.ask("GET", "/v1/events?limit=1").json()["items"][-1]["seq"]
    polls = [
        threading.Thread(target=furnished.ask, args=("GET", f"/v1/events?after={newest}&kind=none&wait=3"))
        for _ in range(60)
    ]
    for poll in polls:
        poll.start()
    begun = time.monotonic()
    assert furnished.ask("GET", "/v1/flavors").status_code == 200
    took = time.monotonic() - begun
    for poll in polls:
        poll.join()
    assert took < 2.5


def test_events_tell_the_story_of_a_vm_and_can_be_followed(furnished: Any) -> None:
    client = furnished.client()
    stream = client.events.follow(after=0, kind="vm.placed")
    vm = client.vms.create("web", "tiny", "small")
    vm.wait_until("running", timeout=30, poll=0.2)
    placed = next(stream)
    assert (placed.target, placed.kind) == (vm.id, "vm.placed")
    kinds = [event.kind for event in client.events.list(target=vm.id)]
    assert kinds[0] == "vm.requested"
    assert kinds.index("vm.requested") < kinds.index("vm.placed")
