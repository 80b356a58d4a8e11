"""Who may call what: every public function with a caller, by role. A new function must be entered here."""

from __future__ import annotations

import importlib
import inspect

import pytest

from broker import accesskey, gateway, peer, project, token
from broker.actor import Actor
from broker.errors import Forbidden, InvalidRequest, NotFound, Unauthenticated

READER, MEMBER, ADMIN, AGENT = "reader", "member", "admin", "gateway"
ROLES = (READER, MEMBER, ADMIN)

LEAST = {
    "accesskey": {"create": MEMBER, "list_access_keys": MEMBER, "delete": MEMBER},
    "event": {"list_events": READER},
    "flavor": {"create": ADMIN, "get": READER, "list_flavors": READER, "delete": ADMIN},
    "gateway": {
        "create": ADMIN,
        "get": READER,
        "list_gateways": READER,
        "peer_counts": READER,
        "renew_token": ADMIN,
        "delete": ADMIN,
        "register": AGENT,
        "document": AGENT,
        "next_document": AGENT,
        "report": AGENT,
    },
    "host": {"list_hosts": READER, "get": READER, "set_maintenance": ADMIN},
    "image": {"create": ADMIN, "get": READER, "list_images": READER, "map_sites": ADMIN, "delete": ADMIN},
    "keypair": {"create": MEMBER, "get": READER, "list_key_pairs": READER, "delete": MEMBER},
    "labelled": {"get": READER, "change": MEMBER, "list_labels": READER},
    "network": {
        "create": ADMIN,
        "get": READER,
        "list_networks": READER,
        "leased": READER,
        "delete": ADMIN,
        "add_subnet": ADMIN,
        "remove_subnet": ADMIN,
    },
    "expression": {"check": READER},
    "operation": {"get": READER, "wait": READER, "list_operations": READER},
    "peer": {"enrol": AGENT, "list_peers": READER},
    "rehearsal": {"rehearse": ADMIN},
    "policy": {"check": MEMBER, "apply": ADMIN, "show": READER, "versions": READER},
    "reservation": {"create": MEMBER, "get": READER, "list_reservations": READER, "delete": MEMBER},
    "launch": {"create": MEMBER, "create_many": MEMBER},
    "migration": {"migrate": ADMIN, "drain": ADMIN, "rebalance": ADMIN},
    "power": {"start": MEMBER, "stop": MEMBER, "reboot": MEMBER, "suspend": MEMBER, "resume": MEMBER},
    "project": {"create": ADMIN, "get": READER, "list_projects": READER, "delete": ADMIN},
    "site": {
        "create": ADMIN,
        "get": READER,
        "list_sites": READER,
        "host_counts": READER,
        "refresh": ADMIN,
        "delete": ADMIN,
    },
    "status": {"status": READER, "budget": READER},
    "usage": {"report": READER},
    "token": {"create": MEMBER, "list_tokens": MEMBER, "delete": MEMBER},
    "vm": {
        "get": READER,
        "list_vms": READER,
        "names": READER,
        "set_labels": MEMBER,
        "change_labels": MEMBER,
        "delete": MEMBER,
        "console": READER,
    },
    "why": {"why": READER},
}

CALLS = [(module, name, least) for module, names in LEAST.items() for name, least in names.items()]


def functions_with_a_caller(module):
    loaded = importlib.import_module(f"broker.{module}")
    return {
        name
        for name, function in inspect.getmembers(loaded, inspect.isfunction)
        if function.__module__ == loaded.__name__
        and not name.startswith("_")
        and list(inspect.signature(function).parameters)[:2] == ["broker", "actor"]
    }


def call(stage, actor, module, name):
    """With nothing of use in it: the role is looked at before anything else."""
    function = getattr(importlib.import_module(f"broker.{module}"), name)
    wanted = [
        p.name for p in list(inspect.signature(function).parameters.values())[2:] if p.default is p.empty
    ]
    numbers = ("count", "after", "wait_s", "timeout_s")
    return function(stage.broker, actor, **{name: 1 if name in numbers else "none" for name in wanted})


