"""vm.delete: [shutdown] -> peer -> terminate -> gone.

The peers go first, so that no packet of a VM that is on its way out reaches the private network; then the
VM at the provider; then, when it is certainly gone, its address and its room. Nothing here is ever given
up: a VM that cannot be deleted now is tried again until it can.
"""

from __future__ import annotations

from sqlalchemy.orm import Session

from broker import event, nic, peer, usage, vm
from broker.engine.declaration import Declaration, Done, Next, Outcome, Phase, Step, Wait
from broker.engine.spec import placed
from broker.states import VMState
from broker.store import HostRow, VMRow
from providers import port

UNDONE = "a VM that is on its way out does not come back"


def shutdown(step: Step[VMRow]) -> Outcome:
    """Where it was asked for, let the guest end its work."""
    if step.target.host_id is None:
        return Next(gone)
    return let_end(step) if step.operation.params.get("graceful") else Next()


def let_end(step: Step[VMRow]) -> Outcome:
    """Let the guest end its work, for as long as the grace lasts, and go on. Asking again does no harm."""
    row = step.target
    host, site = placed(row)
    provider = step.broker.providers.of(site)
    report = provider.observe_vm(host, row.id, row.provider_ref or "")
    if report is None or report.state not in (port.VMState.RUNNING, port.VMState.STOPPING):
        return Next()
    if step.age_s > step.broker.settings.timing.stop_grace_s:
        return Next(message="the guest did not shut down in time")
    if not port.supports(provider, port.Capability.STOP):
        return Next(message="guests are not asked to shut down at this site")
    if not step.operation.params.get("asked"):
        port.require(provider, port.Capability.STOP).stop_vm(host, report.ref)
        return Wait(0.5, "shutting down", signals=(f"{row.id}.seen",), params={"asked": True})
    return Wait(0.5, "shutting down", signals=(f"{row.id}.seen",))


def remove_peer(step: Step[VMRow]) -> Outcome:
    """Take the peers from their gateways, and wait until these have done so, unless one does not answer at all."""
    broker = step.broker
    with step.transaction() as (session, row):
        entries = peer.remove(broker, session, row.id)
        for entry in entries:
            session.refresh(entry.gateway)
    broker.signals.set("gateways")
    behind = [
        f"gateway {entry.gateway.name}"
        for entry in entries
        if entry.gateway.applied_generation < entry.generation
    ]
    if not behind:
        return Next()
    if step.age_s > broker.settings.timing.gateway_s:
        # A gateway that is away goes on with its last document; it drops the peer when it is back, and the
        # address rests until then is over (address.release). Not terminating would only cost money.
        return Next(message=f"{' and '.join(behind)} does not answer")
    return Wait(1.0, f"waiting for {' and '.join(behind)} to drop the peer", signals=("applied",))


def terminate(step: Step[VMRow]) -> Outcome:
    """Delete the VM at the provider. Idempotent: deleting what is gone succeeds."""
    _, site = placed(step.target)
    for host in _hosts(step):
        step.broker.providers.of(site).delete_vm(host, step.target.id, step.target.provider_ref or "")
    return Next()


def gone(step: Step[VMRow]) -> Outcome:
    """When the provider no longer has it, give back what it held and write the end."""
    broker = step.broker
    if not is_gone(step):
        return Wait(min(0.5 + step.age_s / 10, 5.0), "terminating", signals=(f"{step.target.id}.seen",))

    def write(session: Session, row: VMRow) -> None:
        nic.remove(broker, row)
        usage.end(broker, session, row.id)
        row.target_host_id = None
        if row.state != VMState.TERMINATED:
            vm.set_state(broker, row, VMState.TERMINATED, str(step.operation.params.get("reason", "")))
            event.record(
                broker,
                session,
                "vm.terminated",
                row.id,
                f"{row.name} is terminated",
                project_id=row.project_id,
            )

    return Done("terminated", write)


def is_gone(step: Step[VMRow]) -> bool:
    """Whether the provider certainly has it no more."""
    row = step.target
    if row.host is None or row.site is None:
        return True
    provider = step.broker.providers.of(row.site)
    reports = [provider.observe_vm(host, row.id, row.provider_ref or "") for host in _hosts(step)]
    return all(report is None or report.state == port.VMState.TERMINATED for report in reports)


def _hosts(step: Step[VMRow]) -> list[str]:
    """Where it is: one that was on its way to another host may be on either."""
    host, _ = placed(step.target)
    if step.target.target_host_id is None:
        return [host]
    with step.broker.store.reading() as session:
        target = session.get(HostRow, step.target.target_host_id)
    return [host] if target is None else [host, target.name]


DELETE = Declaration(
    "vm.delete",
    VMRow,
    (
        Phase(shutdown, to=(remove_peer, gone), undo=UNDONE, calls=("observe_vm", "stop_vm")),
        Phase(remove_peer, name="peer", to=(terminate,), undo=UNDONE),
        Phase(terminate, to=(gone,), undo=UNDONE, calls=("delete_vm",)),
        Phase(gone, undo=UNDONE, calls=("observe_vm",)),
    ),
)
