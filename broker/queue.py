"""The queue of VMs that wait for a host, and the round that places them.

One round takes a snapshot of all hosts, has ``placement`` match the whole queue against it in order of age,
and writes each claim with a check of its host's generation: of two matchmakers at once, one finds the
generation changed and tries again, so no host is ever over-committed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import structlog
from sqlalchemy import and_, func, or_, select, update
from sqlalchemy.orm import Session, lazyload

from broker import event, flavor, gateway, host, network, operation, peer, reservation, usage, vm
from broker import policy as policies
from broker.broker import Broker
from broker.errors import BrokerError
from broker.store import (
    GatewayRow,
    HostRow,
    MetaRow,
    OperationRow,
    ProjectRow,
    ReservationRow,
    SubnetRow,
    VMRow,
)
from placement import burst
from placement import round as rounds
from placement.budget import Ledger
from placement.language import parse
from placement.match import Decision, Request
from placement.policy import Policy, Queue
from placement.pool import Pool, Reserved, Resident, Rule, Waiting
from placement.table import HostTable
from placement.why import Explainer, Explanation, explain
from providers.port import Capability
from vpn import address as addresses

log = structlog.get_logger()

Reasons = np.ndarray[tuple[int], np.dtype[np.object_]]
"""A text or None per host."""
Mask = np.ndarray[Any, np.dtype[np.bool_]]

_TRIES = 3
_EXPLAINED = 50
"""How many waiting VMs are told why in one round, oldest first; the others keep what they were told."""
_SAME_ROUND_S = 5.0
_MOST_REST_S = 1.0
_WAITING = (
    select(VMRow, OperationRow)
    .join(OperationRow, OperationRow.id == VMRow.operation_id)
    .where(or_(and_(VMRow.host_id.is_(None), VMRow.state == vm.PENDING), VMRow.state == vm.SUSPENDED))
    .where(OperationRow.state == operation.RUNNING, OperationRow.phase == "place")
)
_DATED = (
    select(VMRow.id)
    .where(VMRow.host_id.is_not(None), VMRow.runtime_s.is_not(None), VMRow.state == vm.RUNNING)
    .limit(1)
)
_BURSTING = select(func.count()).select_from(VMRow).where(VMRow.elastic, VMRow.state != vm.TERMINATED)


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


def place_pending(broker: Broker) -> None:
    """Run a round, unless one ran just now and nothing was signalled since. One at a time in a process."""
    seen = broker.signals.count("place")
    with broker.placing:
        now = broker.clock.now().timestamp()
        last_count, last_at = broker.last_round
        if last_count >= seen and 0 <= now - last_at < _SAME_ROUND_S:
            return
        # A round over thousands of hosts costs about the same for one VM as for fifty: when many come, it takes at most
        # half of the time, and the other half collects them. The first one after a rest does not wait.
        time.sleep(max(0.0, min(broker.round_rests_until - time.monotonic(), _MOST_REST_S)))
        count = broker.signals.count("place")
        began = time.monotonic()
        for _ in range(_TRIES):
            if _round(broker):
                break
        ended = time.monotonic()
        broker.round_rests_until = ended + (ended - began)
        broker.last_round = (count, now)


def snapshot(
    broker: Broker, session: Session, *, also: VMRow | None = None, residents: bool = False
) -> Snapshot:
    """The pool and the queue as they are. ``also``: a VM whose own claim counts as free, to explain it; ``residents``:
    read who is there also when nobody that waits asks for it."""
    rows = list(session.scalars(select(HostRow).order_by(HostRow.site_id, HostRow.name)))
    held = host.claims(session)
    spent: dict[str, float] = {}
    for row in rows:
        if row.elastic:
            spent[row.site_id] = spent.get(row.site_id, 0.0) + held.get(row.id, host.Claims()).vcpus
    waiting = [
        (target, task)
        for target, task in session.execute(
            _WAITING.options(lazyload(VMRow.nics), lazyload(VMRow.host), lazyload(VMRow.site)).order_by(
                VMRow.created_at, VMRow.id
            )
        ).all()
    ]
    subnets = {(row.network_id, row.site_id): row for row in session.scalars(select(SubnetRow))}
    policy, state = policies.current(broker, session)
    bursting = session.scalar(_BURSTING) or 0
    index = {row.id: number for number, row in enumerate(rows)}
    groups = _groups(rows)
    gates = {row.network_id: row for row in session.scalars(select(GatewayRow))}
    suspends = _suspends(broker, rows, groups)
    reserved = [reservation.of_row(one, index) for one in reservation.live(session, broker.clock.now())]
    known = (
        residents
        or bool(reserved)
        or (policy is not None and policy.queue.preempt)
        or any(target.affinity for target, _ in waiting)
        or (bool(waiting) and session.scalar(_DATED) is not None)
    )
    return Snapshot(
        hosts=rows,
        table=_table(broker, list(index), [_attributes(row, held, spent, also) for row in rows]),
        waiting=waiting,
        policy=policy,
        state=state,
        bursting=bursting,
        use=policies.cloud_use(broker, session),
        ledger=usage.ledger(broker, session, policy),
        residents=_residents(session, index, suspends) if known else [],
        reserved=reserved,
        suspends=suspends,
        suspend_s=broker.settings.timing.suspend_s,
        making_room=_making_room(session) if known else frozenset(),
        used=_used(broker, session, policy, waiting),
        subnets=subnets,
        full=network.full_subnets(broker, session),
        gateways={network_id: _gateway_refusal(broker, row) for network_id, row in gates.items()},
        gates=gates,
        now=broker.clock.now().timestamp(),
        down=_down(rows),
        groups=groups,
        index=index,
    )


def eligible_for(seen: Snapshot, wanted: ReservationRow) -> Mask:
    """The hosts where a reservation may find room: one's own that are up and meet its requirement and the policy's."""
    mask: Mask = _none(seen.down) & ~np.array([row.elastic for row in seen.hosts], dtype=np.bool_)
    text = _requirement(seen, wanted.requirements)
    if text is not None:
        attributes = {
            "name": wanted.name,
            "project": wanted.project.name,
            "flavor": wanted.flavor,
            "vcpus": float(wanted.vcpus),
            "mem_mb": float(wanted.mem_mb),
            "disk_gb": float(wanted.disk_gb),
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
        **flavor.room(row),
        requirement=requirement,
        rank=rank,
        attributes=vm.attributes(row),
    )


def waiting_of(seen: Snapshot, row: VMRow) -> Waiting:
    """The VM as one that looks for a host; one that is suspended looks for room on its own."""
    suspended = row.state == vm.SUSPENDED
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
    if row.state == vm.SUSPENDED:
        return found  # its disk, its image and its addresses are where it was
    asked: dict[tuple[str, ...], str] = {}

    def tunnels(gates: Sequence[GatewayRow]) -> str:
        # One answer for all the clouds that these networks reach.
        key = tuple(gate.id for gate in gates)
        if key not in asked:
            asked[key] = peer.refusal(broker, row, gates)
        return asked[key]

    for members in seen.groups:
        refused = _group_refusal(seen, row, seen.hosts[members[0]], tunnels)
        if refused is not None:
            found[members] = np.where(_none(found[members]), refused, found[members])
    if task is not None:
        for host_id, until in task.params.get("avoid", {}).items():
            index = seen.index.get(host_id)
            if index is not None and until > seen.now and found[index] is None:
                found[index] = "it had no room when it was tried just now"
    return found


def decide(broker: Broker, seen: Snapshot) -> tuple[rounds.Round, list[Waiting]]:
    """Decide for all that wait, in the order of ``seen.waiting``. Consumes ``seen``; writes nothing."""
    tasks = {row.id: (row, task) for row, task in seen.waiting}
    queue = [waiting_of(seen, row) for row, _ in seen.waiting]
    decided = rounds.run(
        pool_of(seen),
        queue,
        seen.now,
        policy=seen.policy,
        gate=_gate(seen),
        refusals=lambda waiting: refusals(broker, seen, *tasks[waiting.request.id]),
    )
    return decided, queue


def why(broker: Broker, row: VMRow) -> tuple[Explanation, list[HostRow], Decision | None, Snapshot]:
    """Explain a VM against the pool as it is now; for a placed one, as if it were placed again."""
    with broker.store.reading() as session:
        task = session.get(OperationRow, row.operation_id) if row.operation_id else None
        seen = snapshot(broker, session, also=row)
    waiting = waiting_of(seen, row)
    request = waiting.request
    reasons = refusals(broker, seen, row, task)
    if row.host_id in seen.index:
        # Its own claim is not in its way.
        reasons[seen.index[row.host_id]] = None
    decided = rounds.run(
        pool_of(seen, seen.table.copy(), without=row.id),
        [waiting],
        seen.now,
        policy=seen.policy,
        gate=_gate(seen),
        refusals=lambda _: reasons,
    )
    decision, reasons = decided.decisions[0], decided.reasons[0]
    if row.host_id in seen.index:
        reasons[seen.index[row.host_id]] = None
    mask = _none(reasons)
    explanation = explain(seen.table, request, eligible=mask, reasons=reasons.tolist(), decision=decision)
    return explanation, seen.hosts, decision, seen


def gateway_of(session: Session, network_id: str) -> GatewayRow | None:
    """The gateway of a network, or None."""
    return session.scalar(select(GatewayRow).where(GatewayRow.network_id == network_id))


def _round(broker: Broker) -> bool:
    """One round. False when another matchmaker was faster somewhere and it is worth trying again."""
    with broker.store.reading() as session:
        waits = session.scalar(_WAITING.with_only_columns(VMRow.id).limit(1)) is not None
        if not waits and not reservation.is_due(broker, session):
            return True
        seen = snapshot(broker, session)
    decided, queue = decide(broker, seen)
    decisions, reasons = decided.decisions, decided.reasons
    placed, lost = _claim(broker, seen, decisions)
    for task_id in (*placed, *_suspend(broker, decided.suspensions)):
        broker.submit(task_id)
    _tell_waiting(broker, seen, queue, decisions, reasons)
    return not lost


def _claim(broker: Broker, seen: Snapshot, decisions: Sequence[Decision]) -> tuple[list[str], bool]:
    """Write the round's claims: (operations to wake, whether any was lost to somebody else)."""
    placed: list[str] = []
    lost = False
    chosen = {seen.hosts[decision.host].id for decision in decisions if decision.host is not None}
    if not chosen:
        return [], False
    asked = [
        row.id
        for decision, (row, _) in zip(decisions, seen.waiting, strict=True)
        if decision.host is not None
    ]
    with broker.store.transaction() as session:
        # One matchmaker writes at a time: two that lease addresses in different orders would block each other.
        session.get(MetaRow, "broker_id", with_for_update=True)
        fresh = _taken(session, seen, chosen)
        live = _still_waiting(session, asked)
        leases = network.Leases(broker, session, asked)
        for decision, (_row, task) in zip(decisions, seen.waiting, strict=True):
            if decision.host is None:
                continue
            at = seen.hosts[decision.host]
            if at.id not in fresh:
                lost = True
                continue
            target = live.get(task.id)
            if target is None:
                continue
            if target.state == vm.SUSPENDED:
                usage.begin(broker, session, target, at)
                vm.set_state(broker, target, vm.PENDING, "resuming")
                placed.append(task.id)
                continue
            try:
                leases.lease(target, at.site_id)
            except addresses.AddressError as error:
                target.status_reason = f"{at.site.name}: {error}"
                continue
            target.host_id, target.site_id, target.elastic = at.id, at.site_id, at.elastic
            target.launch += 1
            target.status_reason = ""
            usage.begin(broker, session, target, at)
            rank = "" if decision.rank is None else f", rank {decision.rank:g}"
            second = "" if decision.runner_up is None else seen.hosts[decision.runner_up].name
            event.record(
                broker,
                session,
                "vm.placed",
                target.id,
                f"{target.name} placed on {at.site.name}/{at.name}{rank}"
                + (f"; next best {second}" if second else ""),
                project_id=target.project_id,
                host=at.name,
                site=at.site.name,
                elastic=at.elastic,
                rank=decision.rank,
                runner_up=second or None,
                runner_up_rank=decision.runner_up_rank,
            )
            placed.append(task.id)
    return placed, lost


