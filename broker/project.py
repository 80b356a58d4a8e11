"""Projects: whose VMs they are, and how many there may be."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from broker import event
from broker.actor import ADMIN, READER, Actor
from broker.broker import Broker
from broker.errors import Exists, InUse, NotFound, QuotaExceeded, TokenMismatch
from broker.store import IdempotencyRow, ProjectRow, UsageMonthRow, UsageRow, VMRow


def account_of(project_id: str) -> str:
    """The project's twelve-digit account in the EC2 face, derived from its id."""
    return f"{int(hashlib.sha256(project_id.encode()).hexdigest(), 16) % 10**12:012d}"


def create(
    broker: Broker,
    actor: Actor,
    *,
    name: str,
    quota_vms: int | None = None,
    quota_vcpus: int | None = None,
    quota_mem_mb: int | None = None,
) -> ProjectRow:
    """A new project. Admins only. Raises Exists."""
    actor.require(ADMIN)
    with broker.store.transaction() as session:
        if session.scalar(select(ProjectRow).where(ProjectRow.name == name)):
            raise Exists("project", name)
        project_id = broker.new_id("prj")
        row = ProjectRow(
            id=project_id,
            name=name,
            account=account_of(project_id),
            quota_vms=quota_vms,
            quota_vcpus=quota_vcpus,
            quota_mem_mb=quota_mem_mb,
            created_at=broker.clock.now(),
        )
        session.add(row)
        event.record(broker, session, "project.created", row.id, f"project {name} created by {actor.name}")
    return row


def find(session: Session, actor: Actor, ref: str, *, lock: bool = False) -> ProjectRow:
    """A project by id or name that the caller may see; ``lock`` holds it for this transaction. Raises NotFound."""
    query = select(ProjectRow).where((ProjectRow.id == ref) | (ProjectRow.name == ref))
    if lock:
        query = query.with_for_update()
    row = session.scalar(query)
    if row is None or not (actor.is_admin or row.id == actor.project_id):
        raise NotFound("project", ref)
    return row


def get(broker: Broker, actor: Actor, ref: str) -> ProjectRow:
    """One project. Raises NotFound."""
    actor.require(READER)
    with broker.store.reading() as session:
        return find(session, actor, ref)


def list_projects(broker: Broker, actor: Actor) -> Sequence[ProjectRow]:
    """All projects for admins, their own for others; by name."""
    actor.require(READER)
    query = select(ProjectRow).order_by(ProjectRow.name)
    if not actor.is_admin:
        query = query.where(ProjectRow.id == actor.project_id)
    with broker.store.reading() as session:
        return list(session.scalars(query))


def delete(broker: Broker, actor: Actor, ref: str) -> None:
    """Remove a project that never had a VM. Raises InUse, NotFound."""
    actor.require(ADMIN)
    with broker.store.transaction() as session:
        row = find(session, actor, ref)
        if row.id == actor.project_id:
            raise InUse("this is your own project", hint="use a token of another project")
        if any(
            session.scalar(select(noun.project_id).where(noun.project_id == row.id).limit(1))
            for noun in (VMRow, UsageRow, UsageMonthRow)
        ):
            raise InUse(
                f"project {row.name} has VMs or a history of them",
                hint="projects with a history stay for audit",
            )
        event.record(
            broker, session, "project.deleted", row.id, f"project {row.name} deleted by {actor.name}"
        )
        session.delete(row)


def check_quota(session: Session, project: ProjectRow, *, vms: int, vcpus: int, mem_mb: int) -> None:
    """Raise QuotaExceeded when the project, which the caller has locked, may not have that much more."""
    used = session.execute(
        select(
            func.count(), func.coalesce(func.sum(VMRow.vcpus), 0), func.coalesce(func.sum(VMRow.mem_mb), 0)
        ).where(VMRow.project_id == project.id, VMRow.state != "terminated")
    ).one()
    limits = (
        ("VMs", project.quota_vms, used[0], vms),
        ("vCPUs", project.quota_vcpus, used[1], vcpus),
        ("MiB of memory", project.quota_mem_mb, used[2], mem_mb),
    )
    for noun, limit, have, more in limits:
        if limit is not None and have + more > limit:
            raise QuotaExceeded(
                f"project {project.name} may have {limit} {noun}, has {have} and asks for {more} more",
                hint="delete VMs, or ask an admin for a larger quota",
            )


def fingerprint(request: Any) -> str:
    """A digest of a request, to tell a repeated call from another one under the same token."""
    return hashlib.sha256(json.dumps(request, sort_keys=True, default=str).encode()).hexdigest()


def replay(session: Session, project_id: str, token: str | None, print_of_request: str) -> list[str] | None:
    """The ids that this token made before, or None when it is new. Raises TokenMismatch for another request."""
    if not token:
        return None
    row = session.get(IdempotencyRow, (project_id, token))
    if row is None:
        return None
    if row.fingerprint != print_of_request:
        raise TokenMismatch(
            "this idempotency key was used before with another request",
            hint="use a new key for a new request",
        )
    return row.resources


def remember(
    broker: Broker,
    session: Session,
    project_id: str,
    token: str | None,
    print_of_request: str,
    resources: list[str],
) -> None:
    """Remember what this token made."""
    if token:
        session.add(
            IdempotencyRow(
                project_id=project_id,
                key=token,
                fingerprint=print_of_request,
                resources=resources,
                created_at=broker.clock.now(),
            )
        )