def refuses(stage, actor, module, name):
    try:
        call(stage, actor, module, name)
    except Forbidden:
        return True
    except Exception:  # what it says of "none" is tested elsewhere
        return False
    return False


def test_every_function_with_a_caller_is_in_the_table():
    import broker

    modules = [path.stem for path in map(_path, broker.__path__) for path in path.glob("[a-z]*.py")]
    found = {module: functions_with_a_caller(module) for module in modules}
    assert {module: names for module, names in found.items() if names} == {
        module: set(names) for module, names in LEAST.items()
    }


def _path(text):
    from pathlib import Path

    return Path(text)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("module", "name", "least"), CALLS, ids=lambda value: str(value))
def test_role_below_the_least_is_refused(bare_stage, module, name, least):
    people = {READER: bare_stage.reader, MEMBER: bare_stage.member, ADMIN: bare_stage.admin}
    refused = ROLES if least == AGENT else ROLES[: ROLES.index(least)]
    for role in refused:
        with pytest.raises(Forbidden):
            call(bare_stage, people[role], module, name)
    if least == AGENT:
        return
    agent = Actor(bare_stage.owner.id, AGENT, "gateway-gate", gateway_id="gw-00000000000000001")
    with pytest.raises(Forbidden):
        call(bare_stage, agent, module, name)
    for role in ROLES[ROLES.index(least) :]:
        assert not refuses(bare_stage, people[role], module, name)


def test_member_makes_no_token_above_its_own_role(bare_stage):
    broker = bare_stage.broker
    for make in (
        lambda **k: token.create(broker, bare_stage.member, name="t", **k),
        lambda **k: accesskey.create(broker, bare_stage.member, **k),
    ):
        with pytest.raises(Forbidden):
            make(role="admin")
        with pytest.raises(NotFound):
            make(project_ref="elsewhere")
        for role in ("gateway", "root"):
            with pytest.raises(InvalidRequest):
                make(role=role)
        row, _ = make(role="reader")
        assert row.role == "reader"


def test_token_lets_its_owner_in_until_it_expires_or_is_revoked(bare_stage):
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


def test_access_key_opens_until_it_is_revoked(bare_stage):
    row, secret = accesskey.create(bare_stage.broker, bare_stage.member)
    opened = accesskey.open_key(bare_stage.broker, row.id)
    assert (opened.secret, opened.account) == (secret, bare_stage.owner.account)
    assert secret not in repr(row)
    accesskey.delete(bare_stage.broker, bare_stage.member, row.id)
    with pytest.raises(Unauthenticated):
        accesskey.open_key(bare_stage.broker, row.id)


def test_tokens_and_keys_of_others_are_not_there(bare_stage):
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


def test_member_revokes_neither_an_admins_nor_a_gateways_token(hybrid):
    from sqlalchemy import select

    from broker.store import TokenRow

    token.create(hybrid.broker, hybrid.admin, name="boss", role="admin")
    with hybrid.broker.store.reading() as session:
        rows = list(session.scalars(select(TokenRow)))
    assert {row.role for row in rows} == {"admin", "gateway"}
    for row in rows:
        with pytest.raises(Forbidden):
            token.delete(hybrid.broker, hybrid.member, row.id)


def test_gateways_agent_reaches_its_own_document_and_nothing_else(hybrid):
    agent = hybrid.agents[0].actor
    assert gateway.document(hybrid.broker, agent).gateway_id == agent.gateway_id
    with pytest.raises(Forbidden):
        peer.list_peers(hybrid.broker, agent)
    with pytest.raises(NotFound):
        gateway.document(hybrid.broker, Actor(agent.project_id, AGENT, "other", gateway_id="gw-0"))


def test_the_role_that_is_missing_is_named_in_words():
    from isthmus.schema import Role

    with pytest.raises(Forbidden, match="needs the role 'admin', and 'ada' has 'member'"):
        Actor(project_id="prj-1", role=MEMBER, name="ada").require(Role.ADMIN)
