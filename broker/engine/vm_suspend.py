"""vm.suspend, vm.resume, and vm.preempt, which is both: settle -> suspend -> place -> resume.

A suspended VM keeps its disk and its saved memory on its host, and waits in the queue for room there alone.
"""

from __future__ import annotations

from broker import event, queue, usage, vm
from broker.engine import vm_delete, vm_power
from broker.engine.advance import Done, Next, Outcome, Phase, Step, Wait
from broker.engine.vm_create import fresh, own, placed
from providers import port


def settle(step: Step) -> Outcome:
    """As in vm.delete: nobody else may be in the middle of a call."""
    outcome = vm_delete.settle(step)
    if not isinstance(outcome, Next):
        return outcome
    return Next("place" if step.operation.kind == "vm.resume" else "suspend")


def suspend(step: Step) -> Outcome:
    """Save its memory. A VM that is saved already stays so."""
    broker, row = step.broker, step.vm
    host, site = placed(row)
    provider = port.require(broker.providers.of(site), port.Capability.SUSPEND)
    report = provider.observe_vm(host, row.id, row.provider_ref or "")
    if report is None or report.state == port.VMState.TERMINATED:
        return Next("abandon", params={"why": "it no longer exists at the provider"})
    if report.state == port.VMState.RUNNING:
        provider.suspend_vm(host, report.ref)
    elif report.state == port.VMState.PENDING:
        return Wait(0.5, "starting still", signals=(f"{row.id}.seen",))
    elif report.state != port.VMState.SUSPENDED:
        return Next("abandon", params={"why": f"it is {report.state} and cannot be suspended"})
    preempted = step.operation.kind == "vm.preempt"
    with broker.store.transaction() as session:
        owned = own(step, session)
        if owned.state != vm.SUSPENDED:
            why = str(step.operation.params.get("reason", ""))
            vm.set_state(broker, owned, vm.SUSPENDED, f"suspended {why}".strip() if preempted else "")
            usage.end(broker, session, row.id)
            event.record(
                broker, session, "vm.suspended", row.id, f"{row.name} is suspended", project_id=row.project_id
            )
    broker.signals.set("place")
    return Next("place", "waiting for room on its host") if preempted else Done("suspended")


def place(step: Step) -> Outcome:
    """Wait until a round has given it its room back, or somebody has started it by hand."""
    broker = step.broker
    queue.place_pending(broker)
    row = fresh(step)
    if row.state != vm.SUSPENDED:
        return Next("resume")
    host, site = placed(row)
    report = broker.providers.of(site).observe_vm(host, row.id, row.provider_ref or "")
    if report is None or report.state == port.VMState.TERMINATED:
        return Next("abandon", params={"why": "it no longer exists at the provider"})
    if report.state in (port.VMState.SUSPENDED, port.VMState.STOPPED):
        return Wait(30.0, row.status_reason or "waiting for room on its host", signals=(f"{row.id}.seen",))
    with broker.store.transaction() as session:
        owned = own(step, session)
        if owned.host is not None:
            usage.begin(broker, session, owned, owned.host)
        vm.set_state(broker, owned, vm.PENDING, "started outside Isthmus")
    return Next("resume")


def resume(step: Step) -> Outcome:
    """Let it go on. Starting twice starts once."""
    return vm_power.start(step)


PHASES: dict[str, Phase] = {
    "settle": settle,
    "suspend": suspend,
    "place": place,
    "resume": resume,
    "abandon": vm_power.abandon,
}
