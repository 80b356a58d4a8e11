"""vm.delete: settle -> [shutdown] -> peer -> terminate -> gone.

The peers go first, so that no packet of a VM that is on its way out reaches the private network; then the
VM at the provider; then, when it is certainly gone, its address and its room. Nothing here is ever given
up: a VM that cannot be deleted now is tried again until it can.
"""

from __future__ import annotations

from sqlalchemy import select

from broker import event, network, peer, usage, vm
from broker.engine.advance import Done, Next, Outcome, Phase, Step, Wait
from broker.engine.vm_create import own, placed
from broker.store import HostRow, OperationRow
from providers import port


def settle(step: Step) -> Outcome:
    """Wait until no driver of an earlier operation can still be in the middle of a call to the provider."""
    broker = step.broker
    with broker.store.reading() as session:
        other = session.scalar(
            select(OperationRow.id).where(
                OperationRow.target == step.vm.id,
                OperationRow.id != step.operation.id,
                OperationRow.claim_until > broker.clock.now(),
            )
        )
    if other is not None:
        return Wait(1.0, "waiting for an earlier step to end", signals=(f"{step.vm.id}.seen",))
    if step.vm.host_id is None:
        return Next("gone")
    return Next("shutdown" if step.operation.params.get("graceful") else "peer")


def shutdown(step: Step) -> Outcome:
    """Let the guest end its work, for as long as the grace lasts. Asking again does no harm."""
    row = step.vm
    host, site = placed(row)
    provider = step.broker.providers.of(site)
    report = provider.observe_vm(host, row.id, row.provider_ref or "")
    if report is None or report.state not in (port.VMState.RUNNING, port.VMState.STOPPING):
        return Next("peer")
    if step.age_s > step.broker.settings.timing.stop_grace_s:
        return Next("peer", "the guest did not shut down in time")
    if not step.operation.params.get("asked") and port.Capability.STOP in provider.capabilities:
        provider.stop_vm(host, report.ref)
        return Wait(0.5, "shutting down", signals=(f"{row.id}.seen",), params={"asked": True})
    return Wait(0.5, "shutting down", signals=(f"{row.id}.seen",))


def remove_peer(step: Step) -> Outcome:
    """Take the peers from their gateways, and wait until these have done so, unless one does not answer at all."""
    broker = step.broker
    with broker.store.transaction() as session:
        own(step, session)
        entries = peer.remove(broker, session, step.vm.id)
        for entry in entries:
            session.refresh(entry.gateway)
    broker.signals.set("gateways")
    behind = [
        f"gateway {entry.gateway.name}"
        for entry in entries
        if entry.gateway.applied_generation < entry.generation
    ]
    if not behind:
        return Next("terminate")
    if step.age_s > broker.settings.timing.gateway_s:
        # A gateway that is away goes on with its last document; it drops the peer when it is back, and the
        # address rests until then is over (network.release). Not terminating would only cost money.
        return Next("terminate", f"{' and '.join(behind)} does not answer")
    return Wait(1.0, f"waiting for {' and '.join(behind)} to drop the peer", signals=("applied",))


def terminate(step: Step) -> Outcome:
    """Delete the VM at the provider. Idempotent: deleting what is gone succeeds."""
    _, site = placed(step.vm)
    for host in _hosts(step):
        step.broker.providers.of(site).delete_vm(host, step.vm.id, step.vm.provider_ref or "")
    return Next("gone")


def gone(step: Step) -> Outcome:
    """When the provider no longer has it, give back what it held and write the end."""
    broker, row = step.broker, step.vm
    if not is_gone(step):
        return Wait(min(0.5 + step.age_s / 10, 5.0), "terminating", signals=(f"{row.id}.seen",))
    with broker.store.transaction() as session:
        row = own(step, session)
        network.release(broker, session, row.id)
        usage.end(broker, session, row.id)
        row.target_host_id = None
        if row.state != vm.TERMINATED:
            vm.set_state(broker, row, vm.TERMINATED, str(step.operation.params.get("reason", "")))
            event.record(
                broker,
                session,
                "vm.terminated",
                row.id,
                f"{row.name} is terminated",
                project_id=row.project_id,
            )
    broker.signals.set("place")
    broker.signals.set("policy")
    return Done("terminated")


def is_gone(step: Step) -> bool:
    """Whether the provider certainly has it no more."""
    row = step.vm
    if row.host is None or row.site is None:
        return True
    provider = step.broker.providers.of(row.site)
    reports = [provider.observe_vm(host, row.id, row.provider_ref or "") for host in _hosts(step)]
    return all(report is None or report.state == port.VMState.TERMINATED for report in reports)


def _hosts(step: Step) -> list[str]:
    """Where it is: one that was on its way to another host may be on either."""
    host, _ = placed(step.vm)
    if step.vm.target_host_id is None:
        return [host]
    with step.broker.store.reading() as session:
        target = session.get(HostRow, step.vm.target_host_id)
    return [host] if target is None else [host, target.name]


PHASES: dict[str, Phase] = {
    "settle": settle,
    "shutdown": shutdown,
    "peer": remove_peer,
    "terminate": terminate,
    "gone": gone,
}
