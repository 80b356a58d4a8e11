"""vm.start, vm.stop and vm.reboot: one phase each, and one that puts things right."""

from __future__ import annotations

from sqlalchemy.orm import Session

from broker import event, vm
from broker.engine.declaration import Declaration, Done, Fail, GiveUp, Outcome, Phase, Step, Wait
from broker.engine.spec import placed, spec_of
from broker.engine.vm_create import now_running
from broker.states import VMState
from broker.store import VMRow
from providers import port

START_CALLS = ("observe_vm", "start_vm", "ensure_image", "ensure_network", "ensure_vm")


def start(step: Step[VMRow]) -> Outcome:
    """Start it; one whose definition was removed by hand is made again around its disk. Starting twice starts once."""
    broker, row = step.broker, step.target
    host, site = placed(row)
    provider = broker.providers.of(site)
    report = provider.observe_vm(host, row.id, row.provider_ref or "")
    if report is None or report.state == port.VMState.TERMINATED:
        if row.elastic:
            return GiveUp("it no longer exists at the provider")
        with broker.store.reading() as session:
            spec = spec_of(broker, session, row)
        # What removed the VM may have removed what it stands on.
        provider.ensure_image(host, spec.image)
        for nic in spec.nics:
            provider.ensure_network(host, nic.network)
        report = provider.ensure_vm(spec)
    elif report.state == port.VMState.STOPPED:
        port.require(provider, port.Capability.STOP).start_vm(host, report.ref)
        report = provider.observe_vm(host, row.id, report.ref)
    elif report.state == port.VMState.SUSPENDED:
        port.require(provider, port.Capability.SUSPEND).start_vm(host, report.ref)
        report = provider.observe_vm(host, row.id, report.ref)
    if report is None or report.state != port.VMState.RUNNING:
        if step.age_s > broker.settings.timing.boot_s:
            return GiveUp(f"not running {step.age_s:.0f} s after its start")
        return Wait(min(0.25 + step.age_s / 10, 5.0), "starting", signals=(f"{row.id}.seen",))
    return _runs(step, report, "running")


def stop(step: Step[VMRow]) -> Outcome:
    """Ask the guest; when the grace is over, or ``force`` was asked for, pull the plug. Twice is as once."""
    broker, row = step.broker, step.target
    host, site = placed(row)
    provider = port.require(broker.providers.of(site), port.Capability.STOP)
    report = provider.observe_vm(host, row.id, row.provider_ref or "")
    if report is None or report.state == port.VMState.TERMINATED:
        return GiveUp("it no longer exists at the provider")
    if report.state == port.VMState.SUSPENDED:
        return GiveUp("it was suspended outside Isthmus")
    if report.state == port.VMState.STOPPED:
        return Done("stopped", lambda session, owned: _now_stopped(step, session, owned))
    asked = step.operation.params.get("asked")
    forced = step.operation.params.get("force") or step.age_s > broker.settings.timing.stop_grace_s
    if forced:
        provider.stop_vm(host, report.ref, force=True)
    elif not asked:
        provider.stop_vm(host, report.ref)
    message = "pulling the plug" if forced else "shutting down"
    return Wait(0.25, message, signals=(f"{row.id}.seen",), params={"asked": True})


def reboot(step: Step[VMRow]) -> Outcome:
    """Reboot it once; a process that dies in between may reboot it a second time, which a reboot's caller bears."""
    broker, row = step.broker, step.target
    host, site = placed(row)
    provider = port.require(broker.providers.of(site), port.Capability.REBOOT)
    if not step.operation.params.get("asked"):
        provider.reboot_vm(host, row.provider_ref or "")
        return Wait(0.1, "rebooting", params={"asked": True})
    report = provider.observe_vm(host, row.id, row.provider_ref or "")
    if report is None or report.state != port.VMState.RUNNING:
        if step.age_s > broker.settings.timing.boot_s:
            return GiveUp("not running again after its reboot")
        return Wait(0.5, "rebooting", signals=(f"{row.id}.seen",))
    return _runs(step, report, "rebooted")


def abandon(step: Step[VMRow]) -> Outcome:
    """Say why it did not work; the reconciler writes the state that it finds the VM in."""
    step.broker.signals.set("reconcile")
    return Fail(step.why, lambda _, row: vm.set_state(step.broker, row, VMState.ERROR, step.why))


def _runs(step: Step[VMRow], report: port.VMReport, message: str) -> Done:
    return Done(message, lambda session, row: now_running(step.broker, session, row, report))


def _now_stopped(step: Step[VMRow], session: Session, row: VMRow) -> None:
    vm.set_state(step.broker, row, VMState.STOPPED)
    event.record(
        step.broker, session, "vm.stopped", row.id, f"{row.name} is stopped", project_id=row.project_id
    )


_ABANDON = Phase(abandon, undo="it only writes")
_OWNERS = "it is what its owner asked for"

START = Declaration(
    "vm.start", VMRow, (Phase(start, name="act", undo=_OWNERS, calls=START_CALLS),), abandon=_ABANDON
)
STOP = Declaration(
    "vm.stop",
    VMRow,
    (Phase(stop, name="act", undo=_OWNERS, calls=("observe_vm", "stop_vm")),),
    abandon=_ABANDON,
)
REBOOT = Declaration(
    "vm.reboot",
    VMRow,
    (Phase(reboot, name="act", undo=_OWNERS, calls=("reboot_vm", "observe_vm")),),
    abandon=_ABANDON,
)
