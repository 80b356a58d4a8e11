"""vm.create: place -> image -> network -> [peer] -> launch -> boot -> [enrol].

The phases in brackets are those of a burst VM. Every action can run twice: images, networks and VMs are
ensured, a peer is prepared once per launch, and the provider's idempotency token names the launch.
Where a launch is given up (``unplace``, ``abandon``), what was claimed, leased and made for it goes back: the peer first,
so that no packet of a VM that is on its way out reaches the private network, then the VM at the provider, then
the address and the room on the host.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy.orm import Session

from broker import address, event, image, network, peer, pool, usage, vm
from broker.broker import Broker
from broker.engine.declaration import (
    Declaration,
    Done,
    Fail,
    GiveUp,
    Next,
    Outcome,
    Phase,
    Step,
    Wait,
    Write,
    writes,
)
from broker.engine.spec import attached, copying, placed, spec_of, tunnels
from broker.states import PeerState, SubnetMode, VMState
from broker.store import GatewayRow, NICRow, PeerRow, VMRow
from providers import port

_AVOID_S = 120.0
"""How long a host that had no room after all is passed over."""
_MOST_LAUNCHES = 5


def place(step: Step[VMRow]) -> Outcome:
    """Wait for the matchmaker, which submits the operation when its round has decided something about the VM."""
    row = step.target
    if row.host is None or row.site is None:
        if row.immediate and row.status_reason and not row.interruptions:
            return GiveUp(f"it was to start now or not at all: {row.status_reason}")
        return Wait(None, row.status_reason or "waiting for a host")
    return Next(message=f"placed on {row.site.name}/{row.host.name}")


def copy_image(step: Step[VMRow]) -> Outcome:
    """Ensure the image on the host. Idempotent: the provider looks first."""
    row = step.target
    host, site = placed(row)
    saying = copying(step, f"copying image {row.image.name} to {host}")
    try:
        step.broker.providers.of(site).ensure_image(host, image.spec(row.image, site.id), saying)
    except (port.NotFound, port.Unreachable) as error:
        # Only before the launch: once it may have been asked for, silence does not say that there is no VM.
        return unplace(step, str(error))
    return Next()


def make_networks(step: Step[VMRow]) -> Outcome:
    """Ensure the VM's subnets on the host. Idempotent: the provider looks first."""
    row = step.target
    host, site = placed(row)
    provider = step.broker.providers.of(site)
    try:
        for _, subnet in attached(row):
            if subnet.mode != SubnetMode.TUNNEL:
                provider.ensure_network(host, network.spec(subnet))
    except port.Unreachable as error:
        return unplace(step, str(error))
    return Next(prepare_peer if tunnels(row) else launch)


def prepare_peer(step: Step[VMRow]) -> Outcome:
    """Have each network's gateway know the launch's bootstrap key before the VM exists. Preparing again gives the same peers."""
    broker = step.broker
    with step.transaction() as (session, row):
        ways: list[tuple[GatewayRow, NICRow]] = []
        for nic in tunnels(row):
            gate = pool.gateway_of(session, nic.network_id)
            if gate is None or gate.public_key is None:
                return Wait(
                    5.0,
                    f"network {nic.network_name} has no gateway whose agent runs",
                    signals=("applied",),
                )
            ways.append((gate, nic))
        have = peer.tunnels(session, row.id)
        behind: list[str] = []
        for gate, nic in sorted(ways, key=lambda way: way[0].id):
            entry = have.get(gate.network_id)
            if entry is not None and _too_late(broker, entry):
                peer.expire(broker, session, entry)
                entry = None
            entry = entry or peer.prepare(broker, session, row, gate, nic)
            if gate.applied_generation < entry.generation:
                behind.append(f"gateway {gate.name}")
    broker.signals.set("gateways")
    if behind:
        return Wait(2.0, f"waiting for {' and '.join(behind)} to know the launch", signals=("applied",))
    return Next()


