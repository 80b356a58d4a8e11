"""VMs: what a caller may ask of them. Each change is a row and an operation, written in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, joinedload

from broker import (
    event,
    expression,
    flavor,
    image,
    keypair,
    network,
    operation,
    peer,
    project,
    reservation,
    site,
)
from broker.actor import MEMBER, READER, Actor
from broker.broker import Broker
from broker.errors import (
    Exists,
    InvalidRequest,
    NotFound,
    Unavailable,
    WrongState,
)
from broker.store import HostRow, NetworkRow, OperationRow, SubnetRow, VMRow
from providers.port import Capability, ProviderError
from providers.port import NotFound as ProviderNotFound
from vpn import address as addresses

PENDING = "pending"
RUNNING = "running"
STOPPING = "stopping"
STOPPED = "stopped"
SUSPENDING = "suspending"
SUSPENDED = "suspended"
MIGRATING = "migrating"
SHUTTING_DOWN = "shutting-down"
TERMINATED = "terminated"
ERROR = "error"

_MOST_USER_DATA = 16384
"""What EC2 takes, in bytes before base64 (RunInstances, ``UserData``)."""


@dataclass(frozen=True)
class Wishes:
    """How a VM stands in the queue, and to other VMs.

    ``runtime_s``: how long it will run, as its owner says; ``deadline``: when it must have run. ``affinity``: rules as in
    ``isthmus.schema.AffinityRule``. ``preemptible``: it may be suspended to make room for others. ``immediate``: it starts now
    or not at all. ``reservation``: name or
    id of the advance reservation in whose room it stands.
    """

    priority: int = 0
    runtime_s: float | None = None
    deadline: datetime | None = None
    affinity: Sequence[Mapping[str, Any]] = ()
    preemptible: bool = False
    immediate: bool = False
    reservation: str | None = None


def create(
    broker: Broker,
    actor: Actor,
    *,
    name: str | None,
    image_ref: str,
    flavor_ref: str,
    networks: Sequence[str] = (),
    address: str | None = None,
    key_pair: str | None = None,
    user_data: str = "",
    labels: Mapping[str, str] | None = None,
    requirements: str | None = None,
    rank: str | None = None,
    wishes: Wishes = Wishes(),
    token: str | None = None,
) -> tuple[VMRow, OperationRow]:
    """Ask for one VM: see ``create_many``."""
    return create_many(
        broker,
        actor,
        count=1,
        name=name,
        image_ref=image_ref,
        flavor_ref=flavor_ref,
        networks=networks,
        address=address,
        key_pair=key_pair,
        user_data=user_data,
        labels=labels,
        requirements=requirements,
        rank=rank,
        wishes=wishes,
        token=token,
    )[0]


def create_many(
    broker: Broker,
    actor: Actor,
    *,
    count: int,
    name: str | None,
    image_ref: str,
    flavor_ref: str,
    networks: Sequence[str] = (),
    address: str | None = None,
    key_pair: str | None = None,
    user_data: str = "",
    labels: Mapping[str, str] | None = None,
    requirements: str | None = None,
    rank: str | None = None,
    wishes: Wishes = Wishes(),
    token: str | None = None,
) -> list[tuple[VMRow, OperationRow]]:
    """Ask for ``count`` equal VMs, all or none, in one reservation. They are ``pending`` until a host is found.

    Without a name a VM is named by its id; several with a name get ``-1``, ``-2``... Without networks it joins
    the only network there is. The same ``token`` with the same request answers with the same VMs.
    Raises InvalidRequest, InvalidExpression, NotFound, Exists, QuotaExceeded, TokenMismatch.
    """
    actor.require(MEMBER)
    expression.check_text("requirements", requirements)
    expression.check_text("rank", rank)
    _check_user_data(user_data)
    _check_wishes(broker, wishes)
    if count < 1:
        raise InvalidRequest(f"{count} VMs cannot be made", hint="ask for one or more")
    if address is not None and count != 1:
        raise InvalidRequest("an address can be asked for by one VM only", hint="ask for one VM at a time")
    print_of_request = project.fingerprint(
        [
            count,
            name,
            image_ref,
            flavor_ref,
            list(networks),
            address,
            key_pair,
            user_data,
            dict(labels or {}),
            requirements,
            rank,
            *_said(wishes),
        ]
    )
    try:
        with broker.store.transaction() as session:
            # Locked, so that of two callers at once the second sees what the first took of the quota, or made.
            owner = project.find(session, actor, actor.project_id, lock=True)
            known = project.replay(session, actor.project_id, token, print_of_request)
            if known is not None:
                return [_with_operation(session, vm_id) for vm_id in known]
            size = flavor.find(session, flavor_ref)
            if wishes.preemptible and flavor.bound_by(size):
                raise InvalidRequest(
                    f"a VM with {flavor.bound_by(size)} cannot be preemptible: it is never suspended",
                    hint=f"leave --preemptible out, or choose another flavor than {size.name}",
                )
            base = image.find(session, image_ref)
            nets = _networks(session, networks)
            peer.check_networks(session, nets)
            if address is not None:
                _check_address(nets, address)
            if key_pair is not None:
                keypair.find(session, actor, key_pair)
            project.check_quota(
                session, owner, vms=count, vcpus=count * size.vcpus, mem_mb=count * size.mem_mb
            )
            now = broker.clock.now()
            booked = None
            if wishes.reservation is not None:
                booked = reservation.for_vm(session, actor, wishes.reservation, size)
            request_id = broker.new_id("r")
            made: list[tuple[VMRow, OperationRow]] = []
            for index in range(count):
                vm_id = broker.new_id("vm")
                vm_name = vm_id if name is None else name if count == 1 else f"{name}-{index + 1}"
                if session.scalar(
                    select(VMRow.id).where(
                        VMRow.project_id == owner.id, VMRow.name == vm_name, VMRow.state != TERMINATED
                    )
                ):
                    raise Exists("vm", vm_name)
                row = VMRow(
                    id=vm_id,
                    name=vm_name,
                    project_id=owner.id,
                    state=PENDING,
                    status_reason="",
                    desired=RUNNING,
                    image_id=base.id,
                    flavor=size.name,
                    vcpus=size.vcpus,
                    mem_mb=size.mem_mb,
                    disk_gb=size.disk_gb,
                    gpus=size.gpus,
                    dedicated_cpus=size.dedicated_cpus,
                    hugepages=size.hugepages,
                    site_id=None,
                    host_id=None,
                    elastic=False,
                    networks=[net.id for net in nets],
                    wanted_address=address,
                    public_address=None,
                    key_pair=key_pair,
                    sealed_user_data=broker.sealer.seal(user_data) if user_data else "",
                    labels=dict(labels or {}),
                    requirements=requirements,
                    rank=rank,
                    local_only=False,
                    priority=wishes.priority,
                    runtime_s=wishes.runtime_s,
                    deadline=wishes.deadline,
                    affinity=[dict(rule) for rule in wishes.affinity],
                    interruptions=0,
                    preemptible=wishes.preemptible,
                    immediate=wishes.immediate,
                    target_host_id=None,
                    reservation_id=booked.id if booked is not None else None,
                    provider_ref=None,
                    launch=0,
                    reservation=request_id,
                    operation_id=None,
                    created_at=now,
                    state_at=now,
                    launched_at=None,
                    enrolled_at=None,
                    terminated_at=None,
                )
                row.project, row.image, row.site, row.host = owner, base, None, None
                session.add(row)
                task = operation.add(broker, session, "vm.create", vm_id, phase="place", project_id=owner.id)
                row.operation_id = task.id
                event.record(
                    broker,
                    session,
                    "vm.requested",
                    vm_id,
                    f"{vm_name} ({size.name}, {base.name}) requested by {actor.name}",
                    project_id=owner.id,
                    # What a simulation needs to know of it.
                    project=owner.name,
                    vcpus=size.vcpus,
                    mem_mb=size.mem_mb,
                    disk_gb=size.disk_gb,
                    gpus=size.gpus,
                    dedicated_cpus=size.dedicated_cpus,
                    hugepages=size.hugepages,
                    requirements=requirements,
                    priority=wishes.priority,
                    preemptible=wishes.preemptible,
                    labels=dict(labels or {}),
                )
                session.flush()
                session.refresh(row, ["nics"])
                made.append((row, task))
            project.remember(broker, session, owner.id, token, print_of_request, [row.id for row, _ in made])
    except IntegrityError as error:
        # Two callers at once, on PostgreSQL: the one that lost sees what the winner made.
        if token:
            with broker.store.transaction() as session:
                known = project.replay(session, actor.project_id, token, print_of_request)
                if known is not None:
                    return [_with_operation(session, vm_id) for vm_id in known]
        raise Exists("vm", name or "?") from error
    broker.signals.set("place")
    for _, task in made:
        broker.submit(task.id)
    broker.signals.set("policy")
    return made


def find(session: Session, actor: Actor, ref: str, *, lock: bool = False) -> VMRow:
    """A VM by id, or by name among the living of the caller's project. Raises NotFound."""
    query = select(VMRow).where(
        (VMRow.id == ref)
        | ((VMRow.name == ref) & (VMRow.state != TERMINATED) & (VMRow.project_id == actor.project_id))
    )
    if lock:
        query = query.with_for_update(of=VMRow)
    row = session.scalar(query)
    if row is None or not (actor.is_admin or row.project_id == actor.project_id):
        raise NotFound("vm", ref)
    return row


