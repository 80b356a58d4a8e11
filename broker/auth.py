"""Who may do what, explained: which grant of an actor decides, and what would be needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from broker import access, accesskey, gateway, host, token
from broker.access import PERMISSIONS, ROLES, Permission, Scope
from broker.actor import EVERY_PROJECT, GATEWAY, Actor
from broker.broker import Broker
from broker.errors import InvalidRequest, NotFound
from broker.states import VMState
from broker.store import AccessKeyRow, GatewayRow, ProjectRow, Row, TokenRow, VMRow

ME = "me"
"""Who asks, in place of a token or an access key."""

_NOUNS = {permission.split(".")[0] for permission in PERMISSIONS}
KINDS: Mapping[str, type[Any]] = {
    noun: mapper.class_
    for mapper in Row.registry.mappers
    for noun in [str(mapper.class_.__tablename__).replace("_", "")]
    if noun in _NOUNS and {"id", "name"} & set(mapper.columns.keys())
}
"""What a permission may be asked about: nouns with their rows."""


@dataclass(frozen=True)
class GrantView:
    """A role in a project, by the project's name; ``*`` is every project."""

    project: str
    role: str


@dataclass(frozen=True)
class CanView:
    """The answer. ``grant`` is the one that decides it, None when none of them does; ``roles`` are those that would do."""

    allowed: bool
    who: str
    action: str
    what: str
    project: str | None
    scope: str
    roles: Sequence[str]
    grants: Sequence[GrantView]
    grant: GrantView | None
    reason: str


@dataclass(frozen=True)
class _Who:
    actor: Actor
    words: str
    expired: bool = False


@dataclass(frozen=True)
class _What:
    """``project_id`` is None of what belongs to no project; ``role`` is set of tokens and access keys."""

    words: str
    project_id: str | None
    ownable: bool
    role: str | None = None


def permissions(broker: Broker, actor: Actor, *, role: str | None = None) -> Sequence[tuple[str, Permission]]:
    """The table, by name; with a role what it has. Raises InvalidRequest for a role that there is not."""
    access.require(actor, "auth.permissions")
    if role is not None and role not in ROLES:
        raise InvalidRequest(f"there is no role {role!r}", hint=f"roles are {', '.join(ROLES)}")
    return [
        (name, needed) for name, needed in sorted(PERMISSIONS.items()) if role is None or role in needed.roles
    ]


