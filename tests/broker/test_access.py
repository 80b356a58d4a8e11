"""Who may do what is a table, and every public function of the broker asks it for its own permission."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

import broker
from broker import access, event, keypair, operation, power, project, token, usage, vm
from broker.access import PERMISSIONS, ROLES, Scope
from broker.actor import ADMIN, EVERY_PROJECT, GATEWAY, MEMBER, READER, SYSTEM, Actor
from broker.broker import Broker
from broker.errors import Forbidden, InvalidRequest, NotFound
from broker.store import VMRow

if TYPE_CHECKING:
    from tests.broker.conftest import Stage


def functions_with_a_caller() -> dict[tuple[str, str], list[str]]:
    """(module, function) -> the permissions that it names, for every public function that takes a caller."""
    found = {}
    for path in sorted(path for folder in broker.__path__ for path in Path(folder).glob("[a-z]*.py")):
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
                continue
            if [argument.arg for argument in node.args.args[:2]] == ["broker", "actor"]:
                found[path.stem, node.name] = asked_by(node)
    return found


def asked_by(node: ast.AST) -> list[str]:
    """The permissions that a function asks the table for, in order."""
    calls = [inner for inner in ast.walk(node) if isinstance(inner, ast.Call)]
    asked = [call for call in calls if ast.unparse(call.func) == "access.require"]
    names = [call.args[1] for call in sorted(asked, key=lambda call: call.lineno)]
    return [ast.literal_eval(name) for name in names]


FUNCTIONS = functions_with_a_caller()
CASES = [
    pytest.param(*where, asked[0], id=f"{'.'.join(where)}") for where, asked in FUNCTIONS.items() if asked
]


def call(stage: Stage, actor: Actor, module: str, name: str) -> object:
    """With nothing of use in it: the permission is looked at before anything else."""
    function = getattr(importlib.import_module(f"broker.{module}"), name)
    wanted = [
        p.name for p in list(inspect.signature(function).parameters.values())[2:] if p.default is p.empty
    ]
    numbers = ("count", "after", "wait_s", "timeout_s")
    return function(stage.broker, actor, **{name: 1 if name in numbers else "none" for name in wanted})


def refusal(stage: Stage, actor: Actor, module: str, name: str) -> Forbidden | None:
    """What it says when it refuses; of "none" it may say what it likes, and that is tested elsewhere."""
    try:
        call(stage, actor, module, name)
    except Forbidden as error:
        return error if type(error) is Forbidden else None
    except Exception:
        return None
    return None


def test_every_function_with_a_caller_is_in_the_table() -> None:
    assert len(FUNCTIONS) > 80
    strangers = {".".join(where): asked for where, asked in FUNCTIONS.items() if len(set(asked)) != 1}
    assert strangers == {}, "a function asks for one permission, its own"
    # What all projects share is labelled by the same function, which asks for more then.
    assert {asked[0] for asked in FUNCTIONS.values()} | {"label.change_shared"} == set(PERMISSIONS)


def test_functions_share_a_permission_only_where_they_are_one_thing() -> None:
    shared: dict[str, set[str]] = {}
    for where, (first, *_) in FUNCTIONS.items():
        shared.setdefault(first, set()).add(".".join(where))
    assert {name: sorted(where) for name, where in shared.items() if len(where) > 1} == {
        "flavor.list": ["flavor.list_flavors", "flavor.list_offers"],
        "gateway.document": ["gateway.document", "gateway.next_document"],
        "gateway.list": ["gateway.list_gateways", "gateway.peer_counts"],
        "host.list": ["host.architectures", "host.list_hosts"],
        "network.get": ["network.get", "network.get_subnet"],
        "network.list": ["network.leased", "network.list_networks", "network.list_subnets"],
        "operation.get": ["operation.get", "operation.wait"],
        "site.list": ["site.host_counts", "site.list_sites"],
        "vm.create": ["launch.create", "launch.create_many"],
        "vm.label": ["vm.change_labels", "vm.set_labels"],
        "vm.list": ["vm.list_vms", "vm.page"],
    }


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("module", "name", "permission"), CASES)
def test_who_lacks_a_permission_is_refused_before_anything_else(
    bare_stage: Stage, module: str, name: str, permission: str
) -> None:
    people = {
        READER: bare_stage.reader,
        MEMBER: bare_stage.member,
        ADMIN: bare_stage.admin,
        GATEWAY: Actor(bare_stage.owner.id, GATEWAY, "gateway-gate", gateway_id="gw-00000000000000001"),
    }
    needed = PERMISSIONS[permission]
    for role, actor in people.items():
        refused = refusal(bare_stage, actor, module, name)
        assert (refused is None) == (role in needed.roles), role
        if refused is not None and needed.scope != Scope.GATEWAY:
            words = f"{permission} needs the role '{needed.least}', and {actor.name!r} has '{role}'"
            assert (refused.message, refused.code) == (words, "forbidden")
            assert refused.hint == f"use a token with the role '{needed.least}'"
            assert refused.details == {"permission": permission, "role": needed.least}


def test_nobody_else_decides_by_roles() -> None:
    """No face knows a role, and no other file of the broker looks at what role or which grants a caller has."""
    root = Path(next(iter(broker.__path__))).parent
    found = []
    for path in sorted([*root.glob("api/**/*.py"), *root.glob("broker/**/*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            text = ast.unparse(node) if isinstance(node, ast.Compare) else ""
            if "actor.role" in text or "caller.role" in text or ".grants" in text:
                found.append(f"{path.relative_to(root)}: {text}")
            if isinstance(node, ast.ImportFrom) and node.module == "broker.actor" and path.parts[-3] == "api":
                found += [f"{path.relative_to(root)}: {one.name}" for one in node.names if one.name in NAMES]
    assert [line for line in found if not line.startswith("broker/access.py")] == []


NAMES = {"ADMIN", "MEMBER", "READER", "GATEWAY"}


def test_each_role_may_what_the_one_below_it_may() -> None:
    reader, member, admin, agent = map(access.permissions_of, (READER, MEMBER, ADMIN, GATEWAY))
    assert reader < member < admin
    assert agent == set(PERMISSIONS) - admin
    assert all(needed.roles <= set(ROLES) and needed.line.endswith(".") for needed in PERMISSIONS.values())


def test_what_concerns_the_whole_broker_needs_a_grant_in_every_project() -> None:
    over_one = Actor("prj-a", MEMBER, "olga", grants={"prj-b": ADMIN})
    assert over_one.grants == {"prj-a": MEMBER, "prj-b": ADMIN}
    with pytest.raises(Forbidden):
        access.require(over_one, "site.create")
    access.require(over_one, "token.delete", "prj-b")
    assert access.deciding(SYSTEM, "site.create") == (EVERY_PROJECT, ADMIN)
    with pytest.raises(Forbidden):
        access.require_role(over_one, ADMIN, "prj-b")
    access.require_role(over_one, MEMBER, "prj-b")


def test_nobody_gives_a_role_that_there_is_not() -> None:
    for role in (GATEWAY, "root"):
        with pytest.raises(InvalidRequest, match=f"there is no role '{role}'"):
            access.require_role(SYSTEM, role, "prj-a")


def test_a_grant_counts_in_its_project_and_nowhere_else(stage: Stage) -> None:
    """One actor, a member of one project and a reader of another."""
    made = stage.broker, stage.member
    theirs, _ = stage.request("theirs", actor=stage.member)
    mine, _ = stage.request("mine", actor=stage.outsider)
    both = Actor(stage.stranger.id, MEMBER, "bo", grants={stage.owner.id: READER})
    assert [row.name for row in vm.list_vms(stage.broker, both)] == ["mine"]
    assert {row.name for row in vm.list_vms(stage.broker, both, all_projects=True)} == {"theirs", "mine"}
    assert vm.get(stage.broker, both, theirs.id).name == "theirs"

    def label(broker: Broker, actor: Actor, ref: str) -> VMRow:
        return vm.set_labels(broker, actor, ref, {"a": "b"})

    changes: list[Callable[[Broker, Actor, str], object]] = [vm.delete, power.stop, power.suspend, label]
    for change in changes:
        with pytest.raises(Forbidden, match="needs the role 'member', and 'bo' has 'reader'"):
            change(stage.broker, both, theirs.id)
    vm.delete(stage.broker, both, mine.id)
    with pytest.raises(NotFound):
        vm.get(stage.broker, stage.outsider, theirs.id)
    assert {row.name for row in project.list_projects(stage.broker, both)} == {"lab", "elsewhere"}
    token.create(*made, name="of-the-lab")
    assert token.list_tokens(stage.broker, both) == []  # a reader there, which is too little for that
    with pytest.raises(Forbidden):
        token.create(stage.broker, both, name="too-much", project_ref="lab", role="reader")


def test_lists_show_what_is_of_the_projects_that_a_grant_is_in(stage: Stage) -> None:
    theirs, task = stage.request("theirs", actor=stage.member)
    keypair.create(stage.broker, stage.member, name="me", public_key=KEY)
    both = Actor(stage.stranger.id, MEMBER, "bo", grants={stage.owner.id: READER})
    targets = {row.target for row in event.list_events(stage.broker, both)}
    assert theirs.id in targets
    assert theirs.id not in {row.target for row in event.list_events(stage.broker, stage.outsider)}
    assert task.id in {row.id for row in operation.list_operations(stage.broker, both)}
    assert operation.list_operations(stage.broker, stage.outsider) == []
    assert operation.get(stage.broker, both, task.id).id == task.id
    with pytest.raises(NotFound):
        operation.get(stage.broker, stage.outsider, task.id)
    assert keypair.list_key_pairs(stage.broker, both) == []  # those of the current project
    stage.finish(task)
    stage.wait(3600)
    assert [row.project for row in usage.report(stage.broker, both)] == ["lab"]
    assert usage.report(stage.broker, stage.outsider) == []


def test_a_query_is_cut_in_sql_to_what_is_visible(stage: Stage) -> None:
    query = select(VMRow.id)
    assert str(access.visible(query, SYSTEM, VMRow, "vm.list")) == str(query)
    one = Actor("prj-a", READER, "rita")
    assert access.visible(query, one, VMRow, "vm.list").compile().params == {"project_id_1": "prj-a"}
    agent = Actor("prj-a", GATEWAY, "gate")
    with stage.broker.store.reading() as session:
        assert list(session.scalars(access.visible(query, agent, VMRow, "vm.list"))) == []
    assert not access.sees(one, None, "vm.get")
    assert access.sees(SYSTEM, None, "vm.get")


KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0K0C6CJTNCUvZ8ux8uhWkDJEMwFjPa8PWnHnYqVTyX ada@lab"
