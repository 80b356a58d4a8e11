"""vm.create: place -> image -> network -> [peer] -> launch -> boot -> [enrol].

The phases in brackets are those of a burst VM. Every action can run twice: images, networks and VMs are
ensured, a peer is prepared once per launch, and the provider's idempotency token names the launch.
An undo is needed only where a launch is given up (``unplace``, ``abandon``): what was claimed, leased and
made for it goes back, in this order: the peers, the VM at the provider, the address, the room on the host.
"""

from __future__ import annotations

import time
from datetime import timedelta

from sqlalchemy.orm import Session

from broker import event, image, keypair, network, peer, queue, usage, vm
from broker.actor import Actor
from broker.broker import Broker
from broker.engine.advance import Done, Fail, Next, Outcome, Phase, Step, Superseded, Wait
from broker.errors import NotFound
from broker.ids import vm_uuid
from broker.store import GatewayRow, LeaseRow, OperationRow, PeerRow, SiteRow, VMRow
from providers import port
from vpn.userdata import multipart

_AVOID_S = 120.0
"""How long a host that had no room after all is passed over."""
_MOST_LAUNCHES = 5
_TUNNEL = network.TUNNEL


def place(step: Step) -> Outcome:
    """Wait for the matchmaker. The round places everybody who waits, so most calls only read what it did."""
    queue.place_pending(step.broker)
    row = fresh(step)
    if row.host is None or row.site is None:
        if row.immediate and row.status_reason and not row.interruptions:
            return Next("abandon", params={"why": f"it was to start now or not at all: {row.status_reason}"})
        # Not woken by "place": of a thousand that wait, each would look for the room of one. The round wakes whom it places.
        return Wait(30.0, row.status_reason or "waiting for a host")
    return Next("image", f"placed on {row.site.name}/{row.host.name}")


def copy_image(step: Step) -> Outcome:
    """Ensure the image on the host. Idempotent: the provider looks first."""
    row = step.vm
    host, site = placed(row)
    said = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said >= 1.0 and total:
            said = time.monotonic()
            say(step, f"copying image {row.image.name} to {host}: {100 * done // total} %")

    try:
        step.broker.providers.of(site).ensure_image(host, image.spec(row.image, site.name), progress)
    except port.NotFound as error:
        return unplace(step, str(error))
    except port.Unreachable as error:
        return _elsewhere(step, error)
    return Next("network")


def make_networks(step: Step) -> Outcome:
    """Ensure the VM's subnets on the host. Idempotent: the provider looks first."""
    row = step.vm
    host, site = placed(row)
    provider = step.broker.providers.of(site)
    tunnel = False
    try:
        for nic in row.nics:
            if nic.subnet.mode == _TUNNEL:
                tunnel = True
            else:
                provider.ensure_network(host, network.spec(nic.subnet))
    except port.Unreachable as error:
        return _elsewhere(step, error)
    return Next("peer" if tunnel else "launch")


