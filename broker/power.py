"""Start, stop, reboot, suspend and resume: each a change of the VM and an operation, written in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from broker import access, capability, event, vm
from broker.actor import Actor
from broker.broker import Broker
from broker.errors import WrongState
from broker.states import VMState
from broker.store import OperationRow, VMRow
from providers.port import Capability


def start(broker: Broker, actor: Actor, ref: str) -> tuple[VMRow, OperationRow]:
    """Start a stopped VM, or resume a suspended one; nothing changes when it runs. Raises NotFound, WrongState."""
    access.require(actor, "vm.start")
    if vm.get(broker, actor, ref).state == VMState.SUSPENDED:
        return resume(broker, actor, ref)
    return _change(
        broker,
        actor,
        ref,
        "vm.start",
        needs=Capability.STOP,
        desired=VMState.RUNNING,
        allowed=(VMState.STOPPED, VMState.RUNNING),
        via=VMState.PENDING,
    )


def stop(broker: Broker, actor: Actor, ref: str, *, force: bool = False) -> tuple[VMRow, OperationRow]:
    """Ask the guest to shut down, and after a while (or at once with ``force``) pull the plug.

    Raises NotFound, WrongState: also for a suspended VM, whose room somebody else may have, and where its site stops no VMs.
    """
    access.require(actor, "vm.stop")
    return _change(
        broker,
        actor,
        ref,
        "vm.stop",
        needs=Capability.STOP,
        desired=VMState.STOPPED,
        allowed=(VMState.RUNNING, VMState.STOPPED),
        via=VMState.STOPPING,
        params={"force": force},
    )


def reboot(broker: Broker, actor: Actor, ref: str) -> tuple[VMRow, OperationRow]:
    """Reboot a running VM. Raises NotFound, WrongState."""
    access.require(actor, "vm.reboot")
    return _change(
        broker,
        actor,
        ref,
        "vm.reboot",
        needs=Capability.REBOOT,
        desired=VMState.RUNNING,
        allowed=(VMState.RUNNING,),
        via=VMState.RUNNING,
    )


def suspend(broker: Broker, actor: Actor, ref: str) -> tuple[VMRow, OperationRow]:
    """Save a VM's memory on its host's disk and give its cores and memory back. Suspending again changes nothing.

    Raises NotFound, WrongState (it does not run, or its site cannot suspend).
    """
    access.require(actor, "vm.suspend")
    seen = vm.get(broker, actor, ref)
    access.require(actor, "vm.suspend", seen.project_id)
    if seen.size.bound_by:
        raise WrongState(
            f"cannot suspend {seen.name}: it has {seen.size.bound_by}",
            hint=f"`isthmus vm stop {seen.name}`",
        )
    return _change(
        broker,
        actor,
        ref,
        "vm.suspend",
        needs=Capability.SUSPEND,
        desired=VMState.SUSPENDED,
        allowed=(VMState.RUNNING, VMState.SUSPENDED),
        via=VMState.SUSPENDING,
        instead_of=("vm.preempt", "vm.resume"),
    )


def resume(broker: Broker, actor: Actor, ref: str) -> tuple[VMRow, OperationRow]:
    """Let a suspended VM go on where it was, as soon as its host has room. Raises NotFound, WrongState."""
    access.require(actor, "vm.resume")
    row, task = _change(
        broker,
        actor,
        ref,
        "vm.resume",
        needs=Capability.SUSPEND,
        desired=VMState.RUNNING,
        allowed=(VMState.SUSPENDED, VMState.RUNNING),
        via=VMState.SUSPENDED,
        instead_of=("vm.preempt",),
    )
    broker.signals.set("place")
    return row, task


def _change(
    broker: Broker,
    actor: Actor,
    ref: str,
    kind: str,
    *,
    needs: Capability,
    desired: VMState,
    allowed: tuple[VMState, ...],
    via: VMState,
    params: dict[str, Any] | None = None,
    instead_of: Sequence[str] = (),
) -> tuple[VMRow, OperationRow]:
    """Write the operation, whose kind is the name of the permission, too.

    One of a kind ``instead_of`` that waits for room, with its VM suspended, makes way for it.
    """
    verb = kind.split(".")[1]
    seen = vm.get(broker, actor, ref)
    access.require(actor, kind, seen.project_id)
    capability.check(broker, seen.site, needs, seen.name, verb=verb)
    with broker.store.transaction() as session:
        row = vm.find(session, actor, ref, lock=True)
        under_way = vm.busy(session, row)
        if under_way is not None and under_way.kind == kind:
            return row, under_way
        if under_way is not None and under_way.kind in instead_of and row.state == VMState.SUSPENDED:
            vm.cancel(broker, session, row, f"{verb} asked by {actor.name}")
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
        task = vm.begin(broker, session, row, kind, params)
        row.desired = desired
        if row.state != desired:
            vm.set_state(broker, row, via, f"{verb} asked by {actor.name}")
        event.record(
            broker,
            session,
            f"{kind}.requested",
            row.id,
            f"{verb} of {row.name} asked by {actor.name}",
            project_id=row.project_id,
        )
    broker.submit(task)
    return row, task
