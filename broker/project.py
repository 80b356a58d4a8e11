"""Projects: whose VMs they are, and how many there may be."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from broker import access, event, label
from broker.actor import Actor
from broker.broker import Broker
from broker.errors import Exists, InUse, NotFound, QuotaExceeded
from broker.size import WORDS, Amounts, over_quota
from broker.states import ImageState
from broker.store import LABELS, ImageRow, KeyPairRow, NetworkRow, ProjectRow, UsageMonthRow, UsageRow, VMRow


def account_of(project_id: str) -> str:
    """The project's twelve-digit account in the EC2 face, derived from its id."""
    return f"{int(hashlib.sha256(project_id.encode()).hexdigest(), 16) % 10**12:012d}"


def create(
    broker: Broker,
    actor: Actor,
    *,
    name: str,
    quota: Mapping[str, int | None] | None = None,
    labels: Mapping[str, str] | None = None,
) -> ProjectRow:
    """A new project; ``quota``: an amount of ``broker.size.AMOUNTS`` -> its limit. Admins only. Raises Exists."""
    access.require(actor, "project.create")
    with broker.store.transaction() as session:
        if session.scalar(select(ProjectRow).where(ProjectRow.name == name)):
            raise Exists("project", name)
        project_id = broker.new_id("prj")
        row = ProjectRow(
            id=project_id,
            name=name,
            account=account_of(project_id),
            **{f"quota_{name}": limit for name, limit in (quota or {}).items()},
            created_at=broker.clock.now(),
        )
        session.add(row)
        label.give(session, row, labels)
        event.record(broker, session, "project.created", row.id, f"project {name} created by {actor.name}")
    return row


def find(session: Session, actor: Actor, ref: str, *, lock: bool = False) -> ProjectRow:
    """A project by id or name that the caller may see; ``lock`` holds it for this transaction. Raises NotFound."""
    query = select(ProjectRow).where((ProjectRow.id == ref) | (ProjectRow.name == ref))
    if lock:
        query = query.with_for_update()
    row = session.scalar(query if lock else query.options(LABELS))
    if row is None or not access.sees(actor, row.id, "project.get"):
        raise NotFound("project", ref)
    return row


def get(broker: Broker, actor: Actor, ref: str) -> ProjectRow:
    """One project. Raises NotFound."""
    access.require(actor, "project.get")
    with broker.store.reading() as session:
        return find(session, actor, ref)


def list_projects(
    broker: Broker, actor: Actor, *, labels: Mapping[str, str] | None = None
) -> Sequence[ProjectRow]:
    """All projects for admins, their own for others; those that carry these labels, by name."""
    access.require(actor, "project.list")
    query = access.visible(select(ProjectRow).order_by(ProjectRow.name), actor, ProjectRow.id, "project.list")
    with broker.store.reading() as session:
        return list(session.scalars(label.filter(query.options(LABELS), ProjectRow, labels)))


def delete(broker: Broker, actor: Actor, ref: str) -> None:
    """Remove a project that never had a VM. Raises InUse, NotFound."""
    access.require(actor, "project.delete")
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
        images = select(ImageRow).where(ImageRow.project_id == row.id, ImageRow.state != ImageState.DELETED)
        owned = session.scalar(images.limit(1))
        if owned is not None:
            raise InUse(
                f"project {row.name} has the image {owned.name}",
                hint=f"`isthmus image delete {owned.id}` first",
            )
        network = session.scalar(select(NetworkRow).where(NetworkRow.project_id == row.id).limit(1))
        if network is not None:
            raise InUse(
                f"project {row.name} has the network {network.name}",
                hint=f"`isthmus network delete {network.id}` first",
            )
        event.record(
            broker, session, "project.deleted", row.id, f"project {row.name} deleted by {actor.name}"
        )
        # Its key pairs go by cascade.
        keys = select(KeyPairRow.id).where(KeyPairRow.project_id == row.id)
        label.remove(session, session.scalars(keys).all())
        session.delete(row)


def check_quota(
    project: ProjectRow,
    more: Amounts,
    *,
    have: Amounts | None = None,
    verb: str = "has",
    instead: str = "delete VMs",
) -> None:
    """Raise QuotaExceeded when the project, which the caller has locked, may not have so much more than it ``have``; by default
    than what its VMs use. ``verb`` and ``instead`` say how it has that, and what to do."""
    have = project.used if have is None else have
    over = over_quota(project.quota, have, more)
    if over is not None:
        raise QuotaExceeded(
            f"project {project.name} may have {project.quota[over]} {WORDS[over]}, {verb} {getattr(have, over)} "
            f"and asks for {getattr(more, over)} more",
            hint=f"{instead}, or ask an admin for a larger quota",
        )