def _suspend(broker: Broker, suspensions: Sequence[rounds.Suspend]) -> list[str]:
    """Begin to suspend those that make room: operations to wake. One that is busy, or gone, is looked at again later."""
    begun: list[str] = []
    for one in suspensions:
        with broker.store.transaction() as session:
            row = session.get(VMRow, one.id, with_for_update={"of": VMRow})
            if row is None or row.state != vm.RUNNING or vm.busy(session, row) is not None:
                continue
            begun.append(vm.begin_preempt(broker, session, row, for_id=one.for_id, reason=one.reason).id)
    return begun


def _taken(session: Session, seen: Snapshot, chosen: set[str]) -> set[str]:
    """Those of the chosen hosts that are as they were in the snapshot, with their generations moved on."""
    generations = {
        row.id: row.generation
        for row in session.execute(
            select(HostRow.id, HostRow.generation)
            .where(HostRow.id.in_(chosen), HostRow.state == host.UP)
            .order_by(HostRow.id)
            .with_for_update()
        )
    }
    # When somebody else burst meanwhile no elastic host is fresh: the policy's limits count all clouds together.
    alone = session.scalar(_BURSTING) == seen.bursting
    fresh = {
        row.id
        for row in (seen.hosts[seen.index[host_id]] for host_id in generations)
        if generations[row.id] == row.generation and (alone or not row.elastic)
    }
    session.execute(
        update(HostRow).where(HostRow.id.in_(fresh)).values(generation=HostRow.generation + 1),
        execution_options={"synchronize_session": False},
    )
    return fresh