def get(broker: Broker, actor: Actor, ref: str) -> VMRow:
    """One VM. Raises NotFound."""
    actor.require(READER)
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
    labels: Mapping[str, str] | None = None,
    include_terminated: bool = False,
    all_projects: bool = False,
    after: str | None = None,
    limit: int = 1000,
) -> Sequence[VMRow]:
    """VMs of the caller's project by age, oldest first; ``after`` is the last id of the page before.

    Labels must all match. Raises NotFound when ``after`` is no VM.
    """
    actor.require(READER)
    # What hosts report of themselves is large, and in a list of VMs nobody reads it.
    lean = joinedload(VMRow.host).defer(HostRow.attributes)
    query = select(VMRow).options(lean).order_by(VMRow.created_at, VMRow.id)
    if not (all_projects and actor.is_admin):
        query = query.where(VMRow.project_id == actor.project_id)
    if ids is not None:
        query = query.where(VMRow.id.in_(ids))
    if not include_terminated and state != TERMINATED:
        query = query.where(VMRow.state != TERMINATED)
    if name:
        query = query.where(VMRow.name == name)
    if state:
        query = query.where(VMRow.state == state)
    with broker.store.reading() as session:
        if site_ref:
            query = query.where(VMRow.site_id == site.find(session, site_ref).id)
        if after:
            last = session.get(VMRow, after)
            if last is None:
                raise NotFound("vm", after)
            query = query.where(
                (VMRow.created_at > last.created_at)
                | ((VMRow.created_at == last.created_at) & (VMRow.id > last.id))
            )
        found: list[VMRow] = []
        # Labels are matched here, not in SQL: JSON operators differ between the two databases.
        for row in session.scalars(query if labels else query.limit(limit)):
            if all(row.labels.get(key) == value for key, value in (labels or {}).items()):
                found.append(row)
                if len(found) >= limit:
                    break
        return found


