"""VMs as people ask for them: names, states, idempotency tokens, other projects."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy.orm import Session

from broker import launch, operation, power, project, request, vm
from broker.actor import SYSTEM, Actor
from broker.errors import (
    Exists,
    InvalidExpression,
    InvalidRequest,
    NotFound,
    QuotaExceeded,
    TokenMismatch,
    Unavailable,
    WrongState,
)

if TYPE_CHECKING:
    from tests.broker.conftest import Stage


def test_vm_runs_at_its_leased_address(stage: Stage) -> None:
    row = stage.create("web")
    assert (row.state, row.status_reason) == ("running", "")
    assert [nic.address for nic in row.nics] == ["10.20.1.2"]
    assert [machine.address for machine in stage.machines(row.id)] == ["10.20.1.2"]


def test_burst_vm_runs_and_is_enrolled(hybrid: Stage) -> None:
    row = hybrid.burst("web")
    assert row.state == "running"
    assert hybrid.there(row.site).name == "cloud"
    assert row.enrolled_at is not None
    assert hybrid.holdings(row.id) == {"machines": 1, "leases": 1, "peers": 1, "claims": 1}


def test_vm_without_a_name_is_named_by_its_id(stage: Stage) -> None:
    row, _ = launch.create(stage.broker, stage.member, name=None, flavor_ref="small", image_ref="tiny")
    assert row.name == row.id


def test_name_is_taken_while_its_vm_lives(stage: Stage) -> None:
    first = stage.create("web")
    with pytest.raises(Exists) as caught:
        stage.request("web")
    assert caught.value.code == "vm_exists"
    stage.finish(vm.delete(stage.broker, stage.member, first.id)[1])
    assert stage.create("web").id != first.id


def test_other_project_may_use_the_same_name(stage: Stage) -> None:
    mine, _ = stage.request("web")
    theirs, _ = stage.request("web", actor=stage.outsider)
    assert vm.get(stage.broker, stage.member, "web").id == mine.id
    assert vm.get(stage.broker, stage.outsider, "web").id == theirs.id


def test_several_vms_are_made_all_or_none(stage: Stage) -> None:
    made = launch.create_many(
        stage.broker, stage.member, count=3, name="web", image_ref="tiny", flavor_ref="small"
    )
    assert [row.name for row, _ in made] == ["web-1", "web-2", "web-3"]
    assert len({row.reservation for row, _ in made}) == 1
    with pytest.raises(Exists):
        launch.create_many(
            stage.broker, stage.member, count=4, name="web", image_ref="tiny", flavor_ref="small"
        )
    assert len(vm.list_vms(stage.broker, stage.member)) == 3


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"image_ref": "nope"}, NotFound),
        ({"flavor_ref": "nope"}, NotFound),
        ({"networks": ["nope"]}, NotFound),
        ({"networks": ["net", "net"]}, InvalidRequest),
        ({"key_pair": "nope"}, NotFound),
        ({"address": "not an address"}, InvalidRequest),
        ({"address": "192.0.2.1"}, InvalidRequest),
        ({"address": "10.20.1.9", "count": 2}, InvalidRequest),
        ({"requirements": "cpu_free >"}, InvalidExpression),
        ({"rank": "1 +"}, InvalidExpression),
        ({"user_data": "x" * 16385}, InvalidRequest),
        ({"count": 0}, InvalidRequest),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value.__name__,
)
def test_request_with_a_mistake_is_refused_with_a_mend_and_leaves_nothing(
    stage: Stage,
    asked: dict[str, Any],
    error: type[InvalidExpression | InvalidRequest | NotFound],
) -> None:
    request: dict[str, Any] = {"count": 1, "name": "web", "image_ref": "tiny", "flavor_ref": "small", **asked}
    with pytest.raises(error) as caught:
        launch.create_many(stage.broker, stage.member, **request)
    assert caught.value.hint or caught.value.details["column"]
    assert vm.list_vms(stage.broker, stage.member) == []
    assert operation.list_operations(stage.broker, stage.member) == []


def test_mistake_in_an_expression_has_its_place(stage: Stage) -> None:
    with pytest.raises(InvalidExpression) as caught:
        stage.request("web", requirements="cpu_free >\n  && 1")
    details = caught.value.details
    assert (details["field"], details["line"], details["column"]) == ("requirements", 2, 3)
    assert details["text"] == "cpu_free >\n  && 1"


def test_quota_counts_vms_cores_and_memory(stage: Stage) -> None:
    small = project.create(
        stage.broker, SYSTEM, name="small", quota={"vms": 2, "vcpus": 9, "mem_mb": 100_000}
    )
    actor = Actor(small.id, "member", "sam")
    first, _ = stage.request("one", actor=actor, flavor_ref="large")
    with pytest.raises(QuotaExceeded, match="vCPUs"):
        stage.request("two", actor=actor)
    _, deletion = vm.delete(stage.broker, actor, first.id)
    stage.finish(deletion)
    stage.request("one", actor=actor)
    stage.request("two", actor=actor)
    with pytest.raises(QuotaExceeded, match="VMs"):
        stage.request("three", actor=actor)


# Idempotency tokens


def test_same_token_with_the_same_request_answers_with_the_same_vm(stage: Stage) -> None:
    first, task = stage.request("web", token="abc")
    stage.finish(task)
    stage.finish(power.stop(stage.broker, stage.member, first.id)[1])
    again, same = stage.request("web", token="abc")
    assert (again.id, same.id) == (first.id, task.id)
    assert len(vm.list_vms(stage.broker, stage.member)) == 1


def test_same_token_with_another_request_is_refused(stage: Stage) -> None:
    stage.request("web", token="abc")
    with pytest.raises(TokenMismatch) as caught:
        stage.request("db", token="abc")
    assert caught.value.code == "idempotency_mismatch"


def test_token_is_of_its_project_only(stage: Stage) -> None:
    mine, _ = stage.request("web", token="abc")
    theirs, _ = stage.request("web", actor=stage.outsider, token="abc")
    assert mine.id != theirs.id


def test_token_of_a_request_that_was_refused_is_free_again(stage: Stage) -> None:
    with pytest.raises(NotFound):
        stage.request("web", flavor_ref="nope", token="abc")
    stage.request("web", token="abc")


def test_callers_at_once_with_the_same_token_make_one_vm(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    brokers = [stage.broker, stage.another(), stage.another()]
    barrier = threading.Barrier(len(brokers))
    plain = request.replay

    def replay(session: Session, project_id: str, token: str | None, digest: str) -> list[str] | None:
        known = plain(session, project_id, token, digest)
        with contextlib.suppress(threading.BrokenBarrierError):
            barrier.wait(0.5)
        return known

    monkeypatch.setattr(request, "replay", replay)
    with ThreadPoolExecutor(len(brokers)) as pool:
        asked = [
            pool.submit(
                launch.create,
                broker,
                stage.member,
                name="web",
                image_ref="tiny",
                flavor_ref="small",
                token="abc",
            )
            for broker in brokers
        ]
        made = [future.result(60) for future in asked]
    assert len({row.id for row, _ in made}) == 1
    assert len({task.id for _, task in made}) == 1
    assert len(vm.list_vms(stage.broker, stage.member)) == 1


# Other projects


def test_vm_of_another_project_is_not_there(stage: Stage) -> None:
    row = stage.create("web")
    broker, outsider = stage.broker, stage.outsider
    for ask in (vm.get, power.start, power.stop, power.reboot, vm.delete, vm.console):
        for ref in (row.id, "web"):
            with pytest.raises(NotFound):
                ask(broker, outsider, ref)
    assert vm.list_vms(broker, outsider) == []
    assert vm.list_vms(broker, outsider, ids=[row.id], all_projects=True) == []
    assert stage.vm(row.id).state == "running"


def test_admin_sees_the_vms_of_all_projects(stage: Stage) -> None:
    row, _ = stage.request("theirs", actor=stage.outsider)
    assert vm.get(stage.broker, stage.admin, row.id).id == row.id
    assert vm.list_vms(stage.broker, stage.admin) == []
    assert [found.id for found in vm.list_vms(stage.broker, stage.admin, all_projects=True)] == [row.id]


# States


@pytest.mark.parametrize("change", [power.start, power.stop, power.reboot])
def test_change_that_the_state_forbids_says_what_would_do(
    stage: Stage, change: Callable[..., object]
) -> None:
    row, _ = stage.request("web")
    with pytest.raises(WrongState) as caught:
        change(stage.broker, stage.member, row.id)
    assert "vm.create is under way" in str(caught.value)
    assert "isthmus operation wait" in caught.value.hint


def test_same_change_asked_twice_is_one_operation(stage: Stage) -> None:
    row = stage.create("web")
    _, first = power.stop(stage.broker, stage.member, row.id)
    _, second = power.stop(stage.broker, stage.member, row.id)
    assert first.id == second.id
    stage.finish(first)
    _, first = vm.delete(stage.broker, stage.member, row.id)
    _, second = vm.delete(stage.broker, stage.member, row.id)
    assert first.id == second.id
    stage.finish(first)
    assert vm.delete(stage.broker, stage.member, row.id)[1].id == first.id


def test_stopped_vm_keeps_its_room_and_its_address(stage: Stage) -> None:
    row = stage.create("web")
    stage.finish(power.stop(stage.broker, stage.member, row.id)[1])
    assert stage.holdings(row.id) == {"machines": 1, "leases": 1, "peers": 0, "claims": 1}
    stage.finish(power.start(stage.broker, stage.member, row.id)[1])
    assert [nic.address for nic in stage.vm(row.id).nics] == [row.nics[0].address]


def test_vm_in_error_can_be_deleted(stage: Stage) -> None:
    stage.worlds["campus"].fail("ensure_vm", "InvalidSpec", "no such machine type")
    row, task = stage.request("web")
    stage.drive(task)
    assert stage.vm(row.id).state == "error"
    stage.finish(vm.delete(stage.broker, stage.member, row.id)[1])
    assert stage.vm(row.id).state == "terminated"


def test_console_of_a_running_vm(stage: Stage) -> None:
    row, task = stage.request("web")
    with pytest.raises(WrongState):
        vm.console(stage.broker, stage.member, row.id)
    stage.finish(task)
    assert "isthmus-guest ready" in vm.console(stage.broker, stage.member, row.id)
    stage.worlds["campus"].set_unreachable()
    with pytest.raises(Unavailable):
        vm.console(stage.broker, stage.member, row.id)


def test_pages_of_vms_are_in_order_and_whole(stage: Stage) -> None:
    made = [stage.request(f"web-{number}", labels={"odd": str(number % 2)})[0].id for number in range(7)]
    seen, after = [], None
    while page := vm.list_vms(stage.broker, stage.member, after=after, limit=3):
        seen += [row.id for row in page]
        after = seen[-1]
    assert seen == made
    odd = vm.list_vms(stage.broker, stage.member, labels={"odd": "1"}, limit=2)
    assert [row.id for row in odd] == [made[1], made[3]]
    assert [row.name for row in vm.list_vms(stage.broker, stage.member, name="web-4")] == ["web-4"]
    assert vm.list_vms(stage.broker, stage.member, state="running") == []
    assert len(vm.list_vms(stage.broker, stage.member, state="pending")) == 7
    assert vm.list_vms(stage.broker, stage.member, site_ref="campus") == []


def test_events_of_a_transaction_are_told_after_it(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Savepoints in between tell nothing: who is woken then finds nothing to read."""
    from broker import event

    told = []
    signals = stage.broker.signals
    plain = signals.set

    def look(name: str) -> None:
        if name == "events":
            told.append(len(event.list_events(stage.broker, stage.admin, limit=10_000)))
        plain(name)

    monkeypatch.setattr(signals, "set", look)
    with stage.broker.store.transaction() as session:
        event.record(stage.broker, session, "test.one", "x", "one")
        with session.begin_nested():
            event.record(stage.broker, session, "test.two", "x", "two")
        event.record(stage.broker, session, "test.three", "x", "three")
    assert told == [len(event.list_events(stage.broker, stage.admin, limit=10_000))]


