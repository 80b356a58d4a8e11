"""VMs: what a caller may ask of them. Each change is a row and an operation, written in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Select, func, literal_column, select, tuple_
from sqlalchemy.orm import Session, aliased, joinedload

from broker import access, event, label, nic, operation, site
from broker import capability as capabilities
from broker.actor import Actor
from broker.broker import Broker
from broker.errors import (
    NotFound,
    Unavailable,
    WrongState,
)
from broker.size import Size
from broker.states import OperationState, VMState
from broker.store import (
    Columns,
    HostRow,
    ImageRow,
    LabelRow,
    OperationRow,
    ProjectRow,
    SiteRow,
    VMRow,
)
from providers.port import Capability, ProviderError, require
from providers.port import NotFound as ProviderNotFound

Q = TypeVar("Q", bound=Select[*tuple[Any, ...]])


def find(session: Session, actor: Actor, ref: str, *, lock: bool = False) -> VMRow:
    """A VM by id, or by name among the living of the caller's project. Raises NotFound."""
    query = select(VMRow).where(
        (VMRow.id == ref)
        | ((VMRow.name == ref) & (VMRow.state != VMState.TERMINATED) & (VMRow.project_id == actor.project_id))
    )
    if lock:
        query = query.with_for_update(of=VMRow)
    row = session.scalar(query)
    if row is None or not access.sees(actor, row.project_id, "vm.get"):
        raise NotFound("vm", ref)
    return row


def get(broker: Broker, actor: Actor, ref: str) -> VMRow:
    """One VM. Raises NotFound."""
    access.require(actor, "vm.get")
    with broker.store.reading() as session:
        return find(session, actor, ref)


def list_vms(
    broker: Broker,
    actor: Actor,
    *,
    ids: Sequence[str] | None = None,
    name: str | None = None,
    state: str | None = None,
    site_ref: str | None = None,
    labels: label.Wanted | None = None,
    titles: Sequence[str] | None = None,
    only: Mapping[str, Sequence[str]] | None = None,
    include_terminated: bool = False,
    ended_after: datetime | None = None,
    all_projects: bool = False,
    after: str | tuple[datetime, str] | None = None,
    limit: int = 1000,
) -> Sequence[VMRow]:
    """VMs of the caller's project by age, oldest first; ``after`` is the last id of the page before, or when that was
    created and its id: then it may be gone meanwhile.

    ``ids``, ``titles``, ``labels`` and ``only`` as in ``listing.Which``.
    ``ended_after``: also those that terminated since. Raises NotFound when ``after`` is the id of no VM.
    """
    access.require(actor, "vm.list")
    # What hosts report of themselves is large, and in a list of VMs nobody reads it.
    lean = joinedload(VMRow.host).defer(HostRow.attributes)
    with broker.store.reading() as session:
        query = _listed(
            session,
            actor,
            select(VMRow).options(lean),
            ids=ids,
            name=name,
            state=state,
            site_ref=site_ref,
            labels=labels,
            titles=titles,
            only=only,
            include_terminated=include_terminated,
            ended_after=ended_after,
            all_projects=all_projects,
            after=after,
        )
        return list(session.scalars(query.limit(limit)))


_WANTED = aliased(SiteRow)
_COLUMNS = Columns(
    *(
        getattr(VMRow, name)
        for name in (
            *("id", "name", "state", "status_reason", "flavor", "elastic", "public_address", "key_pair"),
            *("requirements", "rank", "priority", "runtime_s", "deadline", "affinity"),
            *("preemptible", "immediate", "interruptions", "provider_ref"),
            *("created_at", "launched_at", "enrolled_at", "terminated_at"),
            *(field.name for field in fields(Size)),
        )
    ),
    func.coalesce(VMRow.labels, literal_column("'{}'")).label("labels"),
    VMRow.reservation_id.label("reservation"),
    VMRow.operation_id.label("operation"),
    ProjectRow.name.label("project"),
    ImageRow.name.label("image"),
    SiteRow.name.label("site"),
    HostRow.name.label("host"),
    _WANTED.name.label("site_wanted"),
    nic.SHOWN.label("nics"),
)
# Outer joins, so that a database begins with the VMs, in the order of their age, and sorts nothing.
_WITH_NAMES = (
    select(VMRow.id)
    .select_from(VMRow)
    .outerjoin(ProjectRow, ProjectRow.id == VMRow.project_id)
    .outerjoin(ImageRow, ImageRow.id == VMRow.image_id)
    .outerjoin(SiteRow, SiteRow.id == VMRow.site_id)
    .outerjoin(HostRow, HostRow.id == VMRow.host_id)
    .outerjoin(_WANTED, _WANTED.id == VMRow.site_wanted_id)
)