def _still_waiting(session: Session, vm_ids: Sequence[str]) -> dict[str, VMRow]:
    """Operation id -> its VM, locked, where the VM waits still and the operation runs."""
    rows = session.scalars(
        select(VMRow)
        .options(lazyload("*"))
        .join(OperationRow, OperationRow.id == VMRow.operation_id)
        .where(VMRow.id.in_(vm_ids), OperationRow.state == operation.RUNNING)
        .where(or_(VMRow.host_id.is_(None), VMRow.state == vm.SUSPENDED))
        .order_by(VMRow.id)
        .with_for_update(of=VMRow)
    )
    return {str(row.operation_id): row for row in rows}


def _tell_waiting(
    broker: Broker,
    seen: Snapshot,
    queue: Sequence[Waiting],
    decisions: Sequence[Decision],
    reasons: Sequence[Reasons],
) -> None:
    told: dict[str, tuple[str, bool]] = {}
    explained = 0
    explainer = Explainer(seen.table)
    for waiting, decision, why_not, (row, _task) in zip(queue, decisions, reasons, seen.waiting, strict=True):
        if decision.host is not None:
            continue
        unplaceable = row.unplaceable
        if decision.error:
            text, unplaceable = decision.error, True
        elif explained >= _EXPLAINED:
            text = row.status_reason or "waiting for a host"
        else:
            # Against what this round left: what an earlier VM took is not there for this one.
            explained += 1
            mask, why = _none(why_not), why_not.tolist()
            text = explainer.explain(waiting.request, eligible=mask, reasons=why).summary
            unplaceable = not rounds.could_ever(seen.table, waiting, seen.policy, seen.now)
            if row.state == vm.SUSPENDED:
                text = f"goes on when its host has room: {text}"
        if (text, unplaceable) != (row.status_reason, row.unplaceable):
            told[row.id] = text, unplaceable
    if not told:
        return
    with broker.store.transaction() as session:
        query = select(VMRow).options(lazyload("*")).where(VMRow.id.in_(told)).order_by(VMRow.id)
        for target in session.scalars(query):
            if target.state == vm.SUSPENDED or (target.host_id is None and target.state == vm.PENDING):
                text, target.unplaceable = told[target.id]
                if not target.status_reason:
                    event.record(
                        broker,
                        session,
                        "vm.waiting",
                        target.id,
                        f"{target.name} waits: {text}",
                        project_id=target.project_id,
                    )
                target.status_reason = text