def set_labels(broker: Broker, actor: Actor, ref: str, labels: Mapping[str, str]) -> VMRow:
    """Replace a VM's labels. Raises NotFound."""
    return change_labels(broker, actor, ref, lambda _labels: labels)


def change_labels(
    broker: Broker, actor: Actor, ref: str, change: Callable[[Mapping[str, str]], Mapping[str, str]]
) -> VMRow:
    """Make a VM's labels from those it has, so that two changes at once both count. Raises NotFound."""
    actor.require(MEMBER)
    with broker.store.transaction() as session:
        row = find(session, actor, ref, lock=True)
        labels = dict(change(row.labels))
        if labels != row.labels:
            row.labels = labels
            event.record(
                broker,
                session,
                "vm.labelled",
                row.id,
                f"{row.name} labelled by {actor.name}",
                project_id=row.project_id,
            )
    return row


def start(broker: Broker, actor: Actor, ref: str) -> tuple[VMRow, OperationRow]:
    """Start a stopped VM, or resume a suspended one; nothing changes when it runs. Raises NotFound, WrongState."""
    actor.require(MEMBER)
    if get(broker, actor, ref).state == SUSPENDED:
        return resume(broker, actor, ref)
    return _change(broker, actor, ref, "vm.start", desired=RUNNING, allowed=(STOPPED, RUNNING), via=PENDING)


