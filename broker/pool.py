"""The pool as a round sees it: every host with what is free on it, who holds room there, and who waits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import numpy as np
from sqlalchemy import and_, func, or_, select, tuple_
from sqlalchemy.orm import Session, lazyload, selectinload

from broker import capability, gateway, host, load, peer, usage, vm
from broker import policy as policies
from broker.broker import Broker
from broker.errors import Unavailable
from broker.kept_pool import KeptPool, Mask, Reasons
from broker.states import LIVE_RESERVATION, OperationState, SubnetMode, VMState
from broker.store import GatewayRow, HostRow, OperationRow, ReservationRow, SubnetRow, VMRow
from broker.store.changes import ALL
from placement import burst
from placement.budget import Ledger
from placement.language import parse
from placement.policy import Policy, Queue
from placement.pool import Pool, Reserved, Resident, Rule, Waiting
from placement.request import Request
from placement.table import HostTable
from providers.port import Capability
from vpn import address as addresses

WAITING = (
    select(VMRow, OperationRow)
    .join(OperationRow, OperationRow.id == VMRow.operation_id)
    .where(
        or_(and_(VMRow.host_id.is_(None), VMRow.state == VMState.PENDING), VMRow.state == VMState.SUSPENDED)
    )
    .where(OperationRow.state == OperationState.RUNNING, OperationRow.phase == "place")
)


_TRIES = 5
T = TypeVar("T")


Place = tuple[int, datetime, str]
"""A place in the queue: a VM's priority, since when it is there, its id."""


_DATED = (
    select(VMRow.id)
    .where(VMRow.host_id.is_not(None), VMRow.runtime_s.is_not(None), VMRow.state == VMState.RUNNING)
    .limit(1)
)


BURSTING = select(func.count()).select_from(VMRow).where(VMRow.elastic, VMRow.state != VMState.TERMINATED)


@dataclass
class Snapshot:
    """All that a round decides on, read in one transaction."""

    hosts: list[HostRow]
    table: HostTable
    waiting: list[tuple[VMRow, OperationRow]]
    policy: Policy | None
    state: burst.BurstState
    use: burst.CloudUse
    """What is in clouds before this round."""
    ledger: Ledger | None
    """The budget, None without one."""
    residents: list[Resident]
    """The VMs that hold room, where anybody asks who they are."""
    reserved: list[Reserved]
    """Reservations that have not ended."""
    suspends: Mask
    """Per host: whether VMs can be suspended there."""
    suspend_s: float
    """How long before a reservation starts its room is made free."""
    making_room: frozenset[str]
    """Ids of those for whom somebody is being suspended now."""
    used: dict[str, float]
    """What each project used lately, in core-seconds; empty when only one waits."""
    bursting: int
    """How many VMs were in clouds before this round."""
    subnets: dict[tuple[str, str], SubnetRow]
    """By (network id, site id)."""
    full: set[str]
    """Ids of subnets without a free address."""
    gateways: dict[str, str]
    """Network id -> why its gateway cannot take a burst VM now; empty when it can."""
    gates: dict[str, GatewayRow]
    """Network id -> its gateway."""
    now: float
    down: Reasons
    """Per host: why no VM may go there, or None."""
    groups: list[list[int]]
    """Indexes of the hosts of each site, elastic ones apart."""
    index: dict[str, int]
    """Host id -> its index."""


def snapshot(
    broker: Broker,
    session: Session,
    *,
    also: VMRow | None = None,
    residents: bool = False,
    after: Place | None = None,
    most: int | None = None,
    joining: tuple[VMRow, OperationRow] | None = None,
) -> Snapshot:
    """The pool and the queue as they are. ``also``: a VM whose own claim counts as free, to explain it; ``residents``:
    read who is there also when nobody that waits asks for it; ``most``: so many who wait, those ``after`` a place in the queue;
    ``joining``: one that is not in the store, and waits with them at its place.

    The pool is the one that this process keeps; the queue is read in the caller's transaction.
    """
    nics = selectinload(VMRow.nics).lazyload("*")
    queue = WAITING.options(nics, lazyload(VMRow.host), lazyload(VMRow.site))
    if after is not None:
        priority, created_at, vm_id = after
        later = tuple_(VMRow.created_at, VMRow.id) > tuple_(created_at, vm_id)
        queue = queue.where((VMRow.priority < priority) | ((VMRow.priority == priority) & later))
    queue = queue.order_by(VMRow.priority.desc(), VMRow.created_at, VMRow.id).limit(most)
    waiting = [(target, task) for target, task in session.execute(queue).all()]
    if joining is not None:
        waiting.append(joining)
        waiting.sort(key=lambda one: (-one[0].priority, one[0].created_at, one[0].id))
    policy, state = policies.current(broker, session)
    gates = {row.network_id: row for row in session.scalars(select(GatewayRow))}
    reserved = live(session, broker.clock.now())
    known = (
        residents
        or bool(reserved)
        or (policy is not None and policy.queue.preempt)
        or any(target.affinity for target, _ in waiting)
        or (bool(waiting) and session.scalar(_DATED) is not None)
    )
    kept = broker.part(KeptPool)
    with kept.lock:
        kept.refresh(residents=known)
        return Snapshot(
            hosts=kept.hosts[:],
            table=kept.table.copy() if also is None else kept.table_without(also),
            waiting=waiting,
            policy=policy,
            state=state,
            bursting=session.scalar(BURSTING) or 0,
            use=load.cloud_use(broker, session),
            ledger=usage.ledger(broker, session, policy),
            residents=kept.residents() if known else [],
            reserved=[of_row(one, kept.index) for one in reserved],
            suspends=kept.suspends,
            suspend_s=broker.settings.timing.suspend_s,
            making_room=_making_room(session) if known else frozenset(),
            used=_used(broker, session, policy, waiting),
            subnets=kept.subnets,
            full=kept.full,
            gateways={network_id: _gateway_refusal(broker, row) for network_id, row in gates.items()},
            gates=gates,
            now=broker.clock.now().timestamp(),
            down=kept.down.copy(),
            groups=kept.groups,
            index=kept.index,
        )


