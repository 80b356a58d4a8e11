"""Who may do what: the table of permissions, and the few questions that are asked of it.

Every public function of this package that takes a caller first asks for its permission here, with ``require``; lists and
finds go through ``visible`` and ``sees``. Nobody else compares roles: no noun, and no face. A new noun adds its rows to
``PERMISSIONS``; a new role is added to the sets of roles, and no noun is touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from sqlalchemy import Select, case

from broker.actor import ADMIN, EVERY_PROJECT, GATEWAY, MEMBER, READER, Actor
from broker.errors import Forbidden, InvalidRequest
from broker.states import Visibility

ROLES: Mapping[str, str] = {
    READER: "Sees what is of its project, and what is everybody's.",
    MEMBER: "Reads, and makes, changes and deletes what is of its project.",
    ADMIN: "Everything, in every project.",
    GATEWAY: "A gateway's agent: its own document and its own peers.",
}
"""The roles there are, the least first."""

GIVEN = (READER, MEMBER, ADMIN)
"""The roles that tokens and access keys are made with. That of an agent comes with its gateway."""

READERS = frozenset({READER, MEMBER, ADMIN})
MEMBERS = frozenset({MEMBER, ADMIN})
ADMINS = frozenset({ADMIN})
AGENTS = frozenset({GATEWAY})


class Scope(StrEnum):
    """Where a grant must be for its role to count."""

    PROJECT = "project"
    """In the project of the thing, or in the one where it is made."""
    ANY = "any"
    """In any project: what is asked for belongs to none."""
    BROKER = "broker"
    """In every project: what is done concerns all of them."""
    GATEWAY = "gateway"
    """In any project, and for the actor's own gateway only."""


@dataclass(frozen=True)
class Permission:
    """What is needed to do one thing. ``line`` says what it is, for people."""

    scope: Scope
    roles: frozenset[str]
    line: str

    @property
    def in_order(self) -> tuple[str, ...]:
        """The roles that have it, the least first."""
        return tuple(role for role in ROLES if role in self.roles)

    @property
    def least(self) -> str:
        """The least of the roles that have it."""
        return self.in_order[0]