def _down(rows: Sequence[HostRow]) -> Reasons:
    found: Reasons = np.full(len(rows), None, dtype=np.object_)
    for index, row in enumerate(rows):
        if row.state != host.UP:
            found[index] = f"the host is {row.state}" + (
                f": {row.status_reason}" if row.status_reason else ""
            )
    return found


def _gate(seen: Snapshot) -> burst.Gate | None:
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


def _suspends(broker: Broker, hosts: Sequence[HostRow], groups: Sequence[Sequence[int]]) -> Mask:
    found: Mask = np.zeros(len(hosts), dtype=np.bool_)
    for members in groups:
        at = hosts[members[0]]
        if at.elastic:
            continue
        with suppress(
            BrokerError
        ):  # a site whose provider cannot be made suspends nobody, and holds up nobody
            found[list(members)] = Capability.SUSPEND in broker.providers.of(at.site).capabilities
    return found


def _making_room(session: Session) -> frozenset[str]:
    """For whom VMs are being suspended now."""
    rows = session.scalars(
        select(OperationRow.params)
        .join(VMRow, VMRow.operation_id == OperationRow.id)
        .where(OperationRow.kind == "vm.preempt", OperationRow.state == operation.RUNNING)
        .where(VMRow.state == vm.SUSPENDING)
    )
    return frozenset(str(params.get("for")) for params in rows)