class Changed(Exception):
    """A host on which room was chosen has changed since the pool was read."""


def decided(broker: Broker, decide: Callable[[], T]) -> T:
    """What a transaction says that chooses room on the pool as it reads it, once more when somebody else was faster.

    Raises Unavailable when that happens again and again.
    """
    for _ in range(_TRIES):
        with suppress(Changed):
            return decide()
        broker.store.changes.add({ALL})
    raise Unavailable("the pool changes faster than room in it can be chosen", hint="try again in a moment")


def claim(session: Session, seen: Snapshot, host_ids: Collection[str]) -> None:
    """Begin to write what was chosen on some hosts, in the caller's transaction: a round that was decided before this finds
    them changed, and decides again. Raises Changed when they are no longer as they were seen."""
    generations = {host_id: seen.hosts[seen.index[host_id]].generation for host_id in host_ids}
    if host.take_unchanged(session, generations) != set(host_ids):
        raise Changed


def eligible_for(seen: Snapshot, wanted: ReservationRow) -> Mask:
    """The hosts where a reservation may find room: one's own that are up and meet its requirement and the policy's."""
    mask: Mask = none(seen.down) & ~np.array([row.elastic for row in seen.hosts], dtype=np.bool_)
    text = _requirement(seen, wanted.requirements)
    if text is not None:
        attributes = {
            "name": wanted.name,
            "project": wanted.project.name,
            "flavor": wanted.flavor,
            **wanted.size.attributes,
        }
        mask &= parse(text).truth(seen.table, attributes)
    return mask


def _requirement(seen: Snapshot, own: str | None) -> str | None:
    """One's own requirement and the policy's as one."""
    asked = [own] if own else []
    if seen.policy is not None and seen.policy.placement.requirements is not None:
        asked.insert(0, seen.policy.placement.requirements.text)
    return asked[0] if len(asked) == 1 else " && ".join(f"({text})" for text in asked) if asked else None


def request_of(seen: Snapshot, row: VMRow) -> Request:
    """The VM as a request: its own requirement and rank, with the policy's."""
    rank = row.rank
    if rank is None and seen.policy is not None and seen.policy.placement.rank is not None:
        rank = seen.policy.placement.rank.text
    requirement = _requirement(seen, row.requirements)
    return Request(
        id=row.id,
        **row.size.room,
        requirement=requirement,
        rank=rank,
        attributes=vm.attributes(row),
    )


def waiting_of(seen: Snapshot, row: VMRow) -> Waiting:
    """The VM as one that looks for a host; one that is suspended looks for room on its own."""
    suspended = row.state == VMState.SUSPENDED
    return Waiting(
        request=request_of(seen, row),
        project=row.project.name,
        since=(row.state_at if suspended else row.created_at).timestamp(),
        priority=row.priority,
        preemptible=row.preemptible,
        reservation=row.reservation_id,
        only_host=seen.index.get(row.host_id or "") if suspended else None,
        runtime_s=row.runtime_s,
        deadline=row.deadline.timestamp() if row.deadline else None,
        rules=_rules(row.affinity),
        local_only=row.local_only,
        interruptions=row.interruptions,
    )


def refusals(broker: Broker, seen: Snapshot, row: VMRow, task: OperationRow | None) -> Reasons:
    """Per host: why it may not even be looked at for this VM, or None."""
    found = seen.down.copy()
    if row.state == VMState.SUSPENDED:
        return found  # its disk, its image and its addresses are where it was
    asked: dict[tuple[str, ...], str] = {}

    def tunnels(gates: Sequence[GatewayRow]) -> str:
        # One answer for all the clouds that these networks reach.
        key = tuple(gate.id for gate in gates)
        if key not in asked:
            asked[key] = peer.refusal(broker, row, gates)
        return asked[key]

    for members in seen.groups:
        at = seen.hosts[members[0]]
        refused = _group_refusal(seen, row, at, tunnels) or _kernel_refusal(broker, row, at)
        if refused is not None:
            found[members] = np.where(none(found[members]), refused, found[members])
    if task is not None:
        for host_id, until in task.params.get("avoid", {}).items():
            index = seen.index.get(host_id)
            if index is not None and until > seen.now and found[index] is None:
                found[index] = "it had no room when it was tried just now"
    return found


