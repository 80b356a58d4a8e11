"""What a policy would do, asked before it is in force."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker import policy, rehearsal
from broker.errors import Forbidden, InvalidPolicy
from broker.states import BurstWord, VMState

if TYPE_CHECKING:
    from tests.broker.conftest import Stage

TIGHT = """\
version: 1
burst:
  to: [cloud]
  open: {any: ['queue.length >= 0']}
  close: {all: ['queue.length < 0']}
budget: {hourly: 0}
"""


def steps(stage: Stage, text: str) -> dict[str, tuple[str, str | None, str]]:
    return {
        step.vm: (step.action, step.host, step.reason)
        for step in rehearsal.rehearse(stage.broker, stage.admin, text).steps
    }


def test_policy_is_tried_on_the_queue_and_nothing_changes(hybrid: Stage) -> None:
    before = policy.show(hybrid.broker, hybrid.reader).row.version
    row, _task = hybrid.request("web", requirements="elastic")
    action, host, _ = steps(hybrid, policy.show(hybrid.broker, hybrid.reader).row.text)["web"]
    assert action == "place"
    assert hybrid.there(host).startswith("cloud/")
    action, host, reason = steps(hybrid, TIGHT)["web"]
    assert (action, host) == ("wait", None)
    assert reason
    assert hybrid.vm(row.id).host is None
    assert policy.show(hybrid.broker, hybrid.reader).row.version == before


def test_those_that_would_leave_are_named(hybrid: Stage) -> None:
    row = hybrid.burst("web")
    action, host, reason = steps(hybrid, TIGHT)["web"]
    assert (action, host) == ("leave", hybrid.there(hybrid.vm(row.id).host).name)
    assert "budget.hourly.hard" in reason
    assert hybrid.vm(row.id).state == VMState.RUNNING


def test_policy_without_a_burst_part_is_off(stage: Stage) -> None:
    assert rehearsal.rehearse(stage.broker, stage.admin, "version: 1\n").burst == BurstWord.OFF


def test_bad_policy_and_strangers_are_refused(hybrid: Stage) -> None:
    with pytest.raises(InvalidPolicy):
        rehearsal.rehearse(hybrid.broker, hybrid.admin, "version: 2\n")
    with pytest.raises(InvalidPolicy, match="there is no site"):
        rehearsal.rehearse(hybrid.broker, hybrid.admin, TIGHT.replace("[cloud]", "[mars]"))
    with pytest.raises(Forbidden):
        rehearsal.rehearse(hybrid.broker, hybrid.member, TIGHT)
