"""VMs in the SDK: attributes, verbs, and waiting for a state."""

from __future__ import annotations

from typing import Any

import pytest

import isthmus
from isthmus import schema


@pytest.fixture
def vm(client: Any, broker: Any, make: Any) -> isthmus.VM:
    broker.on(
        "GET",
        "/v1/vms/web",
        make["vm"](nics=[schema.NIC(network="lan", subnet="s", address="10.0.0.5", mac="m")]),
    )
    found: isthmus.VM = client.vms.get("web")
    return found


def test_a_vm_has_the_attributes_of_the_schema(vm: isthmus.VM) -> None:
    assert (vm.name, vm.state, vm.address) == ("web", isthmus.VMState.PENDING, "10.0.0.5")
    assert isinstance(vm, schema.VM)


def test_refresh_changes_the_object_itself(vm: isthmus.VM, broker: Any, make: Any) -> None:
    broker.on("GET", "/v1/vms/vm-1", make["vm"](state="running"))
    assert vm.refresh() is vm
    assert vm.state == "running"


def test_waiting_for_a_state_follows_the_operation(
    client: Any, vm: isthmus.VM, broker: Any, make: Any
) -> None:
    broker.on("GET", "/v1/vms/vm-1", make["vm"](), make["vm"](), make["vm"](state="running", host="a"))
    broker.on(
        "GET",
        "/v1/operations/op-1",
        make["operation"](),
        make["operation"](phase="boot"),
        make["operation"](state="done"),
    )
    phases: list[str] = []
    assert vm.wait_until("running", on_update=lambda op: phases.append(op.phase)).host == "a"
    assert phases[:2] == ["launch", "boot"]


def test_a_vm_that_ends_in_error_is_not_waited_for(vm: isthmus.VM, broker: Any, make: Any) -> None:
    broker.on("GET", "/v1/vms/vm-1", make["vm"](state="error", status_reason="the image is damaged"))
    with pytest.raises(isthmus.OperationFailed, match="web is error: the image is damaged"):
        vm.wait_until("running")


def test_a_vm_can_be_waited_for_until_it_is_gone(vm: isthmus.VM, broker: Any, make: Any, time: Any) -> None:
    gone = make["vm"](state="terminated", operation=None)
    broker.on("GET", "/v1/vms/vm-1", make["vm"](state="shutting-down", operation=None), gone)
    assert vm.wait_until(isthmus.VMState.TERMINATED).state == "terminated"
    assert time.slept == [2.0]


def test_a_vm_whose_operation_ended_meanwhile_is_read_again_at_once(
    vm: isthmus.VM, broker: Any, make: Any, time: Any
) -> None:
    broker.on("GET", "/v1/vms/vm-1", make["vm"](), make["vm"](state="running", host="a"))
    broker.on("GET", "/v1/operations/op-1", make["operation"](state="done"))
    assert vm.wait_until("running").host == "a"
    assert time.slept == []


def test_a_vm_that_waits_for_a_host_runs_into_the_timeout(
    vm: isthmus.VM, broker: Any, make: Any, time: Any
) -> None:
    broker.on("GET", "/v1/vms/vm-1", make["vm"](status_reason="no host has 4 free cores"))
    broker.on("GET", "/v1/operations/op-1", make["operation"](phase="place"))
    with pytest.raises(isthmus.OperationTimeout, match="still pending: no host has 4 free cores") as caught:
        vm.wait_until("running", timeout=7)
    assert time.now == pytest.approx(7)
    assert "isthmus vm why web" in caught.value.hint


def test_an_unknown_state_is_a_mistake_of_the_caller(vm: isthmus.VM) -> None:
    with pytest.raises(ValueError, match="sleeping"):
        vm.wait_until("sleeping")


@pytest.mark.parametrize(
    ("verb", "method", "path", "body"),
    [
        (lambda vm: vm.start(), "POST", "/v1/vms/vm-1/start", None),
        (lambda vm: vm.stop(), "POST", "/v1/vms/vm-1/stop", {"force": False}),
        (lambda vm: vm.stop(force=True), "POST", "/v1/vms/vm-1/stop", {"force": True}),
        (lambda vm: vm.reboot(), "POST", "/v1/vms/vm-1/reboot", None),
        (lambda vm: vm.suspend(), "POST", "/v1/vms/vm-1/suspend", None),
        (lambda vm: vm.resume(), "POST", "/v1/vms/vm-1/resume", None),
        (lambda vm: vm.migrate("b"), "POST", "/v1/vms/vm-1/migrate", {"host": "b"}),
        (lambda vm: vm.delete(), "DELETE", "/v1/vms/vm-1", None),
    ],
)
def test_each_verb_returns_an_operation_one_can_wait_on(
    vm: isthmus.VM, broker: Any, make: Any, verb: Any, method: str, path: str, body: Any
) -> None:
    broker.on(method, path, schema.VMOperation(vm=make["vm"](), operation=make["operation"]()))
    broker.on("GET", "/v1/operations/op-1", make["operation"](state="done"))
    operation = verb(vm)
    assert broker.asked[-1].body == body
    assert operation.wait().state == "done"


