"""vm.return: a burst VM comes home. settle -> shutdown -> unpeer -> terminate -> home -> the phases of vm.create.

vm.relaunch is the same for a VM that its cloud took back, which may go to a cloud again.

Up to ``home`` these are the phases of vm.delete; then the VM is placed again, on a host of our own only.
Its disk is made anew from its image, as in every "recreate": what must outlive a VM belongs on a volume.
"""

from __future__ import annotations

from broker import event, vm
from broker.engine import vm_create, vm_delete
from broker.engine.advance import Fail, Next, Outcome, Phase, Step, Wait
from broker.engine.vm_create import let_go, own
from broker.states import VMState


def settle(step: Step) -> Outcome:
    """As in vm.delete, always with a shutdown; what the cloud has taken back is shut down already."""
    outcome = vm_delete.settle(step)
    if not isinstance(outcome, Next):
        return outcome
    return Next("unpeer" if step.operation.kind == "vm.relaunch" else "shutdown")


def shutdown(step: Step) -> Outcome:
    """As in vm.delete."""
    return _renamed(vm_delete.shutdown(step), "peer", "unpeer")


def terminate(step: Step) -> Outcome:
    """As in vm.delete."""
    return _renamed(vm_delete.terminate(step), "gone", "home")


def home(step: Step) -> Outcome:
    """When the cloud no longer has it, let go of what it held there and queue it again."""
    if not vm_delete.is_gone(step):
        return Wait(min(0.5 + step.age_s / 10, 5.0), "terminating in the cloud")
    broker = step.broker
    with broker.store.transaction() as session:
        row = own(step, session)
        taken_back = step.operation.kind == "vm.relaunch"
        if row.host_id is not None and not taken_back:
            event.record(
                broker,
                session,
                "vm.returned",
                row.id,
                f"{row.name} left its cloud",
                project_id=row.project_id,
            )
        let_go(step, session, row)
        vm.set_state(broker, row, VMState.PENDING, "waiting for a host" + ("" if taken_back else " at home"))
    broker.signals.set("place")
    return Next("place")


def abandon(step: Step) -> Outcome:
    """While it is still in the cloud, leave it there and say so; on its way to a host at home, as in vm.create."""
    if not step.vm.elastic:
        return vm_create.abandon(step)
    why = f"it could not come home: {step.operation.params.get('why', 'given up')}"
    with step.broker.store.transaction() as session:
        vm.set_state(step.broker, own(step, session), VMState.ERROR, why)
    step.broker.signals.set("reconcile")
    return Fail(why)


def _renamed(outcome: Outcome, old: str, new: str) -> Outcome:
    if isinstance(outcome, Next) and outcome.phase == old:
        return Next(new, outcome.message, outcome.params)
    return outcome


PHASES: dict[str, Phase] = {
    **vm_create.PHASES,
    "settle": settle,
    "shutdown": shutdown,
    "unpeer": vm_delete.remove_peer,
    "terminate": terminate,
    "home": home,
    "abandon": abandon,
}
