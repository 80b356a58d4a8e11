"""Why a VM is where it is, asked of the broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker import policy, why
from broker.errors import InvalidExpression

if TYPE_CHECKING:
    from tests.broker.conftest import Stage


@pytest.mark.parametrize(
    ("requirement", "words"),
    [("!" * 99 + "elastic", "nested deeper than"), (" || ".join(["elastic"] * 370), "longer than")],
    ids=["deep", "long"],
)
def test_requirement_that_only_the_policys_makes_too_large_is_told_as_such(
    stage: Stage, requirement: str, words: str
) -> None:
    both = " || ".join(["!elastic"] * 400)
    policy.apply(stage.broker, stage.admin, f"version: 1\nplacement:\n  requirements: '{both}'\n")
    row, _ = stage.request("web", requirements=requirement)
    with pytest.raises(InvalidExpression, match=words) as caught:
        why.why(stage.broker, stage.member, row.id)
    assert caught.value.hint
