"""Who is let in: by a look at the store, or because it was let in just now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import delete

from bench._counted import Counted
from broker import gateway, project, token
from broker.errors import Unauthenticated
from broker.store import TokenRow

if TYPE_CHECKING:
    from tests.broker.conftest import Stage


@pytest.fixture
def whole(stage: Stage) -> Stage:
    """As a broker that hears of all changes."""
    stage.broker.store.changes.whole = True
    return stage


def test_who_was_let_in_just_now_is_let_in_without_a_look_at_the_store(whole: Stage) -> None:
    row, secret = token.create(whole.broker, whole.admin, name="ci", role="member")
    first = token.authenticate(whole.broker, secret)
    with Counted(whole.broker.store) as counted:
        assert token.authenticate(whole.broker, secret) == first == token.actor_of(row)
    assert counted.statements == 0


def test_a_revoked_token_lets_nobody_in_any_more(whole: Stage) -> None:
    row, secret = token.create(whole.broker, whole.admin, name="ci", role="member")
    token.authenticate(whole.broker, secret)
    token.delete(whole.broker, whole.admin, row.id)
    with pytest.raises(Unauthenticated):
        token.authenticate(whole.broker, secret)


def test_a_gateways_old_token_lets_nobody_in_after_a_new_one_is_made(whole: Stage) -> None:
    whole.add_cloud()
    made, secret = gateway.renew_token(whole.broker, whole.admin, "gate")
    token.authenticate(whole.broker, secret)
    gateway.renew_token(whole.broker, whole.admin, made.id)
    with pytest.raises(Unauthenticated):
        token.authenticate(whole.broker, secret)


def test_the_tokens_of_what_is_deleted_let_nobody_in_any_more(whole: Stage) -> None:
    whole.add_cloud()
    _, of_gateway = gateway.renew_token(whole.broker, whole.admin, "gate")
    project.create(whole.broker, whole.admin, name="short")
    _, of_project = token.create(whole.broker, whole.admin, name="ci", project_ref="short")
    for secret in (of_gateway, of_project):
        token.authenticate(whole.broker, secret)
    gateway.delete(whole.broker, whole.admin, "gate")
    project.delete(whole.broker, whole.admin, "short")
    for secret in (of_gateway, of_project):
        with pytest.raises(Unauthenticated):
            token.authenticate(whole.broker, secret)


def test_a_token_expires_also_for_who_was_let_in_just_now(whole: Stage) -> None:
    _, secret = token.create(whole.broker, whole.admin, name="ci", role="member", expires_in_s=3)
    token.authenticate(whole.broker, secret)
    whole.wait(3)
    with pytest.raises(Unauthenticated, match="expired"):
        token.authenticate(whole.broker, secret)


def test_what_is_remembered_of_a_token_is_read_again_before_long(whole: Stage) -> None:
    row, secret = token.create(whole.broker, whole.admin, name="ci", role="member")
    token.authenticate(whole.broker, secret)
    with whole.broker.store.engine.begin() as elsewhere:  # and nobody is told
        elsewhere.execute(delete(TokenRow).where(TokenRow.id == row.id))
    whole.wait(6)
    with pytest.raises(Unauthenticated):
        token.authenticate(whole.broker, secret)


def test_a_broker_that_does_not_hear_of_all_changes_looks_each_time(stage: Stage) -> None:
    stage.broker.store.changes.whole = False
    row, secret = token.create(stage.broker, stage.admin, name="ci", role="member")
    token.authenticate(stage.broker, secret)
    with stage.broker.store.engine.begin() as elsewhere:
        elsewhere.execute(delete(TokenRow).where(TokenRow.id == row.id))
    with pytest.raises(Unauthenticated):
        token.authenticate(stage.broker, secret)
