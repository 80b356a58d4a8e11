"""`auth.can` explains who may do what; it says of the table what the functions do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker import accesskey, auth, gateway, power, token, vm
from broker.access import PERMISSIONS
from broker.actor import Actor
from broker.auth import CanView, GrantView
from broker.errors import Forbidden, InvalidRequest, NotFound

if TYPE_CHECKING:
    from tests.broker.conftest import Stage


def ask(stage: Stage, actor: Actor, action: str, what: str | None = None, who: str = auth.ME) -> CanView:
    return auth.can(stage.broker, actor, who=who, action=action, what=what)


def test_yes_names_the_grant_that_decides(stage: Stage) -> None:
    row, _ = stage.request("web", actor=stage.member)
    for ref in ("web", row.id, "vm:web", f"vm:{row.id}"):
        view = ask(stage, stage.member, "vm.delete", ref)
        assert (view.allowed, view.what, view.project) == (True, "vm web", "lab")
        assert view.grant == GrantView("lab", "member")
        assert view.reason == "mel is member in project lab, and that role has vm.delete"
    view = ask(stage, stage.admin, "site.delete", "campus")
    assert (view.allowed, view.project, view.grant) == (True, None, GrantView("*", "admin"))
    assert view.reason == "ada is admin in every project, and that role has site.delete"


def test_no_says_what_would_be_needed(stage: Stage) -> None:
    stage.request("web", actor=stage.member)
    view = ask(stage, stage.reader, "vm.delete", "web")
    assert (view.allowed, view.grant, view.roles) == (False, None, ("member", "admin"))
    assert view.reason == (
        "vm.delete needs the role member or admin in project lab, and rita is reader in project lab"
    )
    view = ask(stage, stage.member, "site.create")
    assert view.reason == (
        "site.create needs the role admin in every project, and mel is member in project lab"
    )
    view = ask(stage, stage.admin, "gateway.document")
    assert not view.allowed
    assert "needs the role gateway in a gateway's token" in view.reason


@pytest.mark.parametrize("action", sorted(PERMISSIONS))
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_it_may_be_asked_of_every_permission(bare_stage: Stage, action: str) -> None:
    for actor in (bare_stage.reader, bare_stage.member, bare_stage.admin):
        assert ask(bare_stage, actor, action).allowed == (actor.role in PERMISSIONS[action].roles)
        assert ask(bare_stage, actor, action, "lab").allowed == (actor.role in PERMISSIONS[action].roles)


def test_it_says_what_the_broker_does(stage: Stage) -> None:
    acts = (("vm.stop", power.stop), ("vm.console", vm.console), ("vm.delete", vm.delete))
    for actor in (stage.reader, stage.member, stage.admin):
        row = stage.create("web")
        for action, act in acts:
            said = ask(stage, actor, action, row.id).allowed
            try:
                act(stage.broker, actor, row.id)
                done = True
            except Forbidden:
                done = False
            assert said == done
            stage.finish_all()
        stage.finish(vm.delete(stage.broker, stage.admin, row.id)[1])


def test_of_a_token_or_an_access_key_its_own_grant_is_told(stage: Stage) -> None:
    made, _ = token.create(stage.broker, stage.member, name="ci", role="reader", expires_in_s=60)
    key, _ = accesskey.create(stage.broker, stage.member)
    for who in ("ci", made.id):
        view = ask(stage, stage.member, "vm.create", who=who)
        assert (view.allowed, view.who, view.grants) == (False, "token ci", [GrantView("lab", "reader")])
    assert ask(stage, stage.member, "vm.create", "lab", who=key.id).reason == (
        f"access key {key.id} is member in project lab, and that role has vm.create"
    )
    assert ask(stage, stage.member, "vm.list", who="ci").allowed
    stage.wait(61)
    assert ask(stage, stage.member, "vm.list", who="ci").reason == "token ci has expired"


def test_of_others_one_may_ask_where_one_may_list_tokens(hybrid: Stage) -> None:
    made, _ = token.create(hybrid.broker, hybrid.member, name="ci")
    token.create(hybrid.broker, hybrid.member, name="twin")
    token.create(hybrid.broker, hybrid.member, name="twin")
    with pytest.raises(Forbidden, match=r"token\.list needs the role 'member'"):
        ask(hybrid, hybrid.reader, "vm.list", who="ci")
    for who in ("ci", made.id, "nobody"):
        with pytest.raises(NotFound, match=f"no token '{who}'"):
            ask(hybrid, hybrid.outsider, "vm.list", who=who)
    with pytest.raises(InvalidRequest, match="several tokens are named 'twin'"):
        ask(hybrid, hybrid.member, "vm.list", who="twin")
    (gate, *_) = gateway.list_gateways(hybrid.broker, hybrid.admin)
    with pytest.raises(NotFound):
        ask(hybrid, hybrid.member, "gateway.document", who=f"gateway-{gate.name}")
    view = ask(hybrid, hybrid.admin, "gateway.document", gate.name, who=f"gateway-{gate.name}")
    assert view.reason.endswith("and that role has gateway.document, for its own gateway")
    assert not ask(hybrid, hybrid.admin, "vm.list", who=f"gateway-{gate.name}").allowed


def test_things_of_others_are_not_there(stage: Stage) -> None:
    row, _ = stage.request("web", actor=stage.member)
    for what in ("web", row.id, f"vm:{row.id}", "lab", "project:lab"):
        with pytest.raises(NotFound):
            ask(stage, stage.outsider, "vm.delete", what)
    view = ask(stage, stage.admin, "vm.delete", row.id)
    assert view.project == "lab"
    token.create(stage.broker, stage.outsider, name="far")
    assert ask(stage, stage.admin, "vm.delete", row.id, who="far").reason == (
        "vm.delete needs the role member or admin in project lab, and token far is member in project elsewhere"
    )


def test_a_name_is_first_one_of_the_project_that_is_asked_about(stage: Stage) -> None:
    stage.request("web", actor=stage.member)
    stage.request("web", actor=stage.outsider)
    token.create(stage.broker, stage.outsider, name="far")
    assert ask(stage, stage.admin, "vm.delete", "web").project == "lab"
    assert ask(stage, stage.admin, "vm.delete", "web", who="far").project == "elsewhere"
    assert ask(stage, stage.admin, "vm.delete", "web", who="far").allowed


def test_a_token_above_ones_own_is_not_revoked(stage: Stage) -> None:
    boss, _ = token.create(stage.broker, stage.admin, name="boss", role="admin")
    mine, _ = token.create(stage.broker, stage.member, name="mine")
    view = ask(stage, stage.member, "token.delete", "boss")
    assert (
        view.reason == "token boss has the role admin, which may more than mel, who is member in project lab"
    )
    assert not view.allowed
    assert ask(stage, stage.member, "token.delete", mine.id).allowed
    assert ask(stage, stage.admin, "token.delete", boss.id).allowed


def test_a_question_with_a_mistake_is_refused_in_words(stage: Stage) -> None:
    with pytest.raises(InvalidRequest, match=r"no permission 'vm\.remove'") as caught:
        ask(stage, stage.member, "vm.remove")
    assert "did you mean vm.re" in caught.value.hint
    with pytest.raises(
        InvalidRequest, match=r"vm\.delete is done to what is of a project, and site campus is of none"
    ):
        ask(stage, stage.admin, "vm.delete", "site:campus")
    with pytest.raises(NotFound, match="no vm 'nowhere'") as missing:
        ask(stage, stage.member, "vm.delete", "nowhere")
    assert missing.value.hint == "give the name or id of a vm or project, or NOUN:REF, such as vm:web"
    assert ask(stage, stage.admin, "host.drain", "campus/sim-01").what == "host campus/sim-01"


def test_the_table_is_listed_whole_or_for_a_role(bare_stage: Stage) -> None:
    everything = auth.permissions(bare_stage.broker, bare_stage.reader)
    assert [name for name, _ in everything] == sorted(PERMISSIONS)
    readers = auth.permissions(bare_stage.broker, bare_stage.reader, role="reader")
    assert {name for name, _ in readers} < {name for name, _ in everything}
    with pytest.raises(InvalidRequest, match="no role 'root'"):
        auth.permissions(bare_stage.broker, bare_stage.reader, role="root")


def test_every_noun_with_rows_may_be_asked_about() -> None:
    nouns = (
        "accesskey flavor gateway host image keypair network operation peer project reservation site token vm"
    )
    assert set(auth.KINDS) >= set(nouns.split())