def can(broker: Broker, actor: Actor, *, who: str, action: str, what: str | None = None) -> CanView:
    """Whether somebody may do something to a thing, and why.

    ``who`` is ``me``, a token's name or id, or an access key's id; ``action`` a permission; ``what`` a thing as
    ``noun:ref``, a name or id of the action's own noun, or a project; without it the current project of ``who``.
    Of others than itself a caller may ask where it may list tokens, of things where it may see them.
    Raises Forbidden, InvalidRequest, NotFound.
    """
    access.require(actor, "auth.can")
    if action not in PERMISSIONS:
        near = get_close_matches(action, PERMISSIONS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InvalidRequest(
            f"there is no permission {action!r}", hint=f"{hint}`isthmus auth permissions` shows all"
        )
    needed = PERMISSIONS[action]
    with broker.store.reading() as session:
        asked = _who(broker, session, actor, who)
        thing = _what(session, actor, asked.actor, action, what)
        if needed.scope == Scope.PROJECT and not thing.ownable:
            raise InvalidRequest(
                f"{action} is done to what is of a project, and {thing.words} is of none",
                hint="name a thing of a project, or a project",
            )
        place = (thing.project_id or EVERY_PROJECT) if needed.scope == Scope.PROJECT else None
        found = access.deciding(asked.actor, action, place)
        names = _project_names(session, [*asked.actor.grants, thing.project_id or ""])
    grants = [GrantView(names.get(at, at), role) for at, role in sorted(asked.actor.grants.items())]
    grant = GrantView(names.get(found[0], found[0]), found[1]) if found else None
    project = names.get(thing.project_id or "", thing.project_id)
    has = " and ".join(f"{one.role} in {_place(one.project)}" for one in grants)
    allowed = False
    if asked.expired:
        reason = f"{asked.words} has expired"
    elif grant is None:
        where = {
            Scope.PROJECT: _place(project or EVERY_PROJECT),
            Scope.BROKER: _place(EVERY_PROJECT),
            Scope.ANY: "any project",
            Scope.GATEWAY: "a gateway's token",
        }[needed.scope]
        reason = (
            f"{action} needs the role {' or '.join(needed.in_order)} in {where}, and {asked.words} is {has}"
        )
    elif action in ("token.delete", "accesskey.delete") and not (
        thing.role is None or access.covers(asked.actor, thing.role, thing.project_id or EVERY_PROJECT)
    ):
        reason = f"{thing.words} has the role {thing.role}, which may more than {asked.words}, who is {has}"
        grant = None
    else:
        allowed = True
        reason = f"{asked.words} is {grant.role} in {_place(grant.project)}, and that role has {action}"
        if needed.scope == Scope.GATEWAY:
            reason += ", for its own gateway"
    return CanView(
        allowed=allowed,
        who=asked.words,
        action=action,
        what=thing.words,
        project=project,
        scope=needed.scope,
        roles=needed.in_order,
        grants=grants,
        grant=grant,
        reason=reason,
    )


def _place(project: str) -> str:
    return "every project" if project == EVERY_PROJECT else f"project {project}"


def _who(broker: Broker, session: Session, actor: Actor, ref: str) -> _Who:
    if ref == ME:
        return _Who(actor, actor.name)
    access.require(actor, "token.list")
    tokens = access.visible(
        select(TokenRow).where(or_(TokenRow.id == ref, TokenRow.name == ref)), actor, TokenRow, "token.list"
    )
    if not access.everywhere(actor, "token.list"):
        tokens = tokens.where(TokenRow.role != GATEWAY)  # they are not in the list of tokens either
    found = list(session.scalars(tokens.limit(2)))
    if len(found) > 1:
        raise InvalidRequest(
            f"several tokens are named {ref!r}", hint="give its id, which `isthmus token list` shows"
        )
    for row in found:
        expired = row.expires_at is not None and row.expires_at <= broker.clock.now()
        return _Who(token.actor_of(row), f"token {row.name}", expired)
    key = session.get(AccessKeyRow, ref)
    if key is not None and access.sees(actor, key.project_id, "accesskey.list"):
        return _Who(accesskey.actor_of(key), f"access key {key.id}")
    raise NotFound(
        "token", ref, hint="`isthmus token list` and `isthmus accesskey list` show who there is; `me` is you"
    )


def _what(session: Session, actor: Actor, who: Actor, action: str, ref: str | None) -> _What:
    """The thing, as the caller (not ``who``) sees it."""
    if ref is None:
        home = session.get(ProjectRow, who.project_id)
        return _What(f"project {home.name}" if home else "no project", who.project_id or None, True)
    noun, colon, rest = ref.partition(":")
    if colon and noun in KINDS:
        return _thing(session, actor, who, noun, rest)
    own = action.split(".")[0]
    for kind in dict.fromkeys([own, "project"]):
        try:
            if kind in KINDS:
                return _thing(session, actor, who, kind, ref)
        except NotFound:
            continue
    kinds = f"{own} or project" if own in KINDS and own != "project" else "project"
    raise NotFound(
        own if own in KINDS else "project",
        ref,
        hint=f"give the name or id of a {kinds}, or NOUN:REF, such as vm:web",
    )


def _thing(session: Session, actor: Actor, who: Actor, noun: str, ref: str) -> _What:
    row: Any
    if noun == "host":
        row = host.find(session, ref)
        return _What(f"host {row.site.name}/{row.name}", None, False)
    kind = KINDS[noun]
    columns = [column for column in ("id", "name") if hasattr(kind, column)]
    query = select(kind).where(or_(*(getattr(kind, column) == ref for column in columns)))
    see = f"{noun}.get" if f"{noun}.get" in PERMISSIONS else f"{noun}.list"
    ownable = kind is ProjectRow or hasattr(kind, "project_id") or hasattr(kind, "vm_id")
    offered = hasattr(kind, "visibility")
    if offered:
        query = access.offered(query, actor, kind, see)
    elif kind is GatewayRow:
        query = gateway.offered(query, actor, see)
    elif kind is ProjectRow or hasattr(kind, "project_id"):
        query = access.visible(query, actor, ProjectRow.id if kind is ProjectRow else kind, see)
    found = list(session.scalars(query.limit(100)))
    found = [
        row for row in found if offered or not ownable or access.sees(actor, _project_of(session, row), see)
    ]
    # A name is first one of the project that ``who`` works in, and of what lives.
    found = [row for row in found if getattr(row, "id", None) == ref] or found
    found = [row for row in found if getattr(row, "state", None) != VMState.TERMINATED] or found
    found = [row for row in found if _project_of(session, row) == who.project_id] or found
    if not found:
        raise NotFound(noun, ref)
    if len(found) > 1:
        raise InvalidRequest(f"several things of the kind {noun} are named {ref!r}", hint="give an id")
    row = found[0]
    name = getattr(row, "name", None) or row.id
    owner = _project_of(session, row) if ownable else None
    return _What(
        f"{noun} {name}",
        owner,
        ownable and not (offered and owner is None),
        role=row.role if kind in (TokenRow, AccessKeyRow) else None,
    )


def _project_of(session: Session, row: Any) -> str | None:
    if isinstance(row, ProjectRow):
        return row.id
    if hasattr(row, "project_id"):
        found: str | None = row.project_id
        return found
    if hasattr(row, "vm_id"):
        owner = session.get(VMRow, row.vm_id)
        return owner.project_id if owner is not None else None
    return None


def _project_names(session: Session, ids: Sequence[str]) -> dict[str, str]:
    found = session.execute(select(ProjectRow.id, ProjectRow.name).where(ProjectRow.id.in_(ids)))
    return {project_id: name for project_id, name in found}  # noqa: C416 - a Row is no pair to the type checker