def _residents(session: Session, index: Mapping[str, int], suspends: Mask) -> list[Resident]:
    rows = session.execute(
        select(
            VMRow.id,
            ProjectRow.name,
            VMRow.host_id,
            flavor.SHARED_VCPUS,
            flavor.ORDINARY_MEM_MB,
            VMRow.gpus,
            VMRow.vcpus - flavor.SHARED_VCPUS,
            VMRow.mem_mb - flavor.ORDINARY_MEM_MB,
            VMRow.priority,
            VMRow.affinity,
            VMRow.elastic,
            VMRow.state,
            VMRow.state_at,
            VMRow.preemptible,
            VMRow.runtime_s,
            VMRow.reservation_id,
        )
        .join(ProjectRow, ProjectRow.id == VMRow.project_id)
        .where(VMRow.host_id.is_not(None), VMRow.state != vm.TERMINATED)
    )
    return [
        Resident(
            vm_id,
            owner,
            index[at],
            # What is suspended is near its neighbours, and takes nothing.
            0.0 if state == vm.SUSPENDED else float(vcpus),
            0.0 if state == vm.SUSPENDED else float(mem),
            since=state_at.timestamp(),
            priority=priority,
            preemptible=preemptible,
            runtime_s=runtime_s,
            rules=_rules(rules),
            reservation=booked,
            elastic=elastic,
            suspendable=state == vm.RUNNING and bool(suspends[index[at]]) and not (gpus or own_cpus or pages),
            leaving=state == vm.SUSPENDING,
            gpus=float(gpus),
            dedicated_cpus=float(own_cpus),
            hugepages_mb=float(pages),
        )
        for vm_id, owner, at, vcpus, mem, gpus, own_cpus, pages, priority, rules, elastic, state, state_at, preemptible, runtime_s, booked in rows
        if at in index
    ]


def _rules(rules: Sequence[Mapping[str, Any]]) -> tuple[Rule, ...]:
    return tuple(Rule(**rule) for rule in rules)


def _used(
    broker: Broker, session: Session, policy: Policy | None, waiting: Sequence[tuple[VMRow, OperationRow]]
) -> dict[str, float]:
    if len({row.project_id for row, _ in waiting}) < 2:
        return {}
    rules = policy.queue if policy is not None else Queue()
    return usage.decayed(broker, session, rules.half_life_s)


def _groups(rows: Sequence[HostRow]) -> list[list[int]]:
    groups: dict[tuple[str, bool], list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault((row.site_id, row.elastic), []).append(index)
    return list(groups.values())


def _none(reasons: Reasons) -> Mask:
    none: Mask = reasons == None  # noqa: E711 - of each element
    return none


def _table(broker: Broker, ids: list[str], rows: list[dict[str, Any]]) -> HostTable:
    """The hosts' table. What has not changed since the last one is taken from it."""
    known = broker.last_table
    if known is not None and known[0] == ids:
        table = known[2].following(known[1], rows)
    else:
        table = HostTable.from_rows(rows)
    broker.last_table = (ids, rows, table)
    return table.copy()  # a round consumes it


def _attributes(
    row: HostRow, held: dict[str, host.Claims], spent: dict[str, float], also: VMRow | None
) -> dict[str, Any]:
    mine = held.get(row.id, host.Claims())
    if also is not None and also.host_id == row.id and also.state not in (vm.TERMINATED, vm.SUSPENDED):
        mine = mine.without(also)
    values = host.view(row, mine).attributes
    if row.elastic:
        values["cpu_free"] = max(0.0, row.vcpus_total - spent.get(row.site_id, 0.0))
    return values


def _group_refusal(
    seen: Snapshot, row: VMRow, at: HostRow, tunnels: Callable[[Sequence[GatewayRow]], str]
) -> str | None:
    # One answer for all hosts of a site that are elastic alike. ``tunnels``: why not through all of these gateways.
    gates: list[GatewayRow] = []
    for network_id in row.networks:
        subnet = seen.subnets.get((network_id, at.site_id))
        if subnet is None:
            return "the site has no subnet of the VM's network"
        if subnet.id in seen.full:
            return f"subnet {subnet.cidr} is full"
        if subnet.mode == network.TUNNEL:
            refused = seen.gateways.get(network_id, "the network has no gateway")
            if refused:
                return refused
            gates.append(seen.gates[network_id])
    if gates and (refused := tunnels(gates)):
        return refused
    if row.wanted_address is not None:
        subnet = seen.subnets[(row.networks[0], at.site_id)]
        if not addresses.contains(subnet.cidr, f"{row.wanted_address}/32"):
            return f"{row.wanted_address} is not of this site's subnet {subnet.cidr}"
    if not at.elastic:
        return None
    if not row.image.sites.get(at.site.name):
        return f"image {row.image.name} is not mapped to an image of this site"
    return None


def _gateway_refusal(broker: Broker, row: GatewayRow) -> str:
    words = {
        "up": "",
        "new": f"no agent of gateway {row.name} has registered yet",
        "unreachable": f"the agent of gateway {row.name} does not answer",
        "incompatible": f"the agent of gateway {row.name} reads no document that this broker writes",
    }
    return words[gateway.state(broker, row)]
