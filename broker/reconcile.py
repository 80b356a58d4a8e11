"""The reconciler: what happened behind the broker's back.

It takes no input. Woken by signals and by the clock it compares every site with the rows, and this table is
all that it does (``docs/explanation/reconciler.md`` says why):

=======================================================  ===========================================
what it finds                                            what it does
=======================================================  ===========================================
a VM was stopped, started or suspended by hand            records it: its owner did that
a VM of ours crashed                                      records ``error`` with the provider's reason
a VM in ``error`` runs, or is stopped                     records that, and keeps the error as the reason
a VM is on another host of its site                       records its new host: somebody moved it
a VM is on two hosts of its site                          stops the one that is not on its host, says so
a VM's definition is gone from a host                     mends: makes it again around its disk
an instance is gone from its cloud                        records: peer, address and room go back
spare capacity was taken back by its cloud                launches the VM again
a VM of ours that was terminated here still runs there    deletes it: nobody may be billed unseen
a VM with our mark that no row knows                      leaves it alone, says so once
a stranger's VM                                           leaves it alone, says so once; its size counts
a subnet of ours that no row knows                        takes it away, unless a machine is on it
a host does not answer                                    marks it; nothing is concluded from silence
=======================================================  ===========================================
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload, lazyload

from broker import event, policy, site, sweep, usage, vm
from broker.broker import Broker
from broker.engine_port import Turns
from broker.states import OperationState, VMState
from broker.store import EventRow, HostRow, OperationRow, SiteRow, VMRow
from providers import port
from providers.port import SPOT_INTERRUPTED, Listing, ProviderError, VMReport

log = structlog.get_logger()

_MEND_AGAIN_S = 300.0
_SAME = (
    (port.VMState.RUNNING, VMState.RUNNING),
    (port.VMState.STOPPED, VMState.STOPPED),
    (port.VMState.SUSPENDED, VMState.SUSPENDED),
)
_FOUND = {
    port.VMState.RUNNING: VMState.RUNNING,
    port.VMState.STOPPED: VMState.STOPPED,
    port.VMState.SUSPENDED: VMState.SUSPENDED,
}
_ABSENT = (port.VMState.TERMINATED, port.VMState.TERMINATING)


_AT_ONCE = 12
"""Sites that this process compares at a time."""


_MOST_NEWS = 100
"""VMs that are looked at one by one; when more have news, all are compared."""

_SHARE = 40.0
"""A pass without news takes no more than this part of the time."""


class Reconciler:
    """What the reconciler of a process remembers: which sites are being compared now, and when it was last woken."""

    def __init__(self, _broker: Broker) -> None:
        self.lock = threading.Lock()
        self.running: set[str] = set()
        self.pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="isthmus-reconcile")
        self.woken = 0
        self.took: dict[str, float] = {}
        """Site id -> seconds that its last pass took."""


def reconcile(
    broker: Broker, patience_s: float | None = None, turns: Turns | None = None, rest_s: float = 0.0
) -> None:
    """Compare every site with its rows once, some of them at a time.

    ``patience_s``: do not wait longer for slow sites; each goes on by itself, and is left out of the next pass
    while it does. None waits for all. ``turns``: of brokers that share a store one compares a site at a time, and
    without news of it not again within ``rest_s`` seconds.
    """
    mine = broker.part(Reconciler)
    woken = broker.signals.count("reconcile")
    rest_s, mine.woken = 0.0 if woken != mine.woken else rest_s, woken
    with broker.store.reading() as session:
        rows = list(session.scalars(select(SiteRow)))
    passes = [
        one
        for one in (
            # A site that takes long to compare is compared more seldom, unless there is news.
            _begin(
                broker, mine, row, turns, max(rest_s, _SHARE * mine.took.get(row.id, 0.0)) if rest_s else 0.0
            )
            for row in rows
        )
        if one is not None
    ]
    wait(passes, timeout=patience_s)


def _begin(
    broker: Broker, mine: Reconciler, row: SiteRow, turns: Turns | None, rest_s: float
) -> Future[None] | None:
    """Start the pass of one site, unless its last one still runs."""
    with mine.lock:
        if row.id in mine.running:
            return None
        mine.running.add(row.id)

    def run() -> None:
        duty = f"reconcile:{row.id}"
        try:
            if turns is None or turns.take_turn(duty, rest_s):
                began = time.monotonic()
                try:
                    reconcile_site(broker, row)
                    mine.took[row.id] = time.monotonic() - began
                finally:
                    if turns is not None:
                        turns.end_turn(duty)
        except Exception:
            log.exception("reconcile.failed", site=row.name)
        finally:
            with mine.lock:
                mine.running.discard(row.id)

    return mine.pool.submit(run)


def hear(broker: Broker) -> None:
    """Look at the VMs of which sites told something. All sites are compared only when one of them is not as its row says:
    most news is of what operations of ours just did, and a pass over thousands of hosts for each would be all that is done."""
    news = broker.providers.take_news()
    if not news:
        return
    told = {vm_id for vm_id, _ in list(news)[:_MOST_NEWS]}
    with broker.store.reading() as session:
        tasks = select(VMRow.id, OperationRow.state).outerjoin(
            OperationRow, OperationRow.id == VMRow.operation_id
        )
        known = {row.id: row.state for row in session.execute(tasks.where(VMRow.id.in_(told)))}
        # Most have an operation under way, which looks at reality by itself: of them no more is read.
        at_rest = [vm_id for vm_id, state in known.items() if state != OperationState.RUNNING]
        query = select(VMRow).options(lazyload("*"), joinedload(VMRow.host), joinedload(VMRow.site))
        rows = {row.id: row for row in session.scalars(query.where(VMRow.id.in_(at_rest)))} if at_rest else {}
    doubtful = len(news) > _MOST_NEWS
    for vm_id, host in news:
        row = rows.get(vm_id)
        if known.get(vm_id) == OperationState.RUNNING:
            broker.signals.set(f"{vm_id}.seen")
        elif row is None or row.state != VMState.TERMINATED:
            doubtful = doubtful or row is None or not _looks_as_known(broker, row, host)
    if doubtful:
        broker.signals.set("reconcile")


def _looks_as_known(broker: Broker, row: VMRow, host: str) -> bool:
    """Whether what its site told of a VM on a host is no more than what its row says."""
    if row.site is None or row.host is None or row.host.name != host:
        return False
    try:
        report = broker.providers.of(row.site).observe_vm(host, row.id, row.provider_ref or "")
    except ProviderError:
        return False
    reports = [] if report is None else [report]
    return _as_known(row.state, row.elastic, row.public_address, host, None, reports)


def reconcile_site(broker: Broker, row: SiteRow) -> None:
    """Compare one site with its rows."""
    row = site.take_inventory(broker, row)
    try:
        listing = broker.providers.of(row).list_vms()
    except ProviderError as error:
        log.warning("reconcile.unreachable", site=row.name, error=str(error))
        return
    suspects = _compare(broker, row, listing)
    for target in suspects:
        _lost(broker, row, target)
    _strangers(broker, row, listing)
    try:
        sweep.sweep(broker, row, listing)
    except ProviderError as error:
        log.warning("reconcile.not_swept", site=row.name, error=str(error))


def _compare(broker: Broker, at: SiteRow, listing: Listing) -> list[VMRow]:
    """Write what the listing tells of VMs at rest; returns those that should be there and are not."""
    reports: dict[str, list[VMReport]] = {}
    for found in listing.vms:
        if found.broker_id == broker.id and found.vm_id:
            reports.setdefault(found.vm_id, []).append(found)
    missing: list[VMRow] = []
    doubles: list[tuple[str, VMReport]] = []
    with broker.store.reading() as session:
        found_rows = session.execute(
            select(
                VMRow.id, VMRow.state, VMRow.elastic, VMRow.public_address, HostRow.name, OperationRow.state
            )
            .outerjoin(HostRow, HostRow.id == VMRow.host_id)
            .outerjoin(OperationRow, OperationRow.id == VMRow.operation_id)
            .where(VMRow.site_id == at.id, VMRow.state != VMState.TERMINATED)
        ).all()
    # Nearly all are as they should be: they cost one query together, the others a transaction each.
    for vm_id in [known[0] for known in found_rows if not _as_known(*known[1:], reports.get(known[0], []))]:
        with broker.store.transaction() as session:
            row = session.get_one(VMRow, vm_id, with_for_update={"of": VMRow})
            if (
                row.host is None
                or row.site_id != at.id
                or row.provider_ref is None
                or row.state == VMState.TERMINATED
            ):
                continue
            if vm.busy(session, row) is not None:
                # Its operation looks at reality by itself; news only wake it.
                broker.signals.set(f"{row.id}.seen")
                continue
            seen = reports.get(vm_id, [])
            report = next((one for one in seen if one.host == row.host.name), None)
            running = [one for one in seen if one.host != row.host.name and one.state == port.VMState.RUNNING]
            gone = report is None and row.host.name in listing.complete
            if running and (gone or (report is not None and report.state == port.VMState.STOPPED)):
                report = _moved(broker, session, row, running.pop(0)) or report
            if report is not None and report.state == port.VMState.RUNNING:
                # Both run: not a migration, whose target runs only when its source no longer does.
                doubles += [(row.name, one) for one in running]
            if report is None or report.state in _ABSENT:
                if report is not None or row.host.name in listing.complete:
                    missing.append(row)
                continue
            _record(broker, session, row, report)
    for name, double in doubles:
        _stop_double(broker, at, name, double)
    return missing


def _as_known(
    state: str,
    elastic: bool,
    address: str | None,
    host: str | None,
    task: str | None,
    reports: list[VMReport],
) -> bool:
    """Whether a VM is at rest, and the site reports of it just what its row says."""
    if task == OperationState.RUNNING or len(reports) != 1 or reports[0].host != host:
        return False
    report = reports[0]
    same = (report.state, state) in _SAME
    return same and (not elastic or not report.address or report.address == address)


def _moved(broker: Broker, session: Session, row: VMRow, report: VMReport) -> VMReport | None:
    """It is whole on another host of its site, where somebody moved it by hand: write where it is."""
    host = session.scalar(select(HostRow).where(HostRow.site_id == row.site_id, HostRow.name == report.host))
    if host is None:
        return None
    row.host_id, row.provider_ref = host.id, report.ref
    usage.begin(broker, session, row, host)
    session.flush()
    session.refresh(row, ["host"])
    _say(broker, session, row, "vm.moved", f"{row.name} was moved to {report.host} outside Isthmus")
    return report


def _stop_double(broker: Broker, at: SiteRow, name: str, report: VMReport) -> None:
    """A second machine of one VM: a driver that slept through its own replacement made it. Two of one disk or address
    destroy each other, so it is stopped at once, where the site can do that; its disk is left for its owner to look at."""
    provider = broker.providers.of(at)
    stops = port.supports(provider, port.Capability.STOP)
    _say_once(
        broker,
        "vm.double",
        f"{report.vm_id}@{report.host}",
        f"{name} exists a second time on {at.name}/{report.host}; "
        + (
            "that one is stopped, and not deleted"
            if stops
            else "stop that one by hand at once: this site stops no VMs"
        ),
    )
    try:
        port.require(provider, port.Capability.STOP).stop_vm(report.host, report.ref, force=True)
    except ProviderError as error:
        log.warning("reconcile.double_runs", vm=report.vm_id, host=report.host, error=str(error))


def _record(broker: Broker, session: Session, row: VMRow, report: VMReport) -> None:
    if row.elastic and report.address and report.address != row.public_address:
        row.public_address = report.address
    if row.state == VMState.ERROR and report.state in _FOUND:
        row.desired = _FOUND[report.state]
        was = row.status_reason
        vm.set_state(broker, row, row.desired, f"after an error: {was}" if was else "")
        _say(broker, session, row, "vm.recovered", f"{row.name} is found {row.desired} after an error: {was}")
    elif report.state == port.VMState.RUNNING and row.state in (VMState.STOPPED, VMState.SUSPENDED):
        if row.state == VMState.SUSPENDED and row.host is not None:
            usage.begin(broker, session, row, row.host)
        row.desired = VMState.RUNNING
        vm.set_state(broker, row, VMState.RUNNING)
        _say(broker, session, row, "vm.started_outside", f"{row.name} was started outside Isthmus")
    elif report.state == port.VMState.SUSPENDED and row.state in (VMState.RUNNING, VMState.STOPPED):
        row.desired = VMState.SUSPENDED
        usage.end(broker, session, row.id)
        vm.set_state(broker, row, VMState.SUSPENDED, "suspended outside Isthmus")
        _say(broker, session, row, "vm.suspended_outside", f"{row.name} was suspended outside Isthmus")
        broker.signals.set("place")
    elif report.state == port.VMState.STOPPED and row.state == VMState.SUSPENDED:
        # Somebody threw its memory away. It keeps waiting for room, which it does not hold, and boots anew then.
        vm.set_state(broker, row, VMState.SUSPENDED, "its saved memory is gone: it will boot anew")
    elif report.state == port.VMState.STOPPED and row.state == VMState.RUNNING:
        row.desired = VMState.STOPPED
        reason = "stopped outside Isthmus, or by the guest" + (f" ({report.reason})" if report.reason else "")
        vm.set_state(broker, row, VMState.STOPPED, reason)
        _say(broker, session, row, "vm.stopped_outside", f"{row.name}: {reason}")
        broker.signals.set("policy")
    elif report.state == port.VMState.ERROR and row.state != VMState.ERROR:
        vm.set_state(broker, row, VMState.ERROR, report.reason or "the provider reports an error")
        _say(broker, session, row, "vm.crashed", f"{row.name}: {row.status_reason}")


def _lost(broker: Broker, at: SiteRow, seen: VMRow) -> None:
    """A VM is not in the listing. Ask for it by itself before anything is concluded: a listing can be old."""
    if seen.host is None:
        return
    try:
        report = broker.providers.of(at).observe_vm(seen.host.name, seen.id, seen.provider_ref or "")
    except ProviderError as error:
        log.warning("reconcile.unsure", vm=seen.id, error=str(error))
        return
    if report is not None and report.state not in _ABSENT:
        return
    with broker.store.transaction() as session:
        row = session.get_one(VMRow, seen.id, with_for_update={"of": VMRow})
        if (
            vm.busy(session, row) is not None
            or row.state == VMState.TERMINATED
            or row.provider_ref != seen.provider_ref
        ):
            return
        if row.elastic:
            why = report.reason if report is not None and report.reason else "terminated outside Isthmus"
            if _comes_again(broker, session, row, why):
                task = vm.begin_relaunch(broker, session, row, reason=why)
            else:
                _say(broker, session, row, "vm.lost", f"{row.name} is gone from {at.name}: {why}")
                task = vm.begin_delete(broker, session, row, reason=why)
        elif row.desired == VMState.RUNNING and not _failed_lately(broker, session, row):
            _say(
                broker,
                session,
                row,
                "vm.mending",
                f"{row.name} is no longer defined on its host; making it again",
            )
            task = vm.begin(broker, session, row, "vm.start")
            vm.set_state(broker, row, VMState.PENDING, "its definition was removed by hand; making it again")
        else:
            return
    broker.submit(task)


def _comes_again(broker: Broker, session: Session, row: VMRow, why: str) -> bool:
    """Whether a VM that is gone is launched again: its cloud took it back, and the policy does not say otherwise."""
    if not why.startswith(SPOT_INTERRUPTED) or row.desired != VMState.RUNNING:
        return False
    rules, _ = policy.current(broker, session)
    return rules is None or rules.spot.on_interruption != "none"


def _failed_lately(broker: Broker, session: Session, row: VMRow) -> bool:
    """Whether a start of the VM failed a short while ago: mending it at once again would fail again."""
    task = session.get(OperationRow, row.operation_id) if row.operation_id else None
    if task is None or task.state != OperationState.FAILED or task.ended_at is None:
        return False
    return (broker.clock.now() - task.ended_at).total_seconds() < _MEND_AGAIN_S


def _strangers(broker: Broker, at: SiteRow, listing: Listing) -> None:
    with broker.store.reading() as session:
        # Of this site alone: there may be very many elsewhere, or nowhere yet. One that comes from there is looked up below.
        here = select(VMRow.id).where(VMRow.site_id == at.id, VMRow.state != VMState.TERMINATED)
        living = set(session.scalars(here))
    for report in listing.vms:
        if report.broker_id == broker.id and report.vm_id in living:
            continue
        if report.broker_id != broker.id or not report.vm_id:
            _say_once(
                broker,
                "host.stranger",
                report.ref,
                f"{report.name or report.ref} on {at.name}/{report.host} is not ours; it is left alone",
            )
            continue
        with broker.store.reading() as session:
            row = session.get(VMRow, report.vm_id)
            task = (
                session.get(OperationRow, row.operation_id) if row is not None and row.operation_id else None
            )
        if row is None:
            _say_once(
                broker,
                "vm.unknown",
                report.ref,
                f"{report.name or report.ref} on {at.name}/{report.host} has our mark, but no record; it is left alone",
            )
        elif row.state == VMState.TERMINATED and report.state not in _ABSENT:
            if task is not None and task.state == OperationState.RUNNING:
                continue
            _delete_orphan(broker, at, report)


def _delete_orphan(broker: Broker, at: SiteRow, report: VMReport) -> None:
    provider = broker.providers.of(at)
    try:
        # The listing may be older than the end of the VM.
        now = provider.observe_vm(report.host, report.vm_id, report.ref)
        if now is None or now.state in _ABSENT:
            return
        with broker.store.transaction() as session:
            event.record(
                broker,
                session,
                "vm.orphan",
                report.vm_id,
                f"{report.vm_id} was terminated but is still on {at.name}; deleting it",
            )
        provider.delete_vm(report.host, report.vm_id, report.ref)
    except ProviderError as error:
        log.warning("reconcile.orphan_stays", vm=report.vm_id, error=str(error))


def _say(broker: Broker, session: Session, row: VMRow, kind: str, message: str) -> None:
    event.record(broker, session, kind, row.id, message, project_id=row.project_id)


def _say_once(broker: Broker, kind: str, target: str, message: str) -> None:
    said = select(EventRow.seq).where(EventRow.kind == kind, EventRow.target == target).limit(1)
    with broker.store.reading() as session:
        if session.scalar(said) is not None:
            return
    with broker.store.transaction() as session:
        if session.scalar(said) is None:
            event.record(broker, session, kind, target, message)