def prepare_peer(step: Step) -> Outcome:
    """Have each network's gateway know the launch's bootstrap key before the VM exists. Preparing again gives the same peers."""
    broker = step.broker
    with broker.store.transaction() as session:
        row = own(step, session)
        ways: list[tuple[GatewayRow, LeaseRow]] = []
        for nic in _tunnels(row):
            gate = queue.gateway_of(session, nic.subnet.network_id)
            if gate is None or gate.public_key is None:
                return Wait(
                    5.0,
                    f"network {nic.subnet.network.name} has no gateway whose agent runs",
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
            entry = entry or peer.prepare(broker, session, row, gate, nic.address)
            if gate.applied_generation < entry.generation:
                behind.append(f"gateway {gate.name}")
    broker.signals.set("gateways")
    if behind:
        return Wait(2.0, f"waiting for {' and '.join(behind)} to know the launch", signals=("applied",))
    return Next("launch")


def launch(step: Step) -> Outcome:
    """Ensure the VM at the provider. The token and the UUID make a repeated call find the same VM."""
    broker, row = step.broker, step.vm
    host, site = placed(row)
    with broker.store.reading() as session:
        have = peer.tunnels(session, row.id)
        entries = [have.get(nic.subnet.network_id) for nic in _tunnels(row)]
        if any(entry is None or _too_late(broker, entry) for entry in entries):
            return Next("peer", "its bootstrap key has run out before the launch")
        spec = spec_of(step, session)
    try:
        report = broker.providers.of(site).ensure_vm(spec)
    except (port.OutOfCapacity, port.QuotaExceeded) as error:
        return unplace(step, str(error))
    except port.NotFound as error:
        if row.elastic:
            return unplace(step, str(error))
        return Next("image", str(error))  # it was removed from the host meanwhile: copy it again
    with broker.store.transaction() as session:
        row = own(step, session)
        row.provider_ref = report.ref
        row.launched_at = row.launched_at or broker.clock.now()
        running = report.state == port.VMState.RUNNING
        if running:
            now_running(step, session, row, report)
    if not running:
        return Next("boot", f"starting on {site.name}/{host}")
    return (
        Next("enrol", "running, not enrolled yet")
        if _tunnels(row)
        else Done(f"running on {site.name}/{host}")
    )


def boot(step: Step) -> Outcome:
    """Wait until the provider says it runs."""
    broker, row = step.broker, step.vm
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
            return Next("abandon", params={"why": f"not running {step.age_s:.0f} s after its launch"})
        return Wait(
            min(0.25 + step.age_s / 10, 5.0), f"starting on {site.name}/{host}", signals=(f"{row.id}.seen",)
        )
    with broker.store.transaction() as session:
        now_running(step, session, own(step, session), report)
    return (
        Next("enrol", "running, not enrolled yet")
        if _tunnels(row)
        else Done(f"running on {site.name}/{host}")
    )


def enrol(step: Step) -> Outcome:
    """Wait until the VM has posted a key of its own to each gateway. One that never does is of no use, and is not paid for."""
    broker, row = step.broker, step.vm
    with broker.store.transaction() as session:
        have = peer.tunnels(session, row.id)
        missing: list[str] = []
        expired = False
        for nic in _tunnels(row):
            entry = have.get(nic.subnet.network_id)
            if entry is None or entry.state != peer.ENROLLED:
                missing.append(nic.subnet.network.name)
                expired |= entry is None or entry.expires_at <= broker.clock.now()
        if not missing:
            return Done(f"enrolled at {', '.join(nic.address for nic in _tunnels(row))}")
    host, site = placed(row)
    if expired:
        where = "" if len(_tunnels(row)) == 1 else f" of {' and '.join(missing)}"
        why = f"it did not enrol at the gateway{where} while its bootstrap key was good"
        said = _last_words(step, host, site)
        return Next("abandon", params={"why": f"{why}; its console says: {said}" if said else why})
    report = broker.providers.of(site).observe_vm(host, row.id, row.provider_ref or "")
    if report is None or report.state in (port.VMState.TERMINATED, port.VMState.TERMINATING):
        return unplace(step, f"{site.name}/{host} ended it before it enrolled")
    return Wait(5.0, "running, not enrolled yet", signals=(f"{row.id}.peer",))


def abandon(step: Step) -> Outcome:
    """Give the launch up: nothing of it stays behind, and the VM says why."""
    why = str(step.operation.params.get("why", "given up"))
    undo(step)
    with step.broker.store.transaction() as session:
        row = own(step, session)
        let_go(step, session, row)
        vm.set_state(step.broker, row, vm.ERROR, why)
    step.broker.signals.set("place")
    return Fail(why)


def _placed_only(phase: Phase) -> Phase:
    """The phase for a VM with a host. One without lost it in a step whose outcome was not written: look for another."""

    def run(step: Step) -> Outcome:
        return Next("place") if step.vm.host_id is None else phase(step)

    return run


PHASES: dict[str, Phase] = {
    "place": place,
    "image": _placed_only(copy_image),
    "network": _placed_only(make_networks),
    "peer": _placed_only(prepare_peer),
    "launch": _placed_only(launch),
    "boot": _placed_only(boot),
    "enrol": _placed_only(enrol),
    "abandon": abandon,
}


def unplace(step: Step, why: str, *, launched: bool = True) -> Outcome:
    """Take a launch back and look for another host; after some launches give up."""
    row = step.vm
    if launched and row.launch >= _MOST_LAUNCHES:
        return Next("abandon", params={"why": f"given up after {row.launch} launches; the last one: {why}"})
    if launched:
        undo(step)
    avoid = dict(step.operation.params.get("avoid", {}))
    if row.host_id:
        avoid[row.host_id] = (step.broker.clock.now() + timedelta(seconds=_AVOID_S)).timestamp()
    with step.broker.store.transaction() as session:
        row = own(step, session)
        event.record(
            step.broker,
            session,
            "vm.unplaced",
            row.id,
            f"{row.name}: {why}",
            project_id=row.project_id,
            host=row.host_id,
        )
        let_go(step, session, row)
        vm.set_state(step.broker, row, vm.PENDING, why)
    step.broker.signals.set("place")
    return Next("place", why, params={"avoid": avoid})


def _elsewhere(step: Step, error: port.Unreachable) -> Outcome:
    # Only before the launch: once it may have been asked for, silence does not say that there is no VM.
    return unplace(step, str(error), launched=False)


def undo(step: Step) -> None:
    """Remove the launch's peers and whatever the provider has of the VM. Doing it again changes nothing."""
    with step.broker.store.transaction() as session:
        own(step, session)
        peer.remove(step.broker, session, step.vm.id)
    step.broker.signals.set("gateways")
    if step.vm.host is not None and step.vm.site is not None:
        step.broker.providers.of(step.vm.site).delete_vm(
            step.vm.host.name, step.vm.id, step.vm.provider_ref or ""
        )


def fresh(step: Step) -> VMRow:
    """The VM as it is now."""
    with step.broker.store.reading() as session:
        return session.get_one(VMRow, step.vm.id)


def own(step: Step, session: Session) -> VMRow:
    """The VM, locked, while this operation is still the one in charge. Raises Superseded."""
    row = session.get_one(VMRow, step.vm.id, with_for_update={"of": VMRow}, populate_existing=True)
    task = session.get_one(OperationRow, step.operation.id)
    if (
        task.state != "running"
        or task.claim_token != step.operation.claim_token
        or row.operation_id != task.id
    ):
        raise Superseded
    return row


def placed(row: VMRow) -> tuple[str, SiteRow]:
    """The host's name and the site of a placed VM."""
    if row.host is None or row.site is None:
        raise LookupError(f"{row.id} is not placed")
    return row.host.name, row.site


def say(step: Step, message: str) -> None:
    """Let watchers of the operation read where a long action stands."""
    with step.broker.store.transaction() as session:
        task = session.get_one(OperationRow, step.operation.id)
        if task.claim_token == step.operation.claim_token:
            task.message = message


def now_running(step: Step, session: Session, row: VMRow, report: port.VMReport) -> None:
    """Write that the VM runs, in the caller's transaction."""
    if row.state != vm.RUNNING:
        where = f"{row.site.name}/{row.host.name}" if row.site and row.host else "?"
        event.record(
            step.broker,
            session,
            "vm.running",
            row.id,
            f"{row.name} runs on {where}",
            project_id=row.project_id,
        )
    if row.elastic:
        row.public_address = report.address or row.public_address
    vm.set_state(step.broker, row, vm.RUNNING)


def spec_of(step: Step, session: Session) -> port.VMSpec:
    """What the provider is asked to make. Equal rows give equal specs."""
    broker, row = step.broker, step.vm
    host, site = placed(row)
    user_data = broker.sealer.open(row.sealed_user_data) if row.sealed_user_data else ""
    nics: list[port.NICSpec] = []
    ends: list[tuple[PeerRow, int]] = []
    have = peer.tunnels(session, row.id)
    for nic in row.nics:
        if nic.subnet.mode == _TUNNEL:
            entry = have.get(nic.subnet.network_id)
            if entry is not None and entry.state == peer.BOOTSTRAP:
                ends.append((entry, nic.subnet.mtu))
        else:
            prefix = int(nic.subnet.cidr.rsplit("/", 1)[1])
            nics.append(port.NICSpec(network.spec(nic.subnet), nic.mac, nic.address, prefix))
    if ends:
        user_data = multipart(user_data, peer.join_script(broker, ends))
    ssh_keys: tuple[str, ...] = ()
    if row.key_pair:
        try:
            owner = Actor(project_id=row.project_id, role="member", name=row.name)
            ssh_keys = (keypair.find(session, owner, row.key_pair).public_key,)
        except NotFound:
            ssh_keys = ()
    instance_type = row.host.attributes.get("instance_type", "") if row.host is not None else ""
    return port.VMSpec(
        id=row.id,
        uuid=vm_uuid(broker.id, row.id),
        token=f"{row.id}-{row.launch}",
        name=row.name,
        host=host,
        vcpus=row.vcpus,
        mem_mb=row.mem_mb,
        disk_gb=row.disk_gb,
        gpus=row.gpus,
        dedicated_cpus=row.dedicated_cpus,
        hugepages=row.hugepages,
        image=image.spec(row.image, site.name),
        nics=tuple(nics),
        user_data=user_data,
        ssh_keys=ssh_keys,
        hostname=row.name.split(".")[0],
        project=row.project.name,
        instance_type=str(instance_type),
        labels=row.labels,
    )


def _last_words(step: Step, host: str, site: SiteRow) -> str:
    """What the joining script last said on the guest's console; empty when the provider cannot tell."""
    provider = step.broker.providers.of(site)
    if port.Capability.CONSOLE not in provider.capabilities:
        return ""
    try:
        console = provider.console_log(host, step.vm.provider_ref or "").decode("utf-8", "replace")
    except port.ProviderError:
        return ""  # It only explains; the VM goes all the same.
    said = [line.partition("isthmus: ")[2].strip() for line in console.splitlines() if "isthmus: " in line]
    return "".join(sign for sign in said[-1] if sign.isprintable())[:200] if said else ""


def _too_late(broker: Broker, entry: PeerRow) -> bool:
    # A third of its life is left for the boot, or a new one is made.
    left = (entry.expires_at - broker.clock.now()).total_seconds()
    return entry.state == peer.BOOTSTRAP and left < broker.settings.timing.enrol_s / 3


def _tunnels(row: VMRow) -> list[LeaseRow]:
    """Its NICs that are ends of tunnels."""
    return [nic for nic in row.nics if nic.subnet.mode == _TUNNEL]


def let_go(step: Step, session: Session, row: VMRow) -> None:
    """Give back a VM's addresses and its room, in the caller's transaction."""
    network.release(step.broker, session, row.id)
    usage.end(step.broker, session, row.id)
    row.host_id = row.site_id = None
    row.provider_ref = row.public_address = None
    row.launched_at = row.enrolled_at = None
    row.elastic = False
