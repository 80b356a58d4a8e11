"""vm.suspend, vm.resume, and vm.preempt, which is both: suspend -> place -> resume.

A suspended VM keeps its disk and its saved memory on its host, and waits in the queue for room there alone.
"""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy.orm import Session

from broker import event, usage, vm
from broker.engine import vm_power
from broker.engine.declaration import Declaration, Done, GiveUp, Next, Outcome, Phase, Step, Wait
from broker.engine.spec import placed
from broker.states import VMState
from broker.store import VMRow
from providers import port


def suspend(step: Step[VMRow]) -> Outcome:
    """Save its memory. A VM that is saved already stays so."""
    broker, row = step.broker, step.target
    host, site = placed(row)
    provider = port.require(broker.providers.of(site), port.Capability.SUSPEND)
    report = provider.observe_vm(host, row.id, row.provider_ref or "")
    if report is None or report.state == port.VMState.TERMINATED:
        return GiveUp("it no longer exists at the provider")
    if report.state == port.VMState.RUNNING:
        provider.suspend_vm(host, report.ref)
    elif report.state == port.VMState.PENDING:
        return Wait(0.5, "starting still", signals=(f"{row.id}.seen",))
    elif report.state != port.VMState.SUSPENDED:
        return GiveUp(f"it is {report.state} and cannot be suspended")
    reason = f"suspended {step.operation.params.get('reason', '')}".strip() if step.goes_on else ""

    def write(session: Session, owned: VMRow) -> None:
        if owned.state != VMState.SUSPENDED:
            vm.set_state(broker, owned, VMState.SUSPENDED, reason)
            usage.end(broker, session, owned.id)
            event.record(
                broker,
                session,
                "vm.suspended",
                owned.id,
                f"{owned.name} is suspended",
                project_id=owned.project_id,
            )

    if step.goes_on:
        return Next(message="waiting for room on its host", write=write)
    return Done("suspended", write)


def place(step: Step[VMRow]) -> Outcome:
    """Wait until a round has given it its room back, or somebody has started it by hand."""
    broker, row = step.broker, step.target
    if row.state != VMState.SUSPENDED:
        return Next()
    host, site = placed(row)
    report = broker.providers.of(site).observe_vm(host, row.id, row.provider_ref or "")
    if report is None or report.state == port.VMState.TERMINATED:
        return GiveUp("it no longer exists at the provider")
    if report.state in (port.VMState.SUSPENDED, port.VMState.STOPPED):
        return Wait(30.0, row.status_reason or "waiting for room on its host", signals=(f"{row.id}.seen",))

    def write(session: Session, owned: VMRow) -> None:
        if owned.host is not None:
            usage.begin(broker, session, owned, owned.host)
        vm.set_state(broker, owned, VMState.PENDING, "started outside Isthmus")

    return Next(write=write)


def resume(step: Step[VMRow]) -> Outcome:
    """Let it go on. Starting twice starts once."""
    return vm_power.start(step)


_SUSPEND = Phase(
    suspend,
    undo="a VM that is saved loses nothing, and is resumed",
    calls=("observe_vm", "suspend_vm"),
)
_RESUME = (
    Phase(place, to=(resume,), undo="the reconciler sees what runs and what does not", calls=("observe_vm",)),
    Phase(resume, undo="a VM that goes on does what its owner wants", calls=vm_power.START_CALLS),
)
_ABANDON = Phase(vm_power.abandon, undo="it only writes")

SUSPEND = Declaration("vm.suspend", VMRow, (_SUSPEND,), abandon=_ABANDON)
RESUME = Declaration("vm.resume", VMRow, _RESUME, abandon=_ABANDON)
PREEMPT = Declaration("vm.preempt", VMRow, (replace(_SUSPEND, to=(place,)), *_RESUME), abandon=_ABANDON)
