"""Live migration: one VM to another host of its site, all VMs off a host, or the plan that packs or balances the pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from broker import access, capability, event, host, pool, reservation, vm
from broker.actor import Actor
from broker.broker import Broker
from broker.errors import InvalidRequest, NoRoom, WrongState
from broker.states import HostState, OperationState, VMState
from broker.store import HostRow, OperationRow, VMRow
from placement import rebalance as planner
from placement.column import Bools
from placement.pool import Pool, Resident
from placement.rebalance import Goal, Plan
from placement.rebalance import Limits as Limits
from providers.port import Capability


@dataclass(frozen=True)
class MoveView:
    """One migration of a plan; ``operation`` when it was begun."""

    vm: str
    source: str
    target: str
    cost_s: float
    operation: str | None = None


@dataclass(frozen=True)
class PlanView:
    """What is, or would be, migrated; ``stuck``: VM and why it stays."""

    goal: Goal
    moves: Sequence[MoveView]
    stuck: Sequence[tuple[str, str]]
    resting: int
    """How many VMs stay only because they were placed or moved just now."""
    hosts_before: int
    hosts_after: int
    spread_before: float
    spread_after: float


def migrate(
    broker: Broker, actor: Actor, ref: str, *, host_ref: str | None = None
) -> tuple[VMRow, OperationRow]:
    """Move a running VM to a host of its site, or to the best one for it. Admins only.

    Raises NotFound, WrongState, InvalidRequest (another site's host), NoRoom. One that is on that host already is answered
    with its last operation.
    """
    access.require(actor, "vm.migrate")
    row, task, begun = pool.decided(broker, lambda: _migrate(broker, actor, ref, host_ref))
    if begun:
        broker.submit(task)
    return row, task


def _migrate(
    broker: Broker, actor: Actor, ref: str, host_ref: str | None
) -> tuple[VMRow, OperationRow, bool]:
    """The VM, its operation, and whether that is a new one."""
    with broker.store.transaction() as session:
        row = vm.find(session, actor, ref, lock=True)
        under_way = vm.busy(session, row)
        if under_way is not None and under_way.kind == "vm.migrate":
            return row, under_way, False
        wanted = host.find(session, host_ref) if host_ref is not None else None
        _check(broker, session, row, wanted, under_way)
        if wanted is not None and wanted.id == row.host_id:
            last = session.get(OperationRow, row.operation_id) if row.operation_id else None
            if last is not None:
                return row, last, False
        movable = _MovablePool(broker, session)
        plan = planner.only(
            movable.pool(),
            movable.residents[row.id],
            movable.seen.now,
            movable.open_to(wanted),
            _ALL,
            movable.seen.policy,
        )
        if not plan.moves:
            where = f"host {wanted.name}" if wanted is not None else "another host"
            raise NoRoom(
                f"{row.name} cannot move to {where}: {plan.stuck[0][1]}",
                hint=f"`isthmus vm why {row.name}` says what it asks for",
            )
        pool.claim(session, movable.seen, [movable.seen.hosts[plan.moves[0].target].id])
        task = movable.begin(plan.moves[0], f"asked by {actor.name}")
        session.flush()
    return row, task, True


def drain(broker: Broker, actor: Actor, ref: str) -> PlanView:
    """Put a host into maintenance and move all that runs there elsewhere. Admins only. Raises NotFound, WrongState.

    Again: moves those that could not move before.
    """
    access.require(actor, "host.drain")
    with broker.store.reading() as session:
        row = host.find(session, ref)
    if row.elastic:
        raise WrongState(
            f"{row.name} is a cloud's, where nothing is migrated",
            hint="delete its VMs, or let them return",
        )
    host.set_maintenance(broker, actor, ref, True)
    return _begun(broker, *pool.decided(broker, lambda: _drain(broker, actor, ref)))


def _drain(broker: Broker, actor: Actor, ref: str) -> tuple[_MovablePool, PlanView]:
    with broker.store.transaction() as session:
        row = host.find(session, ref)
        movable = _MovablePool(broker, session)
        plan = planner.drain(
            movable.pool(),
            movable.seen.index[row.id],
            movable.seen.now,
            movable.open_to(None),
            _ALL,
            movable.seen.policy,
        )
        return movable, movable.view("drain", plan, f"host {row.name} is drained by {actor.name}", apply=True)


def rebalance(broker: Broker, actor: Actor, *, goal: Goal, limits: Limits, apply: bool) -> PlanView:
    """Plan to ``pack`` or ``balance`` the hosts, and with ``apply`` begin the moves. Admins only. Raises InvalidRequest."""
    access.require(actor, "migration.rebalance")
    if goal not in planner.PLANNERS:
        raise InvalidRequest(f"{goal!r} is no goal", hint="pack or balance")
    if not apply:
        with broker.store.reading() as session:
            movable = _MovablePool(broker, session)
        plan = planner.PLANNERS[goal](
            movable.pool(), movable.seen.now, movable.open_to(None), limits, movable.seen.policy
        )
        return movable.view(goal, plan, "", apply=False)
    return _begun(broker, *pool.decided(broker, lambda: _rebalance(broker, goal, limits)))


def _rebalance(broker: Broker, goal: Goal, limits: Limits) -> tuple[_MovablePool, PlanView]:
    with broker.store.transaction() as session:
        movable = _MovablePool(broker, session)
        plan = planner.PLANNERS[goal](
            movable.pool(), movable.seen.now, movable.open_to(None), limits, movable.seen.policy
        )
        return movable, movable.view(goal, plan, f"to {goal} the hosts", apply=True)


_ALL = Limits(max_moves=100_000, max_cost_s=float("inf"))


class _MovablePool:
    """The pool with what may move in it."""

    def __init__(self, broker: Broker, session: Session) -> None:
        self._broker, self._session = broker, session
        self.seen = seen = pool.snapshot(broker, session, residents=True)
        rows = session.scalars(
            select(VMRow)
            .outerjoin(OperationRow, OperationRow.id == VMRow.operation_id)
            .where(VMRow.state == VMState.RUNNING, VMRow.host_id.is_not(None), ~VMRow.elastic)
            .where(or_(OperationRow.id.is_(None), OperationRow.state != OperationState.RUNNING))
        )
        self.begun: list[OperationRow] = []
        self.rows = {row.id: row for row in rows}
        named = session.execute(select(VMRow.id, VMRow.name).where(VMRow.host_id.is_not(None)))
        self.names = {found.id: found.name for found in named}
        migrates = [_migrates(broker, at) for at in seen.hosts]
        self.residents = {one.id: self._resident(one, migrates) for one in seen.residents}
        self._sites = np.array([at.site_id for at in seen.hosts], dtype=np.object_)
        self._up: Bools = np.array([reason is None for reason in seen.down], dtype=np.bool_)

    def _resident(self, one: Resident, migrates: Sequence[bool]) -> Resident:
        row = self.rows.get(one.id)
        if row is None or row.size.bound_by or not migrates[one.host]:
            return one
        return replace(one, movable=True, request=pool.request_of(self.seen, row))

    def pool(self) -> Pool:
        """As a planner takes it."""
        return replace(pool.pool_of(self.seen), residents=list(self.residents.values()))

    def open_to(self, wanted: HostRow | None) -> planner.Open:
        """The hosts of a VM's own site that are up; only ``wanted`` when there is one."""

        def mask(resident: Resident) -> Bools:
            found: Bools = self._up & (self._sites == self._sites[resident.host])
            if wanted is not None:
                found &= np.arange(len(found)) == self.seen.index[wanted.id]
            return found

        return mask

    def begin(self, move: planner.Move, reason: str) -> OperationRow:
        """Write one migration, in the transaction in which the pool was read."""
        broker, session, row = self._broker, self._session, self.rows[move.id]
        target = self.seen.hosts[move.target]
        task = vm.begin(broker, session, row, "vm.migrate", {"source": row.host_id, "target": target.id})
        row.target_host_id = target.id
        reservation.follow(session, row, move_from=row.host_id, to=target.id)
        vm.set_state(broker, row, VMState.MIGRATING, f"to {target.name}: {reason}")
        event.record(
            broker,
            session,
            "vm.migrating",
            row.id,
            f"{row.name} moves to {target.name}: {reason}",
            project_id=row.project_id,
        )
        self.begun.append(task)
        return task

    def view(self, goal: Goal, plan: Plan, reason: str, *, apply: bool) -> PlanView:
        """The plan in names; ``apply`` begins it."""
        hosts = self.seen.hosts
        if apply:
            pool.claim(self._session, self.seen, {hosts[move.target].id for move in plan.moves})
        return PlanView(
            goal,
            [
                MoveView(
                    self.names[move.id],
                    f"{hosts[move.source].site.name}/{hosts[move.source].name}",
                    f"{hosts[move.target].site.name}/{hosts[move.target].name}",
                    move.cost_s,
                    self.begin(move, reason).id if apply else None,
                )
                for move in plan.moves
            ],
            [(self.names[vm_id], why) for vm_id, why in plan.stuck],
            plan.resting,
            plan.hosts_before,
            plan.hosts_after,
            plan.spread_before,
            plan.spread_after,
        )


def _check(
    broker: Broker, session: Session, row: VMRow, wanted: HostRow | None, under_way: OperationRow | None
) -> None:
    if under_way is not None:
        raise WrongState(
            f"cannot migrate {row.name}: {under_way.kind} is under way ({under_way.phase})",
            hint=f"`isthmus operation wait {under_way.id}`, then try again",
        )
    if row.state != VMState.RUNNING or row.host is None:
        raise WrongState(
            f"cannot migrate {row.name}: it is {row.state}", hint="a VM must be running for that"
        )
    capability.check(broker, row.host.site, Capability.MIGRATE, row.name)
    if wanted is not None and wanted.site_id != row.site_id:
        raise InvalidRequest(
            f"{wanted.name} is a host of another site", hint=f"choose one of site {row.host.site.name}"
        )
    if wanted is not None and wanted.id != row.host_id and not wanted.takes_vms:
        raise WrongState(
            f"{row.name} cannot move to host {wanted.name}: it is {wanted.condition}",
            hint=f"`isthmus host maintenance {wanted.name} off` lets it take VMs"
            if wanted.state == HostState.UP
            else "choose another host",
        )
    if row.size.bound_by:
        raise WrongState(
            f"cannot migrate {row.name}: it has {row.size.bound_by}",
            hint="stop it, delete it and create it anew where it shall be",
        )


def _migrates(broker: Broker, at: HostRow) -> bool:
    return not at.elastic and capability.has(broker, at.site, Capability.MIGRATE)


def _begun(broker: Broker, movable: _MovablePool, view: PlanView) -> PlanView:
    for task in movable.begun:
        broker.submit(task)
    return view