def page(
    broker: Broker,
    actor: Actor,
    *,
    name: str | None = None,
    state: str | None = None,
    site_ref: str | None = None,
    labels: label.Wanted | None = None,
    include_terminated: bool = False,
    after: str | None = None,
    limit: int = 100,
) -> str:
    """As ``list_vms``, for those who only show them: no rows are made of what is read.

    A JSON array. Of each VM the columns that users see, by the names that they have in the API: ``operation`` and
    ``reservation`` are ids, ``project``, ``image``, ``site``, ``host`` and ``site_wanted`` names, ``nics`` as ``nic.SHOWN``.
    """
    access.require(actor, "vm.list")
    with broker.store.reading() as session:
        query = _listed(
            session,
            actor,
            _WITH_NAMES,
            name=name,
            state=state,
            site_ref=site_ref,
            labels=labels,
            include_terminated=include_terminated,
            after=after,
        )
        return _COLUMNS.text(session, query.limit(limit))


def _listed(
    session: Session,
    actor: Actor,
    query: Q,
    *,
    ids: Sequence[str] | None = None,
    name: str | None = None,
    state: str | None = None,
    site_ref: str | None = None,
    labels: label.Wanted | None = None,
    titles: Sequence[str] | None = None,
    only: Mapping[str, Sequence[str]] | None = None,
    include_terminated: bool = False,
    ended_after: datetime | None = None,
    all_projects: bool = False,
    after: str | tuple[datetime, str] | None = None,
) -> Q:
    # Of an expression SQLite has no index: it begins with the label's instead of reading all VMs of the project.
    owner = VMRow.project_id.concat("") if labels else VMRow.project_id
    query = access.visible(query, actor, owner, "vm.list", here=not all_projects)
    query = query.order_by(VMRow.created_at, VMRow.id)
    if ids is not None:
        query = query.where(VMRow.id.in_(ids))
    if ended_after is not None:
        query = query.where(lately(ended_after))
    elif not include_terminated and state != VMState.TERMINATED:
        query = query.where(VMRow.state != VMState.TERMINATED)
    if name:
        query = query.where(VMRow.name == name)
    if state:
        query = query.where(VMRow.state == state)
    for column, values in (only or {}).items():
        query = query.where(getattr(VMRow, column).in_(values))
    if titles is not None:
        labelled = select(LabelRow.resource).where(LabelRow.key == "Name", LabelRow.value.in_(titles))
        query = query.where(VMRow.name.in_(titles) | VMRow.id.in_(labelled))
    if site_ref:
        query = query.where(VMRow.site_id == site.find(session, site_ref).id)
    if isinstance(after, str):
        made = session.scalar(select(VMRow.created_at).where(VMRow.id == after))
        if made is None:
            raise NotFound("vm", after)
        after = made, after
    if after is not None:
        # One comparison, so that an index finds the place.
        query = query.where(tuple_(VMRow.created_at, VMRow.id) > after)
    return label.filter(query, VMRow, labels)


def lately(since: datetime) -> ColumnElement[bool]:
    """A condition for a query: the VM lives, or ended since."""
    return (VMRow.state != VMState.TERMINATED) | (VMRow.terminated_at >= since)


def set_labels(broker: Broker, actor: Actor, ref: str, labels: Mapping[str, str]) -> VMRow:
    """Replace a VM's labels. Raises InvalidRequest, NotFound."""
    access.require(actor, "vm.label")
    return change_labels(broker, actor, ref, lambda _labels: labels)


def change_labels(broker: Broker, actor: Actor, ref: str, change: label.Change) -> VMRow:
    """Make a VM's labels from those it has, so that two changes at once both count.

    Raises InvalidRequest, NotFound.
    """
    access.require(actor, "vm.label")
    with broker.store.transaction() as session:
        row = find(session, actor, ref)
        access.require(actor, "vm.label", row.project_id)
        label.change(broker, session, actor, row, change, project_id=row.project_id)
    return row


def begin(
    broker: Broker, session: Session, row: VMRow, kind: str, params: Mapping[str, Any] | None = None
) -> OperationRow:
    """Write an operation on a VM, in the caller's transaction, as the one in charge of it. Submit it after."""
    task = operation.add(
        broker,
        session,
        kind,
        row.id,
        project_id=row.project_id,
        site_id=row.site_id,
        params=dict(params or {}),
    )
    row.operation_id = task.id
    return task


def begin_preempt(broker: Broker, session: Session, row: VMRow, *, for_id: str, reason: str) -> OperationRow:
    """Write the operation that suspends a VM to make room, and resumes it when there is room again. Submit it after."""
    task = begin(broker, session, row, "vm.preempt", {"for": for_id, "reason": reason})
    set_state(broker, row, VMState.SUSPENDING, reason)
    event.record(
        broker,
        session,
        "vm.preempted",
        row.id,
        f"{row.name} is suspended: {reason}",
        project_id=row.project_id,
    )
    return task


