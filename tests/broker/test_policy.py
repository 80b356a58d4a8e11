"""The policy in force: its versions, the file that is watched, when it opens and closes, and who then goes home."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker import burst, load, operation, policy, queue, vm, why
from broker.errors import Forbidden, InvalidPolicy, NotFound
from broker.policy import PolicyView
from broker.store import VMRow

if TYPE_CHECKING:
    from tests.broker.conftest import Stage

QUEUE = """\
version: 1
burst:
  to: [cloud]
  open: {any: ['queue.wait_p95 > 60']}
  close: {all: ['local.cpu_used < 0.60'], for: 15m}
  dwell: 20m
  return: RETURN
"""
DRAIN = QUEUE.replace("RETURN", "drain")
RECREATE = QUEUE.replace("RETURN", "recreate")
NEVER = QUEUE.replace("RETURN", "never")


@pytest.fixture
def stage(bare_stage: Stage) -> Stage:
    """One local host of 16 cores and a cloud without a policy."""
    bare_stage.catalogue()
    bare_stage.add_local(hosts=1)
    bare_stage.add_cloud(policy_text=None)
    return bare_stage


def apply(stage: Stage, text: str) -> PolicyView:
    return policy.apply(stage.broker, stage.admin, text)


def tick(stage: Stage, seconds: float = 0.0) -> None:
    """Time passes, with the agent awake and the policy evaluated as often as a broker does."""
    while True:
        for agent in stage.agents:
            agent.turn()
        burst.tick(stage.broker)
        if seconds <= 0:
            return
        stage.wait(min(60.0, seconds))
        seconds -= 60.0


def fill(stage: Stage) -> list[VMRow]:
    return [
        stage.create(f"local-{number}", flavor_ref="large", requirements="!elastic") for number in range(2)
    ]


def burst_word(stage: Stage) -> str:
    return policy.show(stage.broker, stage.reader).burst


def full_and_bursting(stage: Stage, text: str) -> tuple[list[VMRow], VMRow]:
    """The pool is full, the policy opened, and one VM is in the cloud."""
    apply(stage, text)
    local = fill(stage)
    row, task = stage.request("web")
    stage.drive(task, most_s=30)
    assert stage.vm(row.id).host is None
    assert "closed" in stage.vm(row.id).status_reason
    tick(stage, 61)
    assert burst_word(stage) == "open"
    stage.finish(task)
    assert stage.there(stage.vm(row.id).site).name == "cloud"
    return local, row


def empty(stage: Stage, local: list[VMRow]) -> None:
    for row in local:
        stage.finish(vm.delete(stage.broker, stage.member, row.id)[1])


# Versions


def test_versions_are_kept_and_the_newest_is_in_force(stage: Stage) -> None:
    apply(stage, DRAIN)
    apply(stage, NEVER)
    assert policy.show(stage.broker, stage.reader).row.text == NEVER
    assert [(row.version, row.text) for row in policy.versions(stage.broker, stage.reader)] == [
        (2, NEVER),
        (1, DRAIN),
    ]
    assert [row.applied_by for row in policy.versions(stage.broker, stage.reader)] == ["ada", "ada"]


def test_same_policy_applied_again_is_no_new_version(stage: Stage) -> None:
    apply(stage, DRAIN)
    apply(stage, DRAIN)
    assert len(policy.versions(stage.broker, stage.reader)) == 1


def test_bad_policy_never_replaces_a_good_one(stage: Stage) -> None:
    apply(stage, DRAIN)
    with pytest.raises(InvalidPolicy) as caught:
        apply(stage, DRAIN.replace("dwell: 20m", "dwell: often"))
    (problem,) = caught.value.details["problems"]
    assert (problem["file"], problem["line"]) == ("policy.yaml", 6)
    assert problem["mend"]
    assert policy.show(stage.broker, stage.reader).row.text == DRAIN


def test_site_that_does_not_exist_is_a_mistake_at_its_place(stage: Stage) -> None:
    text = DRAIN.replace("[cloud]", "[clowd]")
    (problem,) = policy.check(stage.broker, stage.member, text)
    assert (problem.line, problem.column) == (3, 8)
    assert "clowd" in problem.message
    with pytest.raises(InvalidPolicy):
        apply(stage, text)
    assert policy.check(stage.broker, stage.member, DRAIN) == []


def test_only_an_admin_applies_a_policy(stage: Stage) -> None:
    with pytest.raises(Forbidden):
        policy.apply(stage.broker, stage.member, DRAIN)
    with pytest.raises(NotFound):
        policy.show(stage.broker, stage.reader)


# The watched file


def watch(stage: Stage, text: str | None = None) -> Path:
    path = stage.folder / "policy.yaml"
    if text is not None:
        path.write_text(text)
    stage.settings.policy_file = str(path)
    return path


def test_watched_file_is_applied_when_it_changes(stage: Stage) -> None:
    path = watch(stage, DRAIN)
    tick(stage)
    path.write_text(NEVER)
    tick(stage)
    tick(stage)
    assert [row.text for row in policy.versions(stage.broker, stage.reader)] == [NEVER, DRAIN]
    assert policy.show(stage.broker, stage.reader).row.applied_by == "system"


def test_watched_file_with_a_mistake_is_told_once_and_the_good_policy_stays(stage: Stage) -> None:
    path = watch(stage, DRAIN)
    tick(stage)
    path.write_text("version: 7\n")
    tick(stage)
    tick(stage)
    assert policy.show(stage.broker, stage.reader).row.text == DRAIN
    assert stage.events(kind="policy.rejected") == ["policy.rejected"]
    path.write_text(NEVER)
    tick(stage)
    assert policy.show(stage.broker, stage.reader).row.text == NEVER


def test_watched_file_that_is_missing_is_told_once(stage: Stage) -> None:
    path = watch(stage)
    tick(stage)
    tick(stage)
    assert stage.events(kind="policy.rejected") == ["policy.rejected"]
    path.write_text(DRAIN)
    tick(stage)
    assert policy.show(stage.broker, stage.reader).row.text == DRAIN


def test_watched_file_is_applied_once_the_site_it_names_is_there(bare_stage: Stage) -> None:
    bare_stage.catalogue()
    bare_stage.add_local(hosts=1)
    watch(bare_stage, DRAIN)
    tick(bare_stage)
    tick(bare_stage)
    assert bare_stage.events(kind="policy.rejected") == ["policy.rejected"]
    bare_stage.add_cloud(policy_text=None)
    tick(bare_stage)
    assert policy.show(bare_stage.broker, bare_stage.reader).row.text == DRAIN


def test_watched_file_is_not_applied_again_after_a_restart(stage: Stage) -> None:
    watch(stage, DRAIN)
    tick(stage)
    burst.tick(stage.another())
    assert len(policy.versions(stage.broker, stage.reader)) == 1


# Open and closed


def test_without_a_policy_nothing_bursts(stage: Stage) -> None:
    row, task = stage.request("web", requirements="elastic")
    stage.drive(task, most_s=30)
    assert "no policy is in force" in stage.vm(row.id).status_reason
    assert policy.burst_word(stage.broker) == "off"


def test_vm_waits_until_the_policy_opens_and_then_bursts(stage: Stage) -> None:
    _, row = full_and_bursting(stage, DRAIN)
    assert stage.events(kind="policy.opened") == ["policy.opened"]
    view = why.why(stage.broker, stage.member, row.id)
    assert view.host is not None
    assert view.host.startswith("cloud/")
    assert any("local.cpu_used" in line for line in view.policy)


def test_why_says_what_an_open_policy_closes_on(stage: Stage) -> None:
    apply(stage, NEVER.replace("> 60", ">= 0"))
    row = stage.create("web")
    assert why.why(stage.broker, stage.member, row.id).policy == [
        "open: queue.wait_p95 >= 0 (now 0)",
        "closes on local.cpu_used < 0.60 (now 0.125)",
    ]


def test_policy_stays_open_until_its_close_held_long_enough(stage: Stage) -> None:
    local, _ = full_and_bursting(stage, NEVER)
    empty(stage, local)
    tick(stage, 14 * 60)
    assert burst_word(stage) == "open"
    tick(stage, 2 * 60)
    assert burst_word(stage) == "closed"
    assert stage.events(kind="policy.closed") == ["policy.closed"]


def test_close_that_is_interrupted_begins_anew(stage: Stage) -> None:
    local, _ = full_and_bursting(stage, NEVER)
    empty(stage, local)
    tick(stage, 10 * 60)
    again = [
        stage.create(f"again-{number}", flavor_ref="large", requirements="!elastic") for number in range(2)
    ]
    tick(stage, 60)
    empty(stage, again)
    tick(stage, 10 * 60)
    assert burst_word(stage) == "open"
    tick(stage, 6 * 60)
    assert burst_word(stage) == "closed"


def test_state_of_the_burst_survives_a_restart(stage: Stage) -> None:
    full_and_bursting(stage, DRAIN)
    assert policy.burst_word(stage.another()) == "open"


def test_never_rule_keeps_a_vm_at_home_while_the_policy_is_open(stage: Stage, policy_open: str) -> None:
    apply(stage, policy_open + '  never: \'vm.labels["data"] == "restricted"\'\n')
    row, task = stage.request("secret", requirements="elastic", labels={"data": "restricted"})
    stage.drive(task, most_s=60)
    assert stage.vm(row.id).host is None
    assert "burst.never" in stage.vm(row.id).status_reason
    assert stage.burst("free", labels={"data": "public"}).elastic


def test_limits_keep_the_next_vm_at_home(stage: Stage, policy_open: str) -> None:
    apply(stage, policy_open + "  limits: {vms: 1}\n")
    first = stage.burst("first")
    row, task = stage.request("second", requirements="elastic")
    stage.drive(task, most_s=60)
    assert "burst.limits.vms" in stage.vm(row.id).status_reason
    stage.finish(vm.delete(stage.broker, stage.member, first.id)[1])
    stage.finish(task)


# Going home


def test_burst_vm_leaves_when_its_dwell_is_over(stage: Stage) -> None:
    local, row = full_and_bursting(stage, DRAIN)
    empty(stage, local)
    tick(stage, 17 * 60)
    assert burst_word(stage) == "closed"
    assert stage.task_of(row).kind == "vm.create"
    tick(stage, 4 * 60)
    assert stage.task_of(row).kind == "vm.delete"
    stage.finish_all()
    assert stage.vm(row.id).state == "terminated"
    assert "drained" in stage.vm(row.id).status_reason
    assert stage.nothing_left(row.id)


def test_burst_vm_is_made_anew_at_home(stage: Stage) -> None:
    local, row = full_and_bursting(stage, RECREATE)
    empty(stage, local)
    tick(stage, 22 * 60)
    assert stage.task_of(row).kind == "vm.return"
    stage.finish_all()
    (there,), row = row.nics, stage.vm(row.id)
    (here,) = row.nics
    assert (here.id, here.mac) == (there.id, there.mac), "a VM keeps its NIC wherever it runs"
    assert stage.there(here.subnet).site.name == "campus"
    assert (row.state, stage.there(row.site).name, row.elastic) == ("running", "campus", False)
    assert stage.holdings(row.id) == {"machines": 1, "leases": 1, "peers": 0, "claims": 1}


def test_burst_vm_stays_in_the_cloud_while_there_is_no_room_at_home(stage: Stage) -> None:
    local, row = full_and_bursting(stage, RECREATE.replace("local.cpu_used < 0.60", "queue.length < 1"))
    assert local
    tick(stage, 40 * 60)
    assert burst_word(stage) == "closed"
    assert stage.task_of(row).kind == "vm.create"
    assert stage.there(stage.vm(row.id).site).name == "cloud"


def test_burst_vm_that_never_returns_stays(stage: Stage) -> None:
    local, row = full_and_bursting(stage, NEVER)
    empty(stage, local)
    tick(stage, 120 * 60)
    assert stage.task_of(row).kind == "vm.create"
    assert operation.list_operations(stage.broker, stage.admin, state="running") == []


def test_vm_that_no_host_could_take_does_not_count_until_one_could(stage: Stage) -> None:
    row, _ = stage.request("odd", requirements='rack == "r9"')
    queue.place_pending(stage.broker)
    assert stage.vm(row.id).unplaceable
    with stage.broker.store.reading() as session:
        assert load.metrics(stage.broker, session)["queue.length"] == 0
    stage.request("full", requirements="running_vms > 1000")
    queue.place_pending(stage.broker)
    with stage.broker.store.reading() as session:
        assert load.metrics(stage.broker, session)["queue.length"] == 1, "it may have room some day"
    stage.add_site("annex", hosts=1, attributes={"rack": "r9", "cpu_total": 1.0})
    stage.broker.signals.set("place")
    queue.place_pending(stage.broker)
    assert stage.vm(row.id).unplaceable, "two vCPUs on one core"