def stop(broker: Broker, actor: Actor, ref: str, *, force: bool = False) -> tuple[VMRow, OperationRow]:
    """Ask the guest to shut down, and after a while (or at once with ``force``) pull the plug.

    Raises NotFound, WrongState: also for a suspended VM, whose room somebody else may have.
    """
    return _change(
        broker,
        actor,
        ref,
        "vm.stop",
        desired=STOPPED,
        allowed=(RUNNING, STOPPED),
        via=STOPPING,
        params={"force": force},
    )


def reboot(broker: Broker, actor: Actor, ref: str) -> tuple[VMRow, OperationRow]:
    """Reboot a running VM. Raises NotFound, WrongState."""
    return _change(broker, actor, ref, "vm.reboot", desired=RUNNING, allowed=(RUNNING,), via=RUNNING)


def suspend(broker: Broker, actor: Actor, ref: str) -> tuple[VMRow, OperationRow]:
    """Save a VM's memory on its host's disk and give its cores and memory back. Suspending again changes nothing.

    Raises NotFound, WrongState (it does not run, or its site cannot suspend).
    """
    actor.require(MEMBER)
    seen = get(broker, actor, ref)
    _check_capable(broker, seen, Capability.SUSPEND, "suspended")
    if flavor.bound_by(seen):
        raise WrongState(
            f"cannot suspend {seen.name}: it has {flavor.bound_by(seen)}",
            hint=f"`isthmus vm stop {seen.name}`",
        )
    return _change(
        broker,
        actor,
        ref,
        "vm.suspend",
        desired=SUSPENDED,
        allowed=(RUNNING, SUSPENDED),
        via=SUSPENDING,
        instead_of=("vm.preempt", "vm.resume"),
    )


def resume(broker: Broker, actor: Actor, ref: str) -> tuple[VMRow, OperationRow]:
    """Let a suspended VM go on where it was, as soon as its host has room. Raises NotFound, WrongState."""
    row, task = _change(
        broker,
        actor,
        ref,
        "vm.resume",
        desired=RUNNING,
        allowed=(SUSPENDED, RUNNING),
        via=SUSPENDED,
        instead_of=("vm.preempt",),
    )
    broker.signals.set("place")
    return row, task


def begin(
    broker: Broker, session: Session, row: VMRow, kind: str, params: Mapping[str, Any] | None = None
) -> OperationRow:
    """Write an operation on a VM, in the caller's transaction, as the one in charge of it. Submit it after."""
    task = operation.add(
        broker,
        session,
        kind,
        row.id,
        phase="settle",
        project_id=row.project_id,
        params=dict(params or {}),
    )
    row.operation_id = task.id
    return task


def begin_preempt(broker: Broker, session: Session, row: VMRow, *, for_id: str, reason: str) -> OperationRow:
    """Write the operation that suspends a VM to make room, and resumes it when there is room again. Submit it after."""
    task = begin(broker, session, row, "vm.preempt", {"for": for_id, "reason": reason})
    set_state(broker, row, SUSPENDING, reason)
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
    actor.require(MEMBER)
    with broker.store.transaction() as session:
        row = find(session, actor, ref, lock=True)
        ended = row.operation_id
        task = begin_delete(broker, session, row, reason=reason or f"deleted by {actor.name}")
    if ended:
        broker.signals.set(f"{ended}.over")
    broker.submit(task.id)
    return row, task


def begin_delete(
    broker: Broker, session: Session, row: VMRow, *, reason: str, graceful: bool = False
) -> OperationRow:
    """Write a delete operation in the caller's transaction, or give the one that is there. Submit it after."""
    if row.desired == TERMINATED and row.operation_id:
        task = session.get(OperationRow, row.operation_id)
        if task is not None and task.kind == "vm.delete" and task.state != operation.FAILED:
            return task
    _cancel(broker, session, row, "the VM is being deleted")
    task = begin(broker, session, row, "vm.delete", {"graceful": graceful, "reason": reason})
    row.desired = TERMINATED
    set_state(broker, row, SHUTTING_DOWN, reason)
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
    set_state(broker, row, STOPPING, reason)
    event.record(
        broker, session, "vm.returning", row.id, f"{row.name} comes home: {reason}", project_id=row.project_id
    )
    return task


