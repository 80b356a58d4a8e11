"""Callers: where they come from, what they may give away, and that those of others are not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker import access, accesskey, gateway, peer, project, token
from broker.actor import GATEWAY, MEMBER, Actor
from broker.errors import Forbidden, InvalidRequest, NotFound, Unauthenticated

if TYPE_CHECKING:
    from tests.broker.conftest import Stage


def test_member_makes_no_token_above_its_own_role(bare_stage: Stage) -> None:
    broker = bare_stage.broker
    for make in (
        lambda **k: token.create(broker, bare_stage.member, name="t", **k),
        lambda **k: accesskey.create(broker, bare_stage.member, **k),
    ):
        with pytest.raises(Forbidden, match="needs the role 'admin', and 'mel' has 'member'"):
            make(role="admin")
        with pytest.raises(NotFound):
            make(project_ref="elsewhere")
        for role in ("gateway", "root"):
            with pytest.raises(InvalidRequest):
                make(role=role)
        row, _ = make(role="reader")
        assert row.role == "reader"


def test_token_lets_its_owner_in_until_it_expires_or_is_revoked(bare_stage: Stage) -> None:
    row, secret = token.create(bare_stage.broker, bare_stage.member, name="ci", expires_in_s=60)
    actor = token.authenticate(bare_stage.broker, secret)
    assert (actor.project_id, actor.role, actor.name) == (bare_stage.owner.id, "member", "ci")
    bare_stage.wait(61)
    with pytest.raises(Unauthenticated, match="expired"):
        token.authenticate(bare_stage.broker, secret)
    row, secret = token.create(bare_stage.broker, bare_stage.member, name="ci")
    token.delete(bare_stage.broker, bare_stage.member, row.id)
    with pytest.raises(Unauthenticated):
        token.authenticate(bare_stage.broker, secret)
    with pytest.raises(Unauthenticated):
        token.authenticate(bare_stage.broker, "ist_guess")


def test_access_key_opens_until_it_is_revoked(bare_stage: Stage) -> None:
    row, secret = accesskey.create(bare_stage.broker, bare_stage.member)
    opened = accesskey.open_key(bare_stage.broker, row.id)
    assert (opened.secret, opened.account) == (secret, bare_stage.owner.account)
    assert secret not in repr(row)
    accesskey.delete(bare_stage.broker, bare_stage.member, row.id)
    with pytest.raises(Unauthenticated):
        accesskey.open_key(bare_stage.broker, row.id)


def test_tokens_and_keys_of_others_are_not_there(bare_stage: Stage) -> None:
    broker = bare_stage.broker
    row, _ = token.create(broker, bare_stage.member, name="ci")
    key, _ = accesskey.create(broker, bare_stage.member)
    assert token.list_tokens(broker, bare_stage.outsider) == []
    assert accesskey.list_access_keys(broker, bare_stage.outsider) == []
    with pytest.raises(NotFound):
        token.delete(broker, bare_stage.outsider, row.id)
    with pytest.raises(NotFound):
        accesskey.delete(broker, bare_stage.outsider, key.id)
    with pytest.raises(NotFound):
        project.get(broker, bare_stage.outsider, "lab")
    assert [row.name for row in project.list_projects(broker, bare_stage.outsider)] == ["elsewhere"]


def test_member_revokes_neither_an_admins_nor_a_gateways_token(hybrid: Stage) -> None:
    from sqlalchemy import select

    from broker.store import TokenRow

    token.create(hybrid.broker, hybrid.admin, name="boss", role="admin")
    with hybrid.broker.store.reading() as session:
        rows = list(session.scalars(select(TokenRow)))
    assert {row.role for row in rows} == {"admin", "gateway"}
    for row in rows:
        with pytest.raises(Forbidden):
            token.delete(hybrid.broker, hybrid.member, row.id)


def test_gateways_agent_reaches_its_own_document_and_nothing_else(hybrid: Stage) -> None:
    agent = hybrid.agents[0].actor
    assert gateway.document(hybrid.broker, agent).gateway_id == agent.gateway_id
    with pytest.raises(Forbidden):
        peer.list_peers(hybrid.broker, agent)
    with pytest.raises(NotFound):
        gateway.document(hybrid.broker, Actor(agent.project_id, GATEWAY, "other", gateway_id="gw-0"))


def test_the_role_that_is_missing_is_named_in_words() -> None:
    from isthmus.schema import Role

    with pytest.raises(Forbidden, match="needs the role 'admin', and 'ada' has 'member'"):
        access.require_role(Actor(project_id="prj-1", role=MEMBER, name="ada"), Role.ADMIN, "prj-1")
