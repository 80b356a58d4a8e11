"""vm.start, vm.stop and vm.reboot: settle -> act -> done, or abandon."""

from __future__ import annotations

from broker import event, vm
from broker.engine import vm_delete
from broker.engine.advance import Done, Fail, Next, Outcome, Phase, Step, Wait
from broker.engine.vm_create import now_running, own, placed, spec_of
from providers import port


def settle(step: Step) -> Outcome:
    """As in vm.delete: nobody else may be in the middle of a call."""
    outcome = vm_delete.settle(step)
    return Next("act") if isinstance(outcome, Next) else outcome


def start(step: Step) -> Outcome:
    """Start it; one whose definition was removed by hand is made again around its disk. Starting twice starts once."""
    broker, row = step.broker, step.vm
    host, site = placed(row)
    provider = broker.providers.of(site)
    report = provider.observe_vm(host, row.id, row.provider_ref or "")
    if report is None or report.state == port.VMState.TERMINATED:
        if row.elastic:
            return Next("abandon", params={"why": "it no longer exists at the provider"})
        with broker.store.reading() as session:
            spec = spec_of(step, session)
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
            return Next("abandon", params={"why": f"not running {step.age_s:.0f} s after its start"})
        return Wait(min(0.25 + step.age_s / 10, 5.0), "starting", signals=(f"{row.id}.seen",))
    with broker.store.transaction() as session:
        now_running(step, session, own(step, session), report)
    return Done("running")


def stop(step: Step) -> Outcome:
    """Ask the guest; when the grace is over, or ``force`` was asked for, pull the plug. Twice is as once."""
    broker, row = step.broker, step.vm
    host, site = placed(row)
    provider = port.require(broker.providers.of(site), port.Capability.STOP)
    report = provider.observe_vm(host, row.id, row.provider_ref or "")
    if report is None or report.state == port.VMState.TERMINATED:
        return Next("abandon", params={"why": "it no longer exists at the provider"})
    if report.state == port.VMState.SUSPENDED:
        return Next("abandon", params={"why": "it was suspended outside Isthmus"})
    if report.state == port.VMState.STOPPED:
        with broker.store.transaction() as session:
            owned = own(step, session)
            vm.set_state(broker, owned, vm.STOPPED)
            event.record(
                broker, session, "vm.stopped", row.id, f"{row.name} is stopped", project_id=row.project_id
            )
        return Done("stopped")
    asked = step.operation.params.get("asked")
    forced = step.operation.params.get("force") or step.age_s > broker.settings.timing.stop_grace_s
    if forced:
        provider.stop_vm(host, report.ref, force=True)
    elif not asked:
        provider.stop_vm(host, report.ref)
    message = "pulling the plug" if forced else "shutting down"
    return Wait(0.25, message, signals=(f"{row.id}.seen",), params={"asked": True})


def reboot(step: Step) -> Outcome:
    """Reboot it once; a process that dies in between may reboot it a second time, which a reboot's caller bears."""
    broker, row = step.broker, step.vm
    host, site = placed(row)
    provider = port.require(broker.providers.of(site), port.Capability.REBOOT)
    if not step.operation.params.get("asked"):
        provider.reboot_vm(host, row.provider_ref or "")
        return Wait(0.1, "rebooting", params={"asked": True})
    report = provider.observe_vm(host, row.id, row.provider_ref or "")
    if report is None or report.state != port.VMState.RUNNING:
        if step.age_s > broker.settings.timing.boot_s:
            return Next("abandon", params={"why": "not running again after its reboot"})
        return Wait(0.5, "rebooting", signals=(f"{row.id}.seen",))
    with broker.store.transaction() as session:
        now_running(step, session, own(step, session), report)
    return Done("rebooted")


def abandon(step: Step) -> Outcome:
    """Say why it did not work; the reconciler writes the state that it finds the VM in."""
    why = str(step.operation.params.get("why", "given up"))
    with step.broker.store.transaction() as session:
        vm.set_state(step.broker, own(step, session), vm.ERROR, why)
    step.broker.signals.set("reconcile")
    return Fail(why)


START: dict[str, Phase] = {"settle": settle, "act": start, "abandon": abandon}
STOP: dict[str, Phase] = {"settle": settle, "act": stop, "abandon": abandon}
REBOOT: dict[str, Phase] = {"settle": settle, "act": reboot, "abandon": abandon}
