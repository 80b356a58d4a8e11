"""Projects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from broker import project, token, vm
from broker.errors import Exists, InUse, NotFound
from broker.store import ProjectRow

if TYPE_CHECKING:
    from tests.broker.conftest import Stage


def create(stage: Stage, **asked: Any) -> ProjectRow:
    return project.create(stage.broker, stage.admin, **{"name": "new", **asked})


def test_project_has_an_account_of_twelve_digits(bare_stage: Stage) -> None:
    row = create(bare_stage)
    assert row.account == project.account_of(row.id)
    assert len(row.account) == 12
    assert row.account.isdigit()


def test_name_of_a_project_is_taken_once(bare_stage: Stage) -> None:
    create(bare_stage)
    with pytest.raises(Exists):
        create(bare_stage)


def test_project_without_a_history_goes_with_its_tokens(bare_stage: Stage) -> None:
    create(bare_stage)
    token.create(bare_stage.broker, bare_stage.admin, name="ci", project_ref="new")
    project.delete(bare_stage.broker, bare_stage.admin, "new")
    assert token.list_tokens(bare_stage.broker, bare_stage.admin) == []
    with pytest.raises(NotFound):
        project.get(bare_stage.broker, bare_stage.admin, "new")


def test_project_with_a_history_stays(stage: Stage) -> None:
    row, _ = stage.request("web", actor=stage.outsider)
    with pytest.raises(InUse):
        project.delete(stage.broker, stage.admin, "elsewhere")
    stage.finish(vm.delete(stage.broker, stage.admin, row.id)[1])
    with pytest.raises(InUse):
        project.delete(stage.broker, stage.admin, "elsewhere")
    with pytest.raises(InUse, match="your own"):
        project.delete(stage.broker, stage.admin, "lab")
