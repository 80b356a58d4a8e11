"""An expression is looked at before it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker import expression
from broker.errors import InvalidExpression

if TYPE_CHECKING:
    from tests.broker.conftest import Stage


def test_a_requirement_says_where_it_holds(stage: Stage) -> None:
    found = expression.check(stage.broker, stage.member, 'name == "sim-02" && cpu_free >= 2')
    assert found.text == 'name == "sim-02" && cpu_free >= 2'
    assert found.hosts == [("campus/sim-02", 1.0), ("campus/sim-01", 0.0)]


def test_a_rank_of_opennebula_is_translated_and_warned_of(stage: Stage) -> None:
    found = expression.check(stage.broker, stage.member, "FREE_CPU - TEMP", kind="rank", dialect="opennebula")
    assert found.text == "cpu_free * 100 - temp"
    assert [value for _, value in found.hosts] == [None, None]
    said = " ".join(found.warnings)
    assert "has no temp" in said
    assert 'unknown name "temp"' in said


def test_a_mistake_has_its_place(stage: Stage) -> None:
    with pytest.raises(InvalidExpression) as refused:
        expression.check(stage.broker, stage.member, "cpu_free >")
    assert refused.value.details["column"] >= 10