PERMISSIONS: Mapping[str, Permission] = {
    "accesskey.create": Permission(Scope.PROJECT, MEMBERS, "Make an access key, of the own role at most."),
    "accesskey.list": Permission(Scope.PROJECT, MEMBERS, "See access keys, without their secrets."),
    "accesskey.delete": Permission(Scope.PROJECT, MEMBERS, "Revoke an access key, of the own role at most."),
    "auth.can": Permission(
        Scope.ANY, READERS, "Ask what one may; others than oneself only with `token.list`."
    ),
    "auth.permissions": Permission(Scope.ANY, READERS, "See this table."),
    "event.list": Permission(Scope.PROJECT, READERS, "See and follow events."),
    "expression.check": Permission(Scope.ANY, READERS, "Try a requirement or a rank on the hosts."),
    "flavor.create": Permission(Scope.BROKER, ADMINS, "Add a size."),
    "flavor.get": Permission(Scope.ANY, READERS, "See a size."),
    "flavor.list": Permission(Scope.ANY, READERS, "See all sizes."),
    "flavor.delete": Permission(Scope.BROKER, ADMINS, "Remove a size."),
    "gateway.create": Permission(Scope.BROKER, ADMINS, "Add a gateway, with its agent's token."),
    "gateway.get": Permission(Scope.ANY, READERS, "See a gateway of a network that one sees."),
    "gateway.list": Permission(
        Scope.ANY, READERS, "See the gateways of networks that one sees, and how many peers each has."
    ),
    "gateway.renew_token": Permission(Scope.BROKER, ADMINS, "Give a gateway's agent another token."),
    "gateway.delete": Permission(Scope.BROKER, ADMINS, "Remove a gateway."),
    "gateway.register": Permission(Scope.GATEWAY, AGENTS, "Say the agent's key, and what it can."),
    "gateway.document": Permission(Scope.GATEWAY, AGENTS, "Read what the gateway must be."),
    "gateway.report": Permission(Scope.GATEWAY, AGENTS, "Say what was applied, and what peers sent."),
    "host.list": Permission(Scope.ANY, READERS, "See all hosts."),
    "host.get": Permission(Scope.ANY, READERS, "See a host."),
    "host.maintenance": Permission(Scope.BROKER, ADMINS, "Put a host into maintenance, or take it out."),
    "host.drain": Permission(Scope.BROKER, ADMINS, "Move all that runs on a host elsewhere."),
    "image.create": Permission(Scope.BROKER, ADMINS, "Import an image from a file on the broker."),
    "image.get": Permission(Scope.ANY, READERS, "See an image, of the project or shared."),
    "image.list": Permission(Scope.ANY, READERS, "See the project's images, and those that are shared."),
    "image.map": Permission(Scope.BROKER, ADMINS, "Say what an image is at a site."),
    "image.deprecate": Permission(Scope.BROKER, ADMINS, "Have an image's bare name no longer mean it."),
    "image.delete": Permission(Scope.BROKER, ADMINS, "Remove an image."),
    "keypair.create": Permission(Scope.PROJECT, MEMBERS, "Import an SSH public key."),
    "keypair.get": Permission(Scope.PROJECT, READERS, "See a key pair."),
    "keypair.list": Permission(Scope.PROJECT, READERS, "See all key pairs."),
    "keypair.delete": Permission(Scope.PROJECT, MEMBERS, "Forget a key pair."),
    "label.get": Permission(Scope.ANY, READERS, "See the labels of a thing."),
    "label.list": Permission(Scope.ANY, READERS, "See all labels."),
    "label.change": Permission(Scope.PROJECT, MEMBERS, "Change labels of what the project has."),
    "label.change_shared": Permission(Scope.BROKER, ADMINS, "Change labels of what all projects share."),
    "migration.rebalance": Permission(Scope.BROKER, ADMINS, "Plan and begin moves that pack or balance."),
    "network.create": Permission(Scope.BROKER, ADMINS, "Add a network."),
    "network.get": Permission(Scope.ANY, READERS, "See a network, of the project or shared."),
    "network.list": Permission(
        Scope.ANY, READERS, "See the project's networks and those that are shared, and what is leased."
    ),
    "network.delete": Permission(Scope.BROKER, ADMINS, "Remove a network."),
    "network.add_subnet": Permission(Scope.BROKER, ADMINS, "Give a site a part of a network."),
    "network.remove_subnet": Permission(Scope.BROKER, ADMINS, "Take a site's part of a network back."),
    "operation.get": Permission(Scope.PROJECT, READERS, "See an operation, and wait for its end."),
    "operation.list": Permission(Scope.PROJECT, READERS, "See operations."),
    "peer.enrol": Permission(Scope.GATEWAY, AGENTS, "Exchange a launch's bootstrap key for the VM's own."),
    "peer.list": Permission(Scope.PROJECT, READERS, "See the tunnel ends of VMs."),
    "policy.check": Permission(Scope.ANY, MEMBERS, "Look for mistakes in a policy file."),
    "policy.apply": Permission(Scope.BROKER, ADMINS, "Put a policy in force."),
    "policy.rehearse": Permission(Scope.BROKER, ADMINS, "See what a policy would do now."),
    "policy.get": Permission(Scope.ANY, READERS, "See the policy in force."),
    "policy.versions": Permission(Scope.ANY, READERS, "See the policies that were in force."),
    "project.create": Permission(Scope.BROKER, ADMINS, "Add a project, with its quota."),
    "project.get": Permission(Scope.PROJECT, READERS, "See a project."),
    "project.list": Permission(Scope.PROJECT, READERS, "See projects."),
    "project.delete": Permission(Scope.BROKER, ADMINS, "Remove a project that never had a VM."),
    "reservation.create": Permission(Scope.PROJECT, MEMBERS, "Reserve room on hosts."),
    "reservation.get": Permission(Scope.PROJECT, READERS, "See a reservation."),
    "reservation.list": Permission(Scope.PROJECT, READERS, "See reservations."),
    "reservation.delete": Permission(Scope.PROJECT, MEMBERS, "Give a reservation's room back."),
    "retention.totals": Permission(Scope.ANY, READERS, "See how many rows were pruned."),
    "site.create": Permission(Scope.BROKER, ADMINS, "Add a site, with its credentials."),
    "site.get": Permission(Scope.ANY, READERS, "See a site."),
    "site.list": Permission(Scope.ANY, READERS, "See all sites, and how many hosts each has."),
    "site.refresh": Permission(Scope.BROKER, ADMINS, "Look at a site now."),
    "site.delete": Permission(Scope.BROKER, ADMINS, "Remove a site."),
    "status.get": Permission(Scope.PROJECT, READERS, "See how the broker stands."),
    "status.budget": Permission(Scope.PROJECT, READERS, "See how the month's budget stands."),
    "token.create": Permission(Scope.PROJECT, MEMBERS, "Make a token, of the own role at most."),
    "token.list": Permission(Scope.PROJECT, MEMBERS, "See tokens, without their secrets."),
    "token.delete": Permission(
        Scope.PROJECT, MEMBERS, "Revoke a token; that of an admin or a gateway as an admin only."
    ),
    "usage.list": Permission(Scope.PROJECT, READERS, "See what was used, and what it cost."),
    "vm.create": Permission(Scope.PROJECT, MEMBERS, "Launch VMs."),
    "vm.get": Permission(Scope.PROJECT, READERS, "See a VM."),
    "vm.list": Permission(Scope.PROJECT, READERS, "See VMs."),
    "vm.label": Permission(Scope.PROJECT, MEMBERS, "Change a VM's labels."),
    "vm.start": Permission(Scope.PROJECT, MEMBERS, "Start a stopped VM."),
    "vm.stop": Permission(Scope.PROJECT, MEMBERS, "Stop a VM."),
    "vm.reboot": Permission(Scope.PROJECT, MEMBERS, "Reboot a VM."),
    "vm.suspend": Permission(Scope.PROJECT, MEMBERS, "Save a VM's memory and give its room back."),
    "vm.resume": Permission(Scope.PROJECT, MEMBERS, "Let a suspended VM go on."),
    "vm.migrate": Permission(Scope.BROKER, ADMINS, "Move a running VM to another host."),
    "vm.delete": Permission(Scope.PROJECT, MEMBERS, "Delete a VM."),
    "vm.console": Permission(Scope.PROJECT, READERS, "Read a VM's serial console."),
    "vm.why": Permission(Scope.PROJECT, READERS, "Ask why a VM is where it is."),
}
"""The table: ``noun.verb`` and what it needs."""