def begin_relaunch(broker: Broker, session: Session, row: VMRow, *, reason: str) -> OperationRow:
    """Write the operation that creates a VM anew which its cloud took back. Submit it after."""
    task = begin(broker, session, row, "vm.relaunch", {"reason": reason})
    row.interruptions += 1
    set_state(broker, row, PENDING, reason)
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
    row = get(broker, actor, ref)
    if row.site is None or row.host is None or row.provider_ref is None:
        raise WrongState(f"{row.name} runs nowhere yet", hint=f"`isthmus vm why {row.name}` says why")
    provider = broker.providers.of(row.site)
    if Capability.CONSOLE not in provider.capabilities:
        raise WrongState(f"sites of kind {row.site.kind} show no console", hint="log in over SSH")
    try:
        text = provider.console_log(row.host.name, row.provider_ref)
    except ProviderNotFound:
        return ""
    except ProviderError as error:
        raise Unavailable(str(error), hint="try again later") from error
    return text.decode("utf-8", "replace")


def set_state(broker: Broker, row: VMRow, state: str, reason: str = "") -> None:
    """Change the state on the wire, with the reason in words."""
    if row.state != state:
        row.state, row.state_at = state, broker.clock.now()
    row.status_reason = reason
    if state == TERMINATED:
        row.terminated_at = broker.clock.now()


def busy(session: Session, row: VMRow) -> OperationRow | None:
    """The operation under way on a VM, or None."""
    task = session.get(OperationRow, row.operation_id) if row.operation_id else None
    return task if task is not None and task.state == operation.RUNNING else None


def attributes(row: VMRow) -> dict[str, Any]:
    """What expressions read as ``vm.*``."""
    return {
        "id": row.id,
        "name": row.name,
        "project": row.project.name,
        "image": row.image.name,
        "flavor": row.flavor,
        "vcpus": float(row.vcpus),
        "mem_mb": float(row.mem_mb),
        "disk_gb": float(row.disk_gb),
        "gpus": float(row.gpus),
        "dedicated_cpus": row.dedicated_cpus,
        "hugepages": row.hugepages,
        "labels": dict(row.labels),
        "priority": float(row.priority),
        "preemptible": row.preemptible,
        "runtime_s": row.runtime_s,
        "deadline": row.deadline.timestamp() if row.deadline else None,
    }


def _change(
    broker: Broker,
    actor: Actor,
    ref: str,
    kind: str,
    *,
    desired: str,
    allowed: tuple[str, ...],
    via: str,
    params: dict[str, Any] | None = None,
    instead_of: Sequence[str] = (),
) -> tuple[VMRow, OperationRow]:
    """Write the operation. One of a kind ``instead_of`` that waits for room, with its VM suspended, makes way for it."""
    actor.require(MEMBER)
    verb = kind.split(".")[1]
    with broker.store.transaction() as session:
        row = find(session, actor, ref, lock=True)
        under_way = busy(session, row)
        if under_way is not None and under_way.kind == kind:
            return row, under_way
        if under_way is not None and under_way.kind in instead_of and row.state == SUSPENDED:
            _cancel(broker, session, row, f"{verb} asked by {actor.name}")
            under_way = None
        if under_way is not None:
            raise WrongState(
                f"cannot {verb} {row.name}: {under_way.kind} is under way ({under_way.phase})",
                hint=f"`isthmus operation wait {under_way.id}`, then try again",
            )
        if row.state not in allowed:
            raise WrongState(
                f"cannot {verb} {row.name}: it is {row.state}",
                hint=f"a VM must be {' or '.join(allowed)} for that",
            )
        task = begin(broker, session, row, kind, params)
        row.desired = desired
        if row.state != desired:
            set_state(broker, row, via, f"{verb} asked by {actor.name}")
        event.record(
            broker,
            session,
            f"{kind}.requested",
            row.id,
            f"{verb} of {row.name} asked by {actor.name}",
            project_id=row.project_id,
        )
    broker.submit(task.id)
    return row, task