def launch(step: Step[VMRow]) -> Outcome:
    """Ensure the VM at the provider. The token and the UUID make a repeated call find the same VM."""
    broker, row = step.broker, step.target
    host, site = placed(row)
    with broker.store.reading() as session:
        have = peer.tunnels(session, row.id) if tunnels(row) else {}
        entries = [have.get(nic.network_id) for nic in tunnels(row)]
        if any(entry is None or _too_late(broker, entry) for entry in entries):
            return Next(prepare_peer, "its bootstrap key has run out before the launch")
        spec = spec_of(broker, session, row)
    try:
        report = broker.providers.of(site).ensure_vm(spec)
    except (port.OutOfCapacity, port.QuotaExceeded) as error:
        return unplace(step, str(error))
    except port.NotFound as error:
        if row.elastic:
            return unplace(step, str(error))
        return Next(copy_image, str(error))  # it was removed from the host meanwhile: copy it again
    running = report.state == port.VMState.RUNNING

    def write(session: Session, owned: VMRow) -> None:
        owned.provider_ref = report.ref
        owned.launched_at = owned.launched_at or broker.clock.now()
        if running:
            now_running(broker, session, owned, report)

    return _up(step, write) if running else Next(message=f"starting on {site.name}/{host}", write=write)


def boot(step: Step[VMRow]) -> Outcome:
    """Wait until the provider says it runs."""
    broker, row = step.broker, step.target
    host, site = placed(row)
    report = broker.providers.of(site).observe_vm(host, row.id, row.provider_ref or "")
    if report is None or report.state in (
        port.VMState.TERMINATED,
        port.VMState.ERROR,
        port.VMState.TERMINATING,
    ):
        reason = report.reason if report is not None and report.reason else "it is gone"
        return unplace(step, f"{site.name}/{host} ended it while it started: {reason}")
    if report.state != port.VMState.RUNNING:
        if step.age_s > broker.settings.timing.boot_s:
            return GiveUp(f"not running {step.age_s:.0f} s after its launch")
        return Wait(
            min(0.25 + step.age_s / 10, 5.0), f"starting on {site.name}/{host}", signals=(f"{row.id}.seen",)
        )
    return _up(step, lambda session, owned: now_running(broker, session, owned, report))


def _up(step: Step[VMRow], write: Write) -> Outcome:
    if tunnels(step.target):
        return Next(enrol, "running, not enrolled yet", write=write)
    host, site = placed(step.target)
    return Done(f"running on {site.name}/{host}", write)


def enrol(step: Step[VMRow]) -> Outcome:
    """Wait until the VM has posted a key of its own to each gateway. One that never does is of no use, and is not paid for."""
    broker, row = step.broker, step.target
    with broker.store.reading() as session:
        have = peer.tunnels(session, row.id)
    missing: list[str] = []
    expired = False
    for nic in tunnels(row):
        entry = have.get(nic.network_id)
        if entry is None or entry.state != PeerState.ENROLLED:
            missing.append(nic.network_name)
            expired |= entry is None or entry.expires_at <= broker.clock.now()
    if not missing:
        return Done(f"enrolled at {', '.join(have[nic.network_id].address for nic in tunnels(row))}")
    host, site = placed(row)
    if expired:
        where = "" if len(tunnels(row)) == 1 else f" of {' and '.join(missing)}"
        why = f"it did not enrol at the gateway{where} while its bootstrap key was good"
        said = _last_words(step)
        return GiveUp(f"{why}; its console says: {said}" if said else why)
    report = broker.providers.of(site).observe_vm(host, row.id, row.provider_ref or "")
    if report is None or report.state in (port.VMState.TERMINATED, port.VMState.TERMINATING):
        return unplace(step, f"{site.name}/{host} ended it before it enrolled")
    return Wait(5.0, "running, not enrolled yet", signals=(f"{row.id}.peer",))


def abandon(step: Step[VMRow]) -> Outcome:
    """Give the launch up: nothing of it stays behind, and the VM says why."""
    undone = step.unwind()
    step.broker.signals.set("place")
    return Fail(
        step.why,
        writes(undone, lambda _, row: vm.set_state(step.broker, row, VMState.ERROR, step.why)),
    )


def unplace(step: Step[VMRow], why: str) -> Outcome:
    """Take back what was done so far and look for another host; after some launches give up."""
    broker, row = step.broker, step.target
    launched = step.declaration.phase(step.operation.phase).run in (launch, boot, enrol)
    if launched and row.launch >= _MOST_LAUNCHES:
        return GiveUp(f"given up after {row.launch} launches; the last one: {why}")
    undone = step.unwind()
    avoid = dict(step.operation.params.get("avoid", {}))
    if row.host_id:
        avoid[row.host_id] = (broker.clock.now() + timedelta(seconds=_AVOID_S)).timestamp()

    def write(session: Session, owned: VMRow) -> None:
        event.record(
            broker,
            session,
            "vm.unplaced",
            owned.id,
            f"{owned.name}: {why}",
            project_id=owned.project_id,
            host=row.host_id,
        )
        vm.set_state(broker, owned, VMState.PENDING, why)

    broker.signals.set("place")
    return Next(place, why, params={"avoid": avoid}, write=writes([*undone, write]))


