"""vm.migrate: image -> network -> turn -> move.

The VM holds room on both hosts until it is known where it is. The provider's move can be asked for again: a VM that
has arrived is only reported.
"""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from broker import event, image, network, reservation, usage, vm
from broker.engine.declaration import Declaration, Done, Fail, Next, Outcome, Phase, Step, Wait
from broker.engine.spec import attached, copying, placed, spec_of
from broker.states import OperationState, VMState
from broker.store import HostRow, OperationRow, VMRow
from providers import port

_AT_ONCE = 4
"""Migrations that copy at a time: more would only share the network."""


def copy_image(step: Step[VMRow]) -> Outcome:
    """Ensure the image on the target, under the disk's changes that come."""
    _, site = placed(step.target)
    step.broker.providers.of(site).ensure_image(_target(step), image.spec(step.target.image, site.id))
    return Next()


def make_networks(step: Step[VMRow]) -> Outcome:
    """Ensure the VM's subnets on the target."""
    _, site = placed(step.target)
    target = _target(step)
    for _, subnet in attached(step.target):
        step.broker.providers.of(site).ensure_network(target, network.spec(subnet))
    return Next()


def turn(step: Step[VMRow]) -> Outcome:
    """Wait until few others copy."""
    with step.broker.store.reading() as session:
        others = session.scalar(
            select(func.count())
            .select_from(OperationRow)
            .where(
                OperationRow.kind == MIGRATE.kind,
                OperationRow.state == OperationState.RUNNING,
                OperationRow.phase == "move",
            )
        )
    if (others or 0) >= _AT_ONCE:
        return Wait(1.0, "waiting for other migrations")
    return Next()


def move(step: Step[VMRow]) -> Outcome:
    """Let the provider move it; what it says of the VM then is where it is."""
    broker = step.broker
    host, site = placed(step.target)
    target = _target(step)
    with broker.store.reading() as session:
        spec = replace(spec_of(broker, session, step.target), host=target)
    provider = port.require(broker.providers.of(site), port.Capability.MIGRATE)
    report = provider.migrate_vm(spec, host, copying(step, f"moving to {target}"))
    broker.signals.set("place")
    return Done(f"running on {site.name}/{target}", lambda session, row: _arrived(step, session, row, report))


def abandon(step: Step[VMRow]) -> Outcome:
    """Look where it is. It runs on at its source, or has arrived after all."""
    broker, row = step.broker, step.target
    if row.host_id == step.operation.params["target"]:
        return Done("running on its target")
    host, site = placed(row)
    provider = broker.providers.of(site)
    there = provider.observe_vm(_target(step), row.id, row.provider_ref or "")
    here = provider.observe_vm(host, row.id, row.provider_ref or "")
    broker.signals.set("place")
    broker.signals.set("reconcile")
    if there is not None and there.state == port.VMState.RUNNING and here is None:
        arrived = there
        return Done("running on its target", lambda session, owned: _arrived(step, session, owned, arrived))
    runs = here is not None and here.state == port.VMState.RUNNING

    def write(session: Session, owned: VMRow) -> None:
        reservation.follow(session, owned, move_from=owned.target_host_id, to=owned.host_id)
        owned.target_host_id = None
        state = VMState.RUNNING if runs else VMState.ERROR
        vm.set_state(broker, owned, state, f"it could not move: {step.why}")
        event.record(
            broker,
            session,
            "vm.not_migrated",
            owned.id,
            f"{owned.name} could not move: {step.why}",
            project_id=owned.project_id,
        )

    return Fail(step.why, write)


def _target(step: Step[VMRow]) -> str:
    with step.broker.store.reading() as session:
        row = session.get(HostRow, step.operation.params["target"])
    if row is None:
        raise port.Conflict("the host that it was to move to is gone")
    return row.name


def _arrived(step: Step[VMRow], session: Session, row: VMRow, report: port.VMReport) -> None:
    target = session.get_one(HostRow, step.operation.params["target"])
    row.host_id, row.target_host_id, row.provider_ref = target.id, None, report.ref
    usage.begin(step.broker, session, row, target)
    vm.set_state(step.broker, row, VMState.RUNNING)
    event.record(
        step.broker,
        session,
        "vm.migrated",
        row.id,
        f"{row.name} runs on {target.site.name}/{target.name}",
        project_id=row.project_id,
    )


MIGRATE = Declaration(
    "vm.migrate",
    VMRow,
    (
        Phase(
            copy_image,
            name="image",
            to=(make_networks,),
            undo="an image on a host is kept for the next VM",
            calls=("ensure_image",),
        ),
        Phase(
            make_networks,
            name="network",
            to=(turn,),
            undo="a subnet on a host is there for all VMs",
            calls=("ensure_network",),
        ),
        Phase(turn, to=(move,), undo="it only waits"),
        Phase(
            move,
            undo="a move that failed leaves nothing on its target (the port's contract)",
            calls=("migrate_vm",),
        ),
    ),
    abandon=Phase(abandon, undo="it is the undo", calls=("observe_vm",)),
)