@pytest.mark.parametrize("on_the_vm", [True, False], ids=["vm", "vms"])
@pytest.mark.parametrize(
    ("verb", "given", "method", "path", "body"),
    [
        ("start", {}, "POST", "/v1/vms/vm-1/start", None),
        ("stop", {"force": True}, "POST", "/v1/vms/vm-1/stop", {"force": True}),
        ("reboot", {}, "POST", "/v1/vms/vm-1/reboot", None),
        ("suspend", {}, "POST", "/v1/vms/vm-1/suspend", None),
        ("resume", {}, "POST", "/v1/vms/vm-1/resume", None),
        ("migrate", {"host": "b"}, "POST", "/v1/vms/vm-1/migrate", {"host": "b"}),
        ("delete", {}, "DELETE", "/v1/vms/vm-1", None),
    ],
)
def test_each_verb_may_be_tried_and_answers_what_would_be(
    vm: isthmus.VM,
    client: isthmus.Client,
    broker: Any,
    make: Any,
    on_the_vm: bool,
    verb: str,
    given: Any,
    method: str,
    path: str,
    body: Any,
) -> None:
    broker.on(method, path, schema.DryRun(action=f"vm.{verb}", vm=make["vm"](), message="it would"))
    call = getattr(vm if on_the_vm else client.vms, verb)
    told = call(*(() if on_the_vm else ("vm-1",)), **given, dry_run=True)
    assert (type(told), told.action, told.message) == (isthmus.DryRun, f"vm.{verb}", "it would")
    asked = broker.asked[-1]
    assert (asked.method, asked.path, asked.query, asked.body) == (method, path, [("dry_run", "1")], body)


def test_creation_may_be_tried_and_answers_where_it_would_be(client: Any, broker: Any, make: Any) -> None:
    there = schema.Placement(site="campus", host="a", rank=2.5)
    vm = make["vm"](id="", operation=None)
    told = schema.DryRun(action="vm.create", vm=vm, placement=there, message="web would be placed on a")
    broker.on("POST", "/v1/vms", told)
    assert client.vms.create("web", "tiny", "small", idempotency_key="k", dry_run=True) == told
    (asked,) = broker.asked
    assert asked.query == [("dry_run", "1")]
    assert asked.body == {"name": "web", "image": "tiny", "flavor": "small"}
    assert asked.headers["idempotency-key"] == "k"
    with pytest.raises(isthmus.InvalidRequest):
        client.vms.get(told.vm.id)  # there is none yet


def test_what_is_not_tried_is_asked_for_as_before(vm: isthmus.VM, broker: Any, make: Any) -> None:
    broker.on("POST", "/v1/vms/vm-1/stop", schema.VMOperation(vm=make["vm"](), operation=make["operation"]()))
    vm.stop(dry_run=False)
    assert broker.asked[-1].query == []


def test_why_console_and_labels(vm: isthmus.VM, broker: Any, make: Any) -> None:
    broker.on("GET", "/v1/vms/vm-1/why", schema.Why(vm="web", placed=False, summary="no host"))
    broker.on("GET", "/v1/vms/vm-1/console", schema.Console(text="login:"))
    broker.on("PATCH", "/v1/vms/vm-1", make["vm"](labels={"a": "b"}))
    assert vm.why().summary == "no host"
    assert vm.console() == "login:"
    assert vm.update(labels={"a": "b"}).labels == {"a": "b"}


def test_a_list_is_filtered_by_the_broker(client: Any, broker: Any, make: Any) -> None:
    broker.on("GET", "/v1/vms", [make["vm"]()])
    found = list(client.vms.list(state="pending", labels={"a": "1", "b": "2"}, all=True))
    assert [vm.name for vm in found] == ["web"]
    assert broker.asked[0].query == [
        ("limit", "1000"),
        ("state", "pending"),
        ("label", "a=1"),
        ("label", "b=2"),
        ("all", "1"),
    ]