def take_back(step: Step[VMRow]) -> None:
    """Remove the launch's peers and whatever the provider has of the VM. Doing it again changes nothing."""
    drop_peer(step)
    row = step.target
    if row.host is not None and row.site is not None:
        step.broker.providers.of(row.site).delete_vm(row.host.name, row.id, row.provider_ref or "")


def drop_peer(step: Step[VMRow]) -> None:
    """Have the gateways forget the launch. Doing it again changes nothing."""
    if tunnels(step.target):
        with step.transaction() as (session, row):
            peer.remove(step.broker, session, row.id)
        step.broker.signals.set("gateways")


def let_go(step: Step[VMRow]) -> Write:
    """Give back the VM's addresses and its room."""
    return lambda session, row: give_back(step.broker, session, row)


def give_back(broker: Broker, session: Session, row: VMRow) -> None:
    """Give back a VM's addresses and its room, in the caller's transaction. Doing it again changes nothing."""
    address.release(broker, row)
    usage.end(broker, session, row.id)
    row.host_id = row.site_id = None
    row.provider_ref = row.public_address = None
    row.launched_at = row.enrolled_at = None
    row.elastic = False


def now_running(broker: Broker, session: Session, row: VMRow, report: port.VMReport) -> None:
    """Write that the VM runs, in the caller's transaction."""
    if row.state != VMState.RUNNING:
        where = f"{row.site.name}/{row.host.name}" if row.site and row.host else "?"
        event.record(
            broker,
            session,
            "vm.running",
            row.id,
            f"{row.name} runs on {where}",
            project_id=row.project_id,
        )
    if row.elastic:
        row.public_address = report.address or row.public_address
    vm.set_state(broker, row, VMState.RUNNING)


def _last_words(step: Step[VMRow]) -> str:
    """What the joining script last said on the guest's console; empty when the provider cannot tell."""
    host, site = placed(step.target)
    provider = step.broker.providers.of(site)
    if not port.supports(provider, port.Capability.CONSOLE):
        return ""
    try:
        shows = port.require(provider, port.Capability.CONSOLE)
        console = shows.console_log(host, step.target.provider_ref or "").decode("utf-8", "replace")
    except port.ProviderError:
        return ""  # It only explains; the VM goes all the same.
    said = [line.partition("isthmus: ")[2].strip() for line in console.splitlines() if "isthmus: " in line]
    return "".join(sign for sign in said[-1] if sign.isprintable())[:200] if said else ""


def _too_late(broker: Broker, entry: PeerRow) -> bool:
    # A third of its life is left for the boot, or a new one is made.
    left = (entry.expires_at - broker.clock.now()).total_seconds()
    return entry.state == PeerState.BOOTSTRAP and left < broker.settings.timing.enrol_s / 3


LAUNCH = (
    Phase(place, to=(copy_image,), undo=let_go),
    Phase(
        copy_image,
        name="image",
        to=(make_networks, place),
        undo="an image on a host is kept for the next VM",
        calls=("ensure_image",),
    ),
    Phase(
        make_networks,
        name="network",
        to=(launch, prepare_peer, place),
        undo="a subnet on a host is there for all VMs",
        calls=("ensure_network",),
    ),
    Phase(prepare_peer, name="peer", to=(launch,), undo=drop_peer),
    Phase(
        launch,
        to=(boot, enrol, prepare_peer, copy_image, place),
        undo=take_back,
        calls=("ensure_vm", "delete_vm"),
        ends=True,
    ),
    Phase(boot, to=(enrol, place), undo="it only looks", calls=("observe_vm",), ends=True),
    Phase(
        enrol,
        to=(place,),
        undo="the peer of the launch goes with it",
        calls=("observe_vm", "console_log"),
        ends=True,
    ),
)
"""The phases from the queue to a VM that runs, which other operations go through too."""

CREATE = Declaration(
    "vm.create",
    VMRow,
    LAUNCH,
    abandon=Phase(abandon, undo="it is the undo", calls=("delete_vm",)),
    settles=False,
)