def delete(broker: Broker, actor: Actor, ref: str, *, reason: str = "") -> tuple[VMRow, OperationRow]:
    """Delete a VM in whatever state it is; operations under way on it end. Deleting again changes nothing."""
    access.require(actor, "vm.delete")
    with broker.store.transaction() as session:
        row = find(session, actor, ref, lock=True)
        access.require(actor, "vm.delete", row.project_id)
        ended = row.operation_id
        task = begin_delete(broker, session, row, reason=reason or f"deleted by {actor.name}")
    if ended:
        broker.signals.set(f"{ended}.over")
    broker.submit(task)
    return row, task


def begin_delete(
    broker: Broker, session: Session, row: VMRow, *, reason: str, graceful: bool = False
) -> OperationRow:
    """Write a delete operation in the caller's transaction, or give the one that is there. Submit it after."""
    if row.desired == VMState.TERMINATED and row.operation_id:
        task = session.get(OperationRow, row.operation_id)
        if task is not None and task.kind == "vm.delete" and task.state != OperationState.FAILED:
            return task
    cancel(broker, session, row, "the VM is being deleted")
    task = begin(broker, session, row, "vm.delete", {"graceful": graceful, "reason": reason})
    row.desired = VMState.TERMINATED
    set_state(broker, row, VMState.SHUTTING_DOWN, reason)
    event.record(
        broker,
        session,
        "vm.deleting",
        row.id,
        f"{row.name} is being deleted: {reason}",
        project_id=row.project_id,
    )
    return task


def begin_return(broker: Broker, session: Session, row: VMRow, *, reason: str) -> OperationRow:
    """Write the operation that takes a burst VM out of its cloud and creates it anew at home. Submit it after."""
    task = begin(broker, session, row, "vm.return", {"reason": reason})
    row.local_only = True
    set_state(broker, row, VMState.STOPPING, reason)
    event.record(
        broker, session, "vm.returning", row.id, f"{row.name} comes home: {reason}", project_id=row.project_id
    )
    return task


def begin_relaunch(broker: Broker, session: Session, row: VMRow, *, reason: str) -> OperationRow:
    """Write the operation that creates a VM anew which its cloud took back. Submit it after."""
    task = begin(broker, session, row, "vm.relaunch", {"reason": reason})
    row.interruptions += 1
    set_state(broker, row, VMState.PENDING, reason)
    event.record(
        broker,
        session,
        "vm.interrupted",
        row.id,
        f"{row.name} was taken back by its cloud ({reason}); launching it again",
        project_id=row.project_id,
        interruptions=row.interruptions,
    )
    return task


def console(broker: Broker, actor: Actor, ref: str) -> str:
    """The newest 64 KiB of the serial console. Raises NotFound, WrongState, Unavailable."""
    access.require(actor, "vm.console")
    row = get(broker, actor, ref)
    access.require(actor, "vm.console", row.project_id)
    if row.site is None or row.host is None or row.provider_ref is None:
        raise WrongState(f"{row.name} runs nowhere yet", hint=f"`isthmus vm why {row.name}` says why")
    capabilities.check(broker, row.site, Capability.CONSOLE, row.name)
    provider = require(broker.providers.of(row.site), Capability.CONSOLE)
    try:
        text = provider.console_log(row.host.name, row.provider_ref)
    except ProviderNotFound:
        return ""
    except ProviderError as error:
        raise Unavailable(str(error), hint="try again later") from error
    return text.decode("utf-8", "replace")


def set_state(broker: Broker, row: VMRow, state: VMState, reason: str = "") -> None:
    """Change the state on the wire, with the reason in words."""
    if row.state != state:
        row.state, row.state_at = state, broker.clock.now()
    row.status_reason = reason
    if state == VMState.TERMINATED:
        row.terminated_at = broker.clock.now()


def busy(session: Session, row: VMRow) -> OperationRow | None:
    """The operation under way on a VM, or None."""
    task = session.get(OperationRow, row.operation_id) if row.operation_id else None
    return task if task is not None and task.state == OperationState.RUNNING else None


def attributes(row: VMRow) -> dict[str, Any]:
    """What expressions read as ``vm.*``."""
    return {
        "id": row.id,
        "name": row.name,
        "project": row.project.name,
        "image": row.image.name,
        "flavor": row.flavor,
        **row.size.attributes,
        "labels": dict(row.labels),
        "priority": float(row.priority),
        "preemptible": row.preemptible,
        "runtime_s": row.runtime_s,
        "deadline": row.deadline.timestamp() if row.deadline else None,
    }


def cancel(broker: Broker, session: Session, row: VMRow, why: str) -> None:
    live = select(OperationRow).where(
        OperationRow.target == row.id, OperationRow.state == OperationState.RUNNING
    )
    for task in session.scalars(live.with_for_update(of=OperationRow)):
        # Its claim stays as it is: the driver that holds it may be in the middle of a call to a provider,
        # and "settle" waits until that claim is given back or runs out.
        task.state, task.message, task.ended_at = OperationState.CANCELLED, why, broker.clock.now()
