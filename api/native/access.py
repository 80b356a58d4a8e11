"""``/v1/auth``: who may do what, explained."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from api.native.auth import Caller, TheBroker
from api.native.paging import Limit, Text, Token, cut
from broker import auth
from isthmus import schema

router = APIRouter(prefix="/v1/auth", tags=["access"])

Action = Annotated[str, Query(pattern=r"^[^\x00]*$", max_length=255, description="Such as `vm.delete`.")]
Who = Annotated[
    str,
    Query(
        pattern=r"^[^\x00]*$",
        max_length=255,
        description="`me`, a token's name or id, or an access key's id.",
    ),
]
What = Annotated[
    str | None,
    Query(
        pattern=r"^[^\x00]*$",
        max_length=255,
        description="A name or id, `noun:ref`, or a project; else the current project of who.",
    ),
]


@router.get("/can")
def can(
    broker: TheBroker, caller: Caller, action: Action, who: Who = auth.ME, what: What = None
) -> schema.Can:
    """Whether somebody may do something, and why. Others than admins ask about themselves, members about their project."""
    view = auth.can(broker, caller, who=who, action=action, what=what)
    return schema.Can(
        allowed=view.allowed,
        who=view.who,
        action=view.action,
        what=view.what,
        project=view.project,
        scope=view.scope,
        roles=list(view.roles),
        grants=[schema.Grant(project=grant.project, role=grant.role) for grant in view.grants],
        grant=schema.Grant(project=view.grant.project, role=view.grant.role) if view.grant else None,
        reason=view.reason,
    )


@router.get("/permissions")
def list_permissions(
    broker: TheBroker, caller: Caller, role: Text = None, limit: Limit = 100, page: Token = None
) -> schema.Page[schema.Permission]:
    """The table of permissions, by name; with `role` what that role has."""
    rows, following = cut(auth.permissions(broker, caller, role=role), lambda row: (row[0],), limit, page)
    return schema.Page(
        items=[
            schema.Permission(
                name=name, scope=needed.scope, roles=list(needed.in_order), description=needed.line
            )
            for name, needed in rows
        ],
        next=following,
    )