def gateway_of(session: Session, network_id: str) -> GatewayRow | None:
    """The gateway of a network, or None."""
    return session.scalar(select(GatewayRow).where(GatewayRow.network_id == network_id))


def gate(seen: Snapshot) -> burst.Gate | None:
    """What lets VMs into clouds under the policy; None without one."""
    if seen.policy is None:
        return None
    return burst.Gate(seen.policy, seen.state, seen.use, seen.now, ledger=seen.ledger)


def pool_of(seen: Snapshot, table: HostTable | None = None, *, without: str = "") -> Pool:
    """The snapshot as ``placement`` takes it; ``without``: a VM that is left out."""
    residents = [resident for resident in seen.residents if resident.id != without]
    return Pool(
        seen.table if table is None else table,
        residents,
        seen.reserved,
        seen.used,
        seen.suspends,
        seen.suspend_s,
        seen.making_room,
    )


def _making_room(session: Session) -> frozenset[str]:
    """For whom VMs are being suspended now."""
    rows = session.scalars(
        select(OperationRow.params)
        .join(VMRow, VMRow.operation_id == OperationRow.id)
        .where(OperationRow.kind == "vm.preempt", OperationRow.state == OperationState.RUNNING)
        .where(VMRow.state == VMState.SUSPENDING)
    )
    return frozenset(str(params.get("for")) for params in rows)


def _rules(rules: Sequence[Mapping[str, Any]]) -> tuple[Rule, ...]:
    return tuple(Rule(**rule) for rule in rules)


def _used(
    broker: Broker, session: Session, policy: Policy | None, waiting: Sequence[tuple[VMRow, OperationRow]]
) -> dict[str, float]:
    if len({row.project_id for row, _ in waiting}) < 2:
        return {}
    rules = policy.queue if policy is not None else Queue()
    return usage.decayed(broker, session, rules.half_life_s)


def none(reasons: Reasons) -> Mask:
    """Where there is no reason."""
    none: Mask = reasons == None  # noqa: E711 - of each element
    return none


def _group_refusal(
    seen: Snapshot, row: VMRow, at: HostRow, tunnels: Callable[[Sequence[GatewayRow]], str]
) -> str | None:
    # One answer for all hosts of a site that are elastic alike. ``tunnels``: why not through all of these gateways.
    if row.site_wanted_id is not None and at.site_id != row.site_wanted_id:
        return (
            f"it is to be at site {row.site_wanted.name}"
            if row.site_wanted
            else "it is to be at another site"
        )
    gates: list[GatewayRow] = []
    for nic in row.nics:
        subnet = seen.subnets.get((nic.network_id, at.site_id))
        if subnet is None:
            return "the site has no subnet of the VM's network"
        if subnet.id in seen.full:
            return f"subnet {subnet.cidr} is full"
        if subnet.mode == SubnetMode.TUNNEL:
            refused = seen.gateways.get(nic.network_id, "the network has no gateway")
            if refused:
                return refused
            gates.append(seen.gates[nic.network_id])
        wanted = nic.wanted_address
        if wanted is not None and not addresses.contains(subnet.cidr, f"{wanted}/32"):
            return f"{wanted} is not of this site's subnet {subnet.cidr}"
    if gates and (refused := tunnels(gates)):
        return refused
    if not at.elastic:
        return None
    if not row.image.refs.get(at.site_id):
        return f"image {row.image.name} is not mapped to an image of this site"
    return None


def _kernel_refusal(broker: Broker, row: VMRow, at: HostRow) -> str | None:
    # A cloud boots its own counterpart of the image.
    if at.elastic or not row.image.kernel or capability.has(broker, at.site, Capability.DIRECT_KERNEL):
        return None
    return f"image {row.image.name} boots with a kernel of its own, which this site does not do"


def _gateway_refusal(broker: Broker, row: GatewayRow) -> str:
    words = {
        "up": "",
        "new": f"no agent of gateway {row.name} has registered yet",
        "unreachable": f"the agent of gateway {row.name} does not answer",
        "incompatible": f"the agent of gateway {row.name} reads no document that this broker writes",
    }
    return words[gateway.state(broker, row)]


def live(session: Session, now: datetime) -> list[ReservationRow]:
    """Those that have not ended, by their start."""
    query = (
        select(ReservationRow)
        .where(ReservationRow.state.in_(LIVE_RESERVATION), ReservationRow.end_at > now)
        .order_by(ReservationRow.start_at, ReservationRow.id)
    )
    return list(session.scalars(query))


def of_row(row: ReservationRow, index: dict[str, int]) -> Reserved:
    """The reservation as a round sees it; ``index``: host id -> row of the table."""
    return Reserved(
        id=row.id,
        project=row.project.name,
        count=row.count,
        **row.size.room,
        start=row.start_at.timestamp(),
        end=row.end_at.timestamp(),
        requirement=row.requirements,
        slots={index[host_id]: number for host_id, number in row.slots.items() if host_id in index},
    )
