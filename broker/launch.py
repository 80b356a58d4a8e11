"""Launching VMs: what a caller may ask for, checked, and written as rows and operations in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from broker import (
    access,
    event,
    expression,
    flavor,
    image,
    keypair,
    label,
    network,
    nic,
    operation,
    overlap,
    peer,
    project,
    request,
    reservation,
    site,
)
from broker.actor import Actor
from broker.broker import Broker
from broker.errors import Exists, InvalidRequest, NotFound
from broker.states import VMState
from broker.store import NetworkRow, OperationRow, SubnetRow, VMRow
from vpn import address as addresses

_MOST_USER_DATA = 16384
"""What EC2 takes, in bytes before base64 (RunInstances, ``UserData``)."""


@dataclass(frozen=True)
class Wishes:
    """How a VM stands in the queue, and to other VMs.

    ``runtime_s``: how long it will run, as its owner says; ``deadline``: when it must have run. ``affinity``: rules as in
    ``isthmus.schema.AffinityRule``. ``preemptible``: it may be suspended to make room for others. ``immediate``: it starts now
    or not at all. ``reservation``: name or
    id of the advance reservation in whose room it stands. ``site``: name or id of the only site where it may be.
    """

    priority: int = 0
    runtime_s: float | None = None
    deadline: datetime | None = None
    affinity: Sequence[Mapping[str, Any]] = ()
    preemptible: bool = False
    immediate: bool = False
    reservation: str | None = None
    site: str | None = None


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
    access.require(actor, "vm.create", actor.project_id)
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
    client_token: str | None = None,
) -> list[tuple[VMRow, OperationRow]]:
    """Ask for ``count`` equal VMs, all or none, in one reservation. They are ``pending`` until a host is found.

    Without a name a VM is named by its id; several with a name get ``-1``, ``-2``... Without networks it joins
    the only network there is. The same ``token`` with the same request answers with the same VMs. ``client_token`` is
    kept with them for the EC2 face to show.
    Raises InvalidRequest, InvalidExpression, NotFound, Exists, Overlap (of its networks), QuotaExceeded, TokenMismatch.
    """
    access.require(actor, "vm.create", actor.project_id)
    expression.check_text("requirements", requirements)
    expression.check_text("rank", rank)
    _check_user_data(user_data)
    _check_wishes(broker, wishes)
    if count < 1:
        raise InvalidRequest(f"{count} VMs cannot be made", hint="ask for one or more")
    if address is not None and count != 1:
        raise InvalidRequest("an address can be asked for by one VM only", hint="ask for one VM at a time")
    digest = request.fingerprint(
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
            *_fingerprint_of(wishes),
        ]
    )
    try:
        with broker.store.transaction() as session:
            if (known := _replayed(session, actor, token, digest)) is not None:
                return known
            size = flavor.find(session, flavor_ref)
            if wishes.preemptible and size.size.bound_by:
                raise InvalidRequest(
                    f"a VM with {size.size.bound_by} cannot be preemptible: it is never suspended",
                    hint=f"leave --preemptible out, or choose another flavor than {size.name}",
                )
            base = image.for_vm(session, actor, image_ref)
            if size.disk_gb < base.min_disk_gb:
                raise InvalidRequest(
                    f"image {base.name} needs a disk of {base.min_disk_gb} GiB, flavor {size.name} has {size.disk_gb}",
                    hint="choose a flavor with a larger disk",
                )
            nets = _networks(session, actor, networks)
            peer.check_networks(session, nets)
            if address is not None:
                _check_address(nets, address)
            if key_pair is not None:
                keypair.find(session, actor, key_pair)
            booked = None
            if wishes.reservation is not None:
                booked = reservation.for_vm(session, actor, wishes.reservation, size)
            wanted = site.find(session, wishes.site) if wishes.site is not None else None
            # Locked, so that of two callers at once the second sees what the first took of the quota, or made; and this late,
            # so that the callers of a project wait for each other as shortly as can be.
            owner = project.find(session, actor, actor.project_id, lock=True)
            if (known := _replayed(session, actor, token, digest)) is not None:
                return known
            project.check_quota(owner, size.size * count)
            now = broker.clock.now()
            request_id = broker.new_id("r")
            made: list[tuple[VMRow, OperationRow]] = []
            for index in range(count):
                vm_id = broker.new_id("vm")
                vm_name = vm_id if name is None else name if count == 1 else f"{name}-{index + 1}"
                if session.scalar(
                    select(VMRow.id).where(
                        VMRow.project_id == owner.id, VMRow.name == vm_name, VMRow.state != VMState.TERMINATED
                    )
                ):
                    raise Exists("vm", vm_name)
                row = VMRow(
                    id=vm_id,
                    name=vm_name,
                    project_id=owner.id,
                    state=VMState.PENDING,
                    status_reason="",
                    desired=VMState.RUNNING,
                    image_id=base.id,
                    flavor=size.name,
                    **size.size.as_dict(),
                    site_id=None,
                    site_wanted_id=wanted.id if wanted is not None else None,
                    host_id=None,
                    elastic=False,
                    nics=nic.make(broker, nets, address),
                    public_address=None,
                    key_pair=key_pair,
                    sealed_user_data=broker.sealer.seal(user_data) if user_data else "",
                    client_token=client_token,
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
                    launch_index=index,
                    operation_id=None,
                    created_at=now,
                    state_at=now,
                    launched_at=None,
                    enrolled_at=None,
                    terminated_at=None,
                )
                row.project, row.image, row.site, row.host, row.site_wanted = owner, base, None, None, wanted
                session.add(row)
                label.give(session, row, labels)
                task = operation.add(
                    broker, session, "vm.create", vm_id, phase="place", project_id=owner.id, waits=True
                )
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
                    **size.size.as_dict(),
                    requirements=requirements,
                    priority=wishes.priority,
                    preemptible=wishes.preemptible,
                    labels=dict(labels or {}),
                )
                session.flush()
                made.append((row, task))
            request.remember(
                broker,
                session,
                owner.id,
                token,
                digest,
                [row.id for row, _ in made],
                action="vm.create",
            )
    except IntegrityError as error:
        # Two callers at once, on PostgreSQL: the one that lost sees what the winner made.
        if token:
            with broker.store.transaction() as session:
                if (known := _replayed(session, actor, token, digest)) is not None:
                    return known
        raise Exists("vm", name or "?") from error
    broker.signals.set("place")
    broker.signals.set("policy")
    return made


def _replayed(
    session: Session, actor: Actor, token: str | None, digest: str
) -> list[tuple[VMRow, OperationRow]] | None:
    """What the same request made before, or None when it is new. Raises TokenMismatch for another request."""
    known = request.replay(session, actor.project_id, token, digest)
    return None if known is None else [_with_operation(session, vm_id) for vm_id in known]


def _with_operation(session: Session, vm_id: str) -> tuple[VMRow, OperationRow]:
    row = session.get(VMRow, vm_id)
    task = session.scalar(
        select(OperationRow).where(OperationRow.target == vm_id, OperationRow.kind == "vm.create")
    )
    if row is None or task is None:
        raise NotFound("vm", vm_id)
    return row, task


def _networks(session: Session, actor: Actor, refs: Sequence[str]) -> list[NetworkRow]:
    if not refs:
        return [network.only(session, actor)]
    found = [network.find(session, actor, ref, here=True) for ref in refs]
    if len({row.id for row in found}) != len(found):
        raise InvalidRequest("the same network is named twice", hint="name each network once")
    overlap.check_vm(found)
    return found


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


def _fingerprint_of(wishes: Wishes) -> list[Any]:
    """What was wished, for the fingerprint of a request; nothing when nothing was, as in requests of before."""
    if wishes == Wishes():
        return []
    deadline = wishes.deadline.isoformat() if wishes.deadline else None
    said = [wishes.priority, wishes.runtime_s, deadline, [dict(rule) for rule in wishes.affinity]]
    if wishes.preemptible or wishes.reservation or wishes.immediate or wishes.site:
        said += [wishes.preemptible, wishes.reservation, wishes.immediate]
    if wishes.site:
        said += [wishes.site]
    return said


def _check_user_data(text: str) -> None:
    if len(text.encode()) > _MOST_USER_DATA:
        raise InvalidRequest(
            f"user data has {len(text.encode())} bytes and may have {_MOST_USER_DATA}",
            hint="fetch the rest at boot with #include",
        )
