"""Who may do what, over the native API and through the SDK, on a real broker."""

from __future__ import annotations

from typing import Any

import pytest

import isthmus


def test_a_caller_asks_about_itself(quiet: Any) -> None:
    answer = quiet.ask("GET", "/v1/auth/can?action=vm.create", role="reader")
    assert (answer.status_code, answer.json()) == (
        200,
        {
            "allowed": False,
            "who": "reader",
            "action": "vm.create",
            "what": "project default",
            "project": "default",
            "scope": "project",
            "roles": ["member", "admin"],
            "grants": [{"project": "default", "role": "reader"}],
            "grant": None,
            "reason": "vm.create needs the role member or admin in project default, and reader is reader in project default",
        },
    )
    mine = quiet.client("member").auth.can("vm.create", "project:default")
    assert mine.allowed
    assert mine.grant is not None
    assert (mine.grant.project, mine.grant.role) == ("default", "member")


def test_members_ask_about_their_project_and_admins_about_everybody(quiet: Any) -> None:
    assert not quiet.client("member").auth.can("vm.create", who="reader").allowed
    for role, who, error in (
        ("reader", "member", isthmus.Forbidden),
        ("member", "stranger", isthmus.NotFound),
    ):
        with pytest.raises(error):
            quiet.client(role).auth.can("vm.create", who=who)
    assert quiet.client("admin").auth.can("vm.create", "other", who="stranger").allowed
    assert not quiet.client("admin").auth.can("vm.create", "default", who="stranger").allowed


def test_what_is_refused_is_what_was_told(quiet: Any) -> None:
    """The code, the status and the details of a refusal, and its words."""
    answer = quiet.ask("POST", "/v1/projects", {"name": "new"}, role="member")
    assert (answer.status_code, answer.json()["error"]) == (
        403,
        {
            "code": "forbidden",
            "message": "project.create needs the role 'admin', and 'member' has 'member'",
            "hint": "use a token with the role 'admin'",
            "details": {"permission": "project.create", "role": "admin"},
        },
    )
    assert not quiet.client("member").auth.can("project.create").allowed


def test_the_table_is_paged_and_filtered_by_role(quiet: Any) -> None:
    first = quiet.ask("GET", "/v1/auth/permissions?limit=2", role="reader").json()
    assert [item["name"] for item in first["items"]] == ["accesskey.create", "accesskey.delete"]
    second = quiet.ask("GET", f"/v1/auth/permissions?limit=1&page={first['next']}", role="reader").json()
    assert [item["name"] for item in second["items"]] == ["accesskey.list"]
    everything = list(quiet.client("reader").auth.permissions())
    readers = list(quiet.client("reader").auth.permissions("reader"))
    agents = list(quiet.client("reader").auth.permissions("gateway"))
    assert all("reader" in permission.roles for permission in readers)
    assert 4 == len(agents) < len(readers) < len(everything)
    assert quiet.ask("GET", "/v1/auth/permissions?role=root").status_code == 400


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("", 400, "invalid_request"),
        ("action=vm.remove", 400, "invalid_request"),
        ("action=vm.delete&what=nowhere", 404, "vm_not_found"),
        ("action=vm.delete&who=nobody", 404, "token_not_found"),
        ("action=vm.delete&what=a%00b", 400, "invalid_request"),
    ],
)
def test_a_question_with_a_mistake_is_refused(quiet: Any, query: str, status: int, code: str) -> None:
    answer = quiet.ask("GET", f"/v1/auth/can?{query}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