Q = TypeVar("Q", bound="Select[*tuple[Any, ...]]")


def require(actor: Actor, permission: str, project_id: str | None = None) -> None:
    """Raise Forbidden unless the actor has a permission of the table, in that project.

    Without a project some grant of the actor must have it. A function that changes one thing asks first without, before it
    looks for the thing, and with the thing's project when it has it. What is made is asked for in the actor's current project.
    """
    needed = PERMISSIONS[permission]
    if deciding(actor, permission, project_id) is not None:
        return
    if needed.scope == Scope.GATEWAY:
        raise Forbidden(
            "this is for gateways' agents", hint="use the token that `isthmus gateway create` printed"
        )
    own = actor.grants.get(project_id or "", actor.role)
    raise Forbidden(
        f"{permission} needs the role {needed.least!r}, and {actor.name!r} has {own!r}",
        hint=f"use a token with the role {needed.least!r}",
        details={"permission": permission, "role": needed.least},
    )


def require_role(actor: Actor, role: str, project_id: str) -> None:
    """Raise Forbidden unless the actor itself may all that a role may in a project: nobody gives away more than they have.

    Raises InvalidRequest for what is no role that can be given.
    """
    if role not in GIVEN:
        raise InvalidRequest(f"there is no role {role!r}", hint=f"roles are {', '.join(GIVEN)}")
    if not covers(actor, role, project_id):
        own = actor.grants.get(project_id, actor.role)
        raise Forbidden(
            f"this needs the role {str(role)!r}, and {actor.name!r} has {own!r}",
            hint=f"use a token with the role {str(role)!r}",
        )


