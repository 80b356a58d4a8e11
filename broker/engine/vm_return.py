"""vm.return: a burst VM comes home. shutdown -> unpeer -> terminate -> home -> the phases of vm.create.

vm.relaunch is the same for a VM that its cloud took back, which is shut down already and may go to a cloud again.

Up to ``home`` these are the phases of vm.delete; then the VM is placed again, on a host of our own only.
Its disk is made anew from its image, as in every "recreate": what must outlive a VM belongs on a volume.
"""

from __future__ import annotations

from sqlalchemy.orm import Session

from broker import event, vm
from broker.engine import vm_create, vm_delete
from broker.engine.declaration import Declaration, Fail, Next, Outcome, Phase, Step, Wait
from broker.engine.vm_create import LAUNCH, give_back, place
from broker.states import VMState
from broker.store import VMRow


def shutdown(step: Step[VMRow]) -> Outcome:
    """Let the guest end its work: it will begin anew elsewhere."""
    return vm_delete.let_end(step)


def home(step: Step[VMRow]) -> Outcome:
    """When the cloud no longer has it, let go of what it held there and queue it again."""
    if not vm_delete.is_gone(step):
        return Wait(min(0.5 + step.age_s / 10, 5.0), "terminating in the cloud")
    broker = step.broker
    taken_back = step.declaration is RELAUNCH

    def write(session: Session, row: VMRow) -> None:
        if row.host_id is not None and not taken_back:
            event.record(
                broker,
                session,
                "vm.returned",
                row.id,
                f"{row.name} left its cloud",
                project_id=row.project_id,
            )
        give_back(broker, session, row)
        vm.set_state(broker, row, VMState.PENDING, "waiting for a host" + ("" if taken_back else " at home"))

    return Next(write=write)


def abandon(step: Step[VMRow]) -> Outcome:
    """While it is still in the cloud, leave it there and say so; on its way to a host at home, as in vm.create."""
    if not step.target.elastic:
        return vm_create.abandon(step)
    why = f"it could not come home: {step.why}"
    step.broker.signals.set("reconcile")
    return Fail(why, lambda _, row: vm.set_state(step.broker, row, VMState.ERROR, why))


_LEAVE = (
    Phase(
        vm_delete.remove_peer,
        name="unpeer",
        to=(vm_delete.terminate,),
        undo="without its peer it is reached no more: it goes on with its way home",
    ),
    Phase(
        vm_delete.terminate,
        to=(home,),
        undo="a machine that is gone does not come back",
        calls=("delete_vm",),
    ),
    Phase(home, to=(place,), undo="what it held in the cloud is gone", calls=("observe_vm",)),
    *LAUNCH,
)
_ABANDON = Phase(abandon, undo="it is the undo", calls=("delete_vm",))

RETURN = Declaration(
    "vm.return",
    VMRow,
    (
        Phase(
            shutdown,
            to=(vm_delete.remove_peer,),
            undo="a guest that was asked to end may do so",
            calls=("observe_vm", "stop_vm"),
        ),
        *_LEAVE,
    ),
    abandon=_ABANDON,
)

RELAUNCH = Declaration("vm.relaunch", VMRow, _LEAVE, abandon=_ABANDON)
