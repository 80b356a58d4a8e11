"""What a request that begins an operation would do now: its dry run, and where the VM would go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.orm import Session

from broker import address, pool, queue
from broker.broker import Broker
from broker.dry_run import nothing_stays
from broker.store import HostRow, OperationRow, VMRow
from placement.why import explain


@dataclass(frozen=True)
class Place:
    """A host, and what the decision for it says. ``price_hour``: what an hour costs there, of a cloud's host."""

    site: str
    host: str
    elastic: bool
    rank: float | None = None
    price_hour: float | None = None

    def __str__(self) -> str:
        notes = [] if self.rank is None else [f"rank {self.rank:g}"]
        if self.price_hour is not None:
            notes.append(f"{self.price_hour:g} per hour")
        return f"{self.host} at {self.site}" + (f" ({', '.join(notes)})" if notes else "")


@dataclass(frozen=True)
class Forecast:
    """A VM and its operation as they would be answered.

    ``begins``: the operation would be a new one, whose id is made up; otherwise it is there already. ``place``: where the
    VM would be created or moved to. ``reason``: why it would be created nowhere as yet.
    """

    vm: VMRow
    task: OperationRow
    begins: bool
    place: Place | None = None
    reason: str = ""

    @property
    def creates(self) -> bool:
        """Whether the VM would be a new one, whose ids are made up."""
        return self.begins and self.task.kind == "vm.create"

    @property
    def message(self) -> str:
        """All of it in a sentence."""
        name, kind = self.vm.name, self.task.kind
        if not self.begins:
            return f"nothing would begin: {name} is {self.vm.state}, and its {kind} is {self.task.state}"
        if self.creates:
            if self.place is not None:
                return f"{name} would be placed on {self.place}"
            return f"{name} would {'end in error' if self.vm.immediate else 'wait'}: {self.reason}"
        if self.place is not None:
            return f"{name} would move to {self.place}"
        return f"{kind.partition('.')[2]} of {name} would begin"


def forecast(broker: Broker, begin: Callable[[], tuple[VMRow, OperationRow]]) -> Forecast:
    """Say what ``begin`` would do, from a dry run of it. Raises what it raises."""
    with nothing_stays():
        row, task = begin()
    with broker.store.reading() as session:
        if session.get(OperationRow, task.id) is not None:
            return Forecast(row, task, begins=False)
        if task.kind == "vm.create":
            place, reason = _decided(broker, session, row, task)
            return Forecast(row, task, True, place, reason)
        target = session.get(HostRow, task.params["target"]) if task.kind == "vm.migrate" else None
        return Forecast(row, task, True, _place(target) if target is not None else None)


def _decided(broker: Broker, session: Session, row: VMRow, task: OperationRow) -> tuple[Place | None, str]:
    """Where the next round would place a VM that is not in the store, together with all that wait; or why nowhere."""
    seen = pool.snapshot(broker, session, most=queue.MOST_WAITING, joining=(row, task))
    index = next(number for number, (waits, _) in enumerate(seen.waiting) if waits is row)
    if index == queue.MOST_WAITING:
        return None, f"more than {index} VMs are before it in the queue"
    decided, waiting = queue.decide(broker, seen)
    decision, reasons = decided.decisions[index], decided.reasons[index]
    if decision.host is not None:
        at = seen.hosts[decision.host]
        for nic in row.nics:
            subnet = seen.subnets[nic.network_id, at.site_id]
            if nic.wanted_address and (why := address.refusal(broker, session, subnet, nic.wanted_address)):
                return None, f"{at.site.name}: {why}"
        return _place(at, decision.rank), ""
    if decision.error:
        return None, decision.error
    leaving = sum(one.for_id == row.id for one in decided.suspensions)
    if leaving:
        return None, f"{leaving} preemptible VM{'s' * (leaving > 1)} would be suspended to make room for it"
    request = waiting[index].request
    explained = explain(seen.table, request, eligible=pool.none(reasons), reasons=reasons.tolist())
    return None, explained.summary


def _place(at: HostRow, rank: float | None = None) -> Place:
    price = at.attributes.get("price_hour") if at.elastic else None
    return Place(at.site.name, at.name, at.elastic, rank, price)