def _check_capable(broker: Broker, row: VMRow, capability: Capability, done: str) -> None:
    if row.site is not None and capability not in broker.providers.of(row.site).capabilities:
        raise WrongState(
            f"{row.name} cannot be {done}: sites of kind {row.site.kind} do not do that"
            + (" in a cloud" if row.elastic else ""),
            hint="`isthmus vm stop` gives its room back where it can be stopped"
            if done == "suspended"
            else "",
        )


def _cancel(broker: Broker, session: Session, row: VMRow, why: str) -> None:
    live = select(OperationRow).where(OperationRow.target == row.id, OperationRow.state == operation.RUNNING)
    for task in session.scalars(live.with_for_update(of=OperationRow)):
        # Its claim stays as it is: the driver that holds it may be in the middle of a call to a provider,
        # and "settle" waits until that claim is given back or runs out.
        task.state, task.message, task.ended_at = operation.CANCELLED, why, broker.clock.now()


def _with_operation(session: Session, vm_id: str) -> tuple[VMRow, OperationRow]:
    row = session.get(VMRow, vm_id)
    task = session.scalar(
        select(OperationRow).where(OperationRow.target == vm_id, OperationRow.kind == "vm.create")
    )
    if row is None or task is None:
        raise NotFound("vm", vm_id)
    return row, task


def _networks(session: Session, refs: Sequence[str]) -> list[NetworkRow]:
    if refs:
        found = [network.find(session, ref) for ref in refs]
        if len({row.id for row in found}) != len(found):
            raise InvalidRequest("the same network is named twice", hint="name each network once")
        return found
    every = list(session.scalars(select(NetworkRow).order_by(NetworkRow.name).limit(2)))
    if not every:
        raise InvalidRequest(
            "there is no network yet", hint="an admin makes one with `isthmus network create`"
        )
    if len(every) > 1:
        raise InvalidRequest("there are several networks", hint="say which with --network")
    return every


def _check_address(nets: Sequence[NetworkRow], address: str) -> None:
    subnets: list[SubnetRow] = nets[0].subnets
    try:
        inside = any(addresses.contains(subnet.cidr, f"{address}/32") for subnet in subnets)
    except addresses.AddressError:
        raise InvalidRequest(f"{address!r} is not an IPv4 address", hint="such as 10.20.1.7") from None
    if not inside:
        cidrs = ", ".join(subnet.cidr for subnet in subnets) or "none"
        raise InvalidRequest(
            f"{address} is in no subnet of network {nets[0].name}", hint=f"its subnets are {cidrs}"
        )


def _check_wishes(broker: Broker, wishes: Wishes) -> None:
    if wishes.immediate and wishes.reservation is not None:
        raise InvalidRequest(
            "a VM starts now, or in a reservation's room when that begins", hint="leave one of the two out"
        )
    if wishes.deadline is None:
        return
    if wishes.deadline.tzinfo is None:
        raise InvalidRequest("the deadline has no time zone", hint="such as 2026-12-24T18:00:00+01:00")
    if wishes.runtime_s is None:
        raise InvalidRequest(
            "a deadline needs to know how long the VM runs", hint="give runtime_s, --runtime"
        )
    left = (wishes.deadline - broker.clock.now()).total_seconds()
    if left < wishes.runtime_s:
        raise InvalidRequest(
            f"the VM runs {wishes.runtime_s:g} s and its deadline is in {left:.0f} s",
            hint="it cannot be met: move the deadline",
        )


def _said(wishes: Wishes) -> list[Any]:
    """What was wished, for the fingerprint of a request; nothing when nothing was, as in requests of before."""
    if wishes == Wishes():
        return []
    deadline = wishes.deadline.isoformat() if wishes.deadline else None
    said = [wishes.priority, wishes.runtime_s, deadline, [dict(rule) for rule in wishes.affinity]]
    if wishes.preemptible or wishes.reservation or wishes.immediate:
        said += [wishes.preemptible, wishes.reservation, wishes.immediate]
    return said


def _check_user_data(text: str) -> None:
    if len(text.encode()) > _MOST_USER_DATA:
        raise InvalidRequest(
            f"user data has {len(text.encode())} bytes and may have {_MOST_USER_DATA}",
            hint="fetch the rest at boot with #include",
        )