def covers(actor: Actor, role: str, project_id: str) -> bool:
    """Whether the actor may all that a role may in a project. The role of an admin is had in every project, or not at all."""
    if actor.grants.get(EVERY_PROJECT) == ADMIN:
        return True
    mine = {permissions_of(held) for held in _roles_in(actor, project_id)}
    return role != ADMIN and permissions_of(role) <= frozenset[str]().union(*mine)


def permissions_of(role: str) -> frozenset[str]:
    """The names of all permissions that a role has."""
    return frozenset(name for name, needed in PERMISSIONS.items() if role in needed.roles)


def deciding(actor: Actor, permission: str, project_id: str | None = None) -> tuple[str, str] | None:
    """The grant (project id, role) that gives the actor a permission in that project, or None.

    Without a project that of the current one comes first, and any other will do.
    """
    needed = PERMISSIONS[permission]
    if needed.scope == Scope.BROKER:
        places = [EVERY_PROJECT]
    elif needed.scope == Scope.PROJECT and project_id is not None:
        places = [EVERY_PROJECT, project_id]
    else:
        places = [EVERY_PROJECT, actor.project_id, *actor.grants]
    return next(
        ((place, actor.grants[place]) for place in places if actor.grants.get(place) in needed.roles), None
    )


def everywhere(actor: Actor, permission: str) -> bool:
    """Whether the actor has a permission in every project."""
    return actor.grants.get(EVERY_PROJECT) in PERMISSIONS[permission].roles


def sees(actor: Actor, project_id: str | None, permission: str) -> bool:
    """Whether the actor has a permission in the project of a thing; in every project, for a thing of none."""
    return everywhere(actor, permission) or project_id in _projects(actor, permission)


def visible(query: Q, actor: Actor, column: Any, permission: str, *, here: bool = False) -> Q:
    """A query of those rows only on which the actor has a permission.

    ``column`` is the column of the project's id, or a row's class that has one of that name. ``here`` keeps to the actor's
    current project.
    """
    where = getattr(column, "project_id", column)
    if here:
        query = query.where(where == actor.project_id)
    if everywhere(actor, permission):
        return query
    projects = _projects(actor, permission)
    return query.where(where == projects[0] if len(projects) == 1 else where.in_(projects))


def offered(query: Q, actor: Actor, kind: Any, permission: str, *, here: bool = False) -> Q:
    """A query of those rows only that are shared with all projects, or on which the actor has a permission.

    ``kind`` is a row's class with a ``project_id`` and a ``visibility``. ``here`` keeps to what is shared and what the
    actor's current project has: for what is to be used there, also by those who see more.
    """
    if here:
        return query.where(_shared(kind) | (kind.project_id == actor.project_id))
    if everywhere(actor, permission):
        return query
    return query.where(_shared(kind) | kind.project_id.in_(_projects(actor, permission)))


def nearest(actor: Actor, kind: Any, ref: str) -> tuple[Any, Any]:
    """In which order rows that are offered answer to one name or id: that of the id, then what the actor's current project has,
    what is the broker's own, and what other projects share. ``kind`` as in ``offered``, with an ``id``."""
    near = case(
        (kind.id == ref, 0),
        (kind.project_id == actor.project_id, 1),
        (kind.project_id.is_(None), 2),
        else_=3,
    )
    return near, kind.project_id


def _shared(kind: Any) -> Any:
    return kind.visibility == Visibility.SHARED


def _projects(actor: Actor, permission: str) -> list[str]:
    roles = PERMISSIONS[permission].roles
    return sorted(place for place, role in actor.grants.items() if role in roles and place != EVERY_PROJECT)


def _roles_in(actor: Actor, project_id: str) -> list[str]:
    return [actor.grants[place] for place in (EVERY_PROJECT, project_id) if place in actor.grants]
