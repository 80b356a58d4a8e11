"""vm.migrate: settle -> image -> network -> turn -> move.

The VM holds room on both hosts until it is known where it is. The provider's move can be asked for again: a VM that
has arrived is only reported.
"""

from __future__ import annotations

import time
from dataclasses import replace

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from broker import event, image, network, operation, reservation, usage, vm
from broker.engine import vm_delete
from broker.engine.advance import Done, Fail, Next, Outcome, Phase, Step, Wait
from broker.engine.vm_create import own, placed, say, spec_of
from broker.store import HostRow, OperationRow, VMRow
from providers import port

_AT_ONCE = 4
"""Migrations that copy at a time: more would only share the network."""


def settle(step: Step) -> Outcome:
    """As in vm.delete: nobody else may be in the middle of a call."""
    outcome = vm_delete.settle(step)
    return Next("image") if isinstance(outcome, Next) else outcome


def copy_image(step: Step) -> Outcome:
    """Ensure the image on the target, under the disk's changes that come."""
    _, site = placed(step.vm)
    step.broker.providers.of(site).ensure_image(_target(step), image.spec(step.vm.image, site.name))
    return Next("network")


def make_networks(step: Step) -> Outcome:
    """Ensure the VM's subnets on the target."""
    _, site = placed(step.vm)
    target = _target(step)
    for nic in step.vm.nics:
        step.broker.providers.of(site).ensure_network(target, network.spec(nic.subnet))
    return Next("turn")


def turn(step: Step) -> Outcome:
    """Wait until few others copy."""
    with step.broker.store.reading() as session:
        others = session.scalar(
            select(func.count())
            .select_from(OperationRow)
            .where(
                OperationRow.kind == "vm.migrate",
                OperationRow.state == operation.RUNNING,
                OperationRow.phase == "move",
            )
        )
    if (others or 0) >= _AT_ONCE:
        return Wait(1.0, "waiting for other migrations")
    return Next("move")


def move(step: Step) -> Outcome:
    """Let the provider move it; what it says of the VM then is where it is."""
    broker, row = step.broker, step.vm
    host, site = placed(row)
    target = _target(step)
    with broker.store.reading() as session:
        spec = replace(spec_of(step, session), host=target)
    said = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal said
        if total and time.monotonic() - said >= 1.0:
            said = time.monotonic()
            say(step, f"moving to {target}: {100 * done // total} %")

    provider = port.require(broker.providers.of(site), port.Capability.MIGRATE)
    report = provider.migrate_vm(spec, host, progress)
    with broker.store.transaction() as session:
        _arrived(step, session, own(step, session), report)
    broker.signals.set("place")
    return Done(f"running on {site.name}/{target}")


def abandon(step: Step) -> Outcome:
    """Look where it is. It runs on at its source, or has arrived after all."""
    broker, row = step.broker, step.vm
    if row.host_id == step.operation.params["target"]:
        return Done("running on its target")
    why = str(step.operation.params.get("why", "given up"))
    host, site = placed(row)
    provider = broker.providers.of(site)
    there = provider.observe_vm(_target(step), row.id, row.provider_ref or "")
    here = provider.observe_vm(host, row.id, row.provider_ref or "")
    arrived = there is not None and there.state == port.VMState.RUNNING and here is None
    with broker.store.transaction() as session:
        owned = own(step, session)
        if arrived and there is not None:
            _arrived(step, session, owned, there)
        else:
            reservation.follow(session, owned, move_from=owned.target_host_id, to=owned.host_id)
            owned.target_host_id = None
            runs = here is not None and here.state == port.VMState.RUNNING
            vm.set_state(broker, owned, vm.RUNNING if runs else vm.ERROR, f"it could not move: {why}")
            event.record(
                broker,
                session,
                "vm.not_migrated",
                row.id,
                f"{row.name} could not move: {why}",
                project_id=row.project_id,
            )
    broker.signals.set("place")
    broker.signals.set("reconcile")
    return Done("running on its target") if arrived else Fail(why)


def _target(step: Step) -> str:
    with step.broker.store.reading() as session:
        row = session.get(HostRow, step.operation.params["target"])
    if row is None:
        raise port.Conflict("the host that it was to move to is gone")
    return row.name


def _arrived(step: Step, session: Session, row: VMRow, report: port.VMReport) -> None:
    target = session.get_one(HostRow, step.operation.params["target"])
    if row.host_id == target.id:
        return  # a step whose outcome was not written has said so
    row.host_id, row.target_host_id, row.provider_ref = target.id, None, report.ref
    usage.begin(step.broker, session, row, target)
    vm.set_state(step.broker, row, vm.RUNNING)
    event.record(
        step.broker,
        session,
        "vm.migrated",
        row.id,
        f"{row.name} runs on {target.site.name}/{target.name}",
        project_id=row.project_id,
    )


PHASES: dict[str, Phase] = {
    "settle": settle,
    "image": copy_image,
    "network": make_networks,
    "turn": turn,
    "move": move,
    "abandon": abandon,
}