def test_events_are_paged_and_of_the_callers_project(stage: Stage) -> None:
    from broker import event

    row = stage.create("web")
    mine = event.list_events(stage.broker, stage.member, target=row.id)
    assert [item.kind for item in mine] == ["vm.requested", "vm.placed", "vm.running", "vm.create.done"]
    assert event.list_events(stage.broker, stage.outsider) == []
    rest = event.list_events(stage.broker, stage.member, after=mine[1].seq, target=row.id)
    assert [item.seq for item in rest] == [mine[2].seq, mine[3].seq]


def test_vm_is_placed_at_the_site_that_it_is_wanted_at_alone(stage: Stage) -> None:
    stage.add_local(name="annex", part=2)
    row = stage.create("web", wishes=launch.Wishes(site="annex"))
    assert stage.there(row.site).name == "annex"
    with pytest.raises(NotFound):
        stage.request("lost", wishes=launch.Wishes(site="nowhere"))


def test_vm_whose_site_is_full_waits_and_says_for_which(stage: Stage) -> None:
    from broker import queue

    stage.add_local(hosts=1, name="annex", part=2, cpus=2)
    stage.create("first", wishes=launch.Wishes(site="annex"))
    row, _ = stage.request("second", wishes=launch.Wishes(site="annex"))
    queue.place_pending(stage.broker)
    assert "it is to be at site annex" in stage.vm(row.id).status_reason


def test_site_that_a_vm_is_wanted_at_is_not_removed(stage: Stage) -> None:
    from broker import site
    from broker.errors import InUse

    stage.add_site("annex", hosts=1)
    stage.request("web", wishes=launch.Wishes(site="annex"))
    with pytest.raises(InUse):
        site.delete(stage.broker, stage.admin, "annex")
