"""The world around the decisions: VMs arrive, boot, run and end."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from placement import burst
from placement.budget import Charge, Ledger, Settled
from placement.burst import BurstState, BurstVM, CloudUse, Gate, Load, Waits
from placement.policy import Policy
from placement.pool import Pool, Resident, Waiting
from placement.request import Request
from placement.round import could_ever, run
from placement.simulate.data import DAY_S, Result, Sample, Setting, Tally, Task
from placement.simulate.usage import Usage
from placement.table import HostTable

Progress = Callable[[float], None]
"""Called with the part that is done, 0 to 1."""

_DEFAULT_SETTING = Setting()


@dataclass(slots=True)
class _Suspended:
    """What is left to do of a VM that is suspended, and what it takes when it runs."""

    request: Request
    left_s: float


@dataclass(slots=True)
class _Running:
    task: Task
    request: Request
    host: int
    started: float
    ends: float
    charge: Charge | None = None
    waiting: Waiting | None = None
    """As it asked, where a cloud will take it back before it is done."""


def simulate(
    policy: Policy,
    hosts: Sequence[Mapping[str, Any]],
    tasks: Sequence[Task],
    setting: Setting = _DEFAULT_SETTING,
    progress: Progress | None = None,
) -> Result:
    """Run the workload under the policy. ``hosts``: their attributes; those with ``elastic`` are of a cloud."""
    return _World(policy, hosts, tasks, setting).run(progress)


class _World:
    def __init__(
        self, policy: Policy, hosts: Sequence[Mapping[str, Any]], tasks: Sequence[Task], setting: Setting
    ) -> None:
        self.policy, self.setting = policy, setting
        self.tasks = sorted(tasks, key=lambda task: (task.at, task.id))
        self.table = HostTable.from_rows([{"running_vms": 0.0, **host} for host in hosts])
        self.elastic = [bool(host.get("elastic")) for host in hosts]
        self.prices = [host.get("price_hour") for host in hosts]
        self.spot = [host.get("spot") == 1 for host in hosts]
        self.sites = [str(host.get("site", "")) for host in hosts]
        local = [host for host in hosts if not host.get("elastic")]
        self.vcpus = sum(float(host.get("cpu_total", host["cpu_free"])) for host in local)
        self.mem_mb = sum(float(host.get("mem_total_mb", host["mem_free_mb"])) for host in local)
        self.vcpus_used = self.vcpus - sum(float(host["cpu_free"]) for host in local)
        self.mem_used_mb = self.mem_mb - sum(float(host["mem_free_mb"]) for host in local)
        self.state = BurstState(False, 0.0)
        self.running: dict[str, _Running] = {}
        self.bursting: dict[str, _Running] = {}
        self.ends: list[tuple[float, str]] = []
        self.waiting: dict[str, tuple[Waiting, Task]] = {}
        self.suspended: dict[str, _Suspended] = {}
        self.usage = Usage(policy.queue.half_life_s)
        # Who holds the hosts is of interest only to who may take it from him, or has to stay near him.
        self.residents: dict[str, Resident] = {}
        self.looks_around = policy.queue.preempt or any(task.rules for task in tasks)
        self.hopeless: set[str] = set()
        """Who waits and could not be taken by any host, however empty: he is no reason to burst."""
        self.fresh: set[str] = set()
        """Who has not been looked at since room was made: the others would only hear the same again."""
        self.charges: dict[str, Charge] = {}
        """Of the VMs that are in clouds; those that were there are settled."""
        self.launches: list[float] = []
        self.use: CloudUse = CloudUse()
        self.cost = 0.0
        self.total, self.projects = Tally(), {task.project: Tally() for task in self.tasks}
        self.flips: list[float] = []
        self.peak = 0
        self.samples: list[Sample] = []
        self.billing_s = policy.burst.billing_boundary_s if policy.burst is not None else None
        self.settled = Settled(self.billing_s)
        rank, wanted = policy.placement.rank, policy.placement.requirements
        self.rank = rank.text if rank is not None else None
        self.wanted = wanted.text if wanted is not None else None

    def run(self, progress: Progress | None) -> Result:
        last = self.tasks[-1].at if self.tasks else 0.0
        arrived, now, tick = 0, 0.0, 0.0
        many = len(self.tasks)
        while arrived < many or self.ends or self.waiting:
            now = self._next(arrived, tick)
            if now == float("inf") or (arrived == many and not self.running and now > last + DAY_S):
                break  # who still waits will wait for ever
            self._end(now)
            while arrived < many and self.tasks[arrived].at <= now:
                self._ask(self.tasks[arrived], now)
                arrived += 1
                if progress is not None and arrived % 100 == 0:
                    progress(arrived / many)
            self._decide(now)
            self._place(now)
            tick = now + self.setting.tick_s
            self._sample(now)
        self._close(max(now, last) if now != float("inf") else last)
        return Result(
            self.total,
            self.projects,
            self.flips,
            max(last, 1.0) / DAY_S,
            self.peak,
            self.samples,
        )

    def _next(self, arrived: int, tick: float) -> float:
        """The next moment at which anything happens: somebody comes or goes, or time itself may change a decision."""
        moments = [self.tasks[arrived].at] if arrived < len(self.tasks) else []
        if self.ends:
            moments.append(self.ends[0][0])
        # A queue that waits for its percentile, an open burst that may close, and whoever may leave.
        if self._timed():
            moments.append(tick)
        return min(moments, default=float("inf"))

    def _timed(self) -> bool:
        if self.state.open or self.bursting:
            return True
        return bool(self.waiting) and self.policy.burst is not None and bool(self.running or self.ends)

    def _ask(self, task: Task, now: float) -> None:
        request = Request(
            id=task.id,
            cpu=task.cpu,
            mem_mb=task.mem_mb,
            disk_gb=task.disk_gb,
            gpus=task.gpus,
            requirement=self._requirement(task.requirement),
            rank=self.rank,
            attributes={
                "id": task.id,
                "name": task.id,
                "project": task.project,
                "vcpus": task.cpu,
                "mem_mb": task.mem_mb,
                "disk_gb": task.disk_gb,
                "labels": dict(task.labels),
                "priority": float(task.priority),
                "runtime_s": task.runtime_s,
                "deadline": task.deadline,
            },
        )
        waiting = Waiting(
            request,
            task.project,
            task.at,
            priority=task.priority,
            preemptible=task.preemptible,
            runtime_s=task.runtime_s,
            deadline=task.deadline,
            rules=task.rules,
        )
        self.waiting[task.id] = (waiting, task)
        self.fresh.add(task.id)
        for tally in (self.total, self.projects[task.project]):
            tally.tasks += 1
            tally.with_deadline += task.deadline is not None

    def _requirement(self, own: str | None) -> str | None:
        if own is None or self.wanted is None:
            return own or self.wanted
        return f"({self.wanted}) && ({own})"

    def _decide(self, now: float) -> None:
        load = Load(
            Waits.of(
                [
                    now - waiting.since
                    for waiting, task in self.waiting.values()
                    if task.id not in self.hopeless
                ]
            ),
            self.vcpus,
            self.vcpus_used,
            self.mem_mb,
            self.mem_used_mb,
            len(self.running) - len(self.bursting),
            len(self.bursting),
            self.use.vcpus,
        )
        decision = burst.decide(self.policy, self.state, load.metrics(), now)
        self.state = decision.state
        if decision.changed:
            self.flips.append(now)
            self.fresh.update(self.waiting)
        if not self.bursting:
            return
        ledger = self._ledger(now)
        vms = [
            BurstVM(
                one.task.id,
                one.started,
                one.task.cpu,
                one.charge.price_hour if one.charge else None,
                one.task.mem_mb,
            )
            for one in self.bursting.values()
            if one.ends > now + self.setting.drain_s
        ]
        room = max(0.0, self.vcpus - self.vcpus_used)
        for leaver in burst.leavers(self.policy, self.state, vms, now, room, ledger):
            one = self.bursting[leaver.id]
            one.ends, one.waiting = now + self.setting.drain_s, None
            heapq.heappush(self.ends, (one.ends, leaver.id))
            for tally in (self.total, self.projects[one.task.project]):
                tally.drained += 1
                if one.task.deadline is not None:
                    tally.missed += 1

    def _ledger(self, now: float) -> Ledger | None:
        if self.policy.budget is None:
            return None
        return Ledger(
            self.policy.budget,
            self.charges.values(),
            self.setting.epoch + now,
            billing_s=self.billing_s,
            tick_s=self.setting.tick_s,
            grace_s=self.setting.drain_s,
            settled=self.settled,
        )

    def _place(self, now: float) -> None:
        if self.policy.deadline is not None and any(task.deadline for _, task in self.waiting.values()):
            self.fresh.update(self.waiting)  # a deadline that comes near opens the burst for its VM
        # Whoever was suspended makes room for one who asks again at once; each time it is another one.
        while self._round(now):
            pass
        self.peak = max(self.peak, len(self.waiting))

    def _round(self, now: float) -> bool:
        """Decide once; whether somebody was suspended, so that it is worth deciding again."""
        asked = [self.waiting[vm_id] for vm_id in self.waiting if vm_id in self.fresh]
        self.fresh.clear()
        if not asked:
            return False
        gate = None
        if self.policy.burst is not None:
            while self.launches and self.launches[0] <= now - 3600.0:
                self.launches.pop(0)
            self.use.launches = len(self.launches)
            gate = Gate(
                self.policy,
                self.state,
                self.use,
                now,
                ledger=self._ledger(now),
                boot_s=self.setting.cloud_boot_s,
            )
        pool = Pool(self.table, list(self.residents.values()), usage=self.usage.at(now))
        decided = run(pool, [waiting for waiting, _ in asked], now, policy=self.policy, gate=gate)
        for (waiting, task), decision in zip(asked, decided.decisions, strict=True):
            if decision.host is not None:
                self._start(waiting, task, decision.host, now)
            elif task.id not in self.hopeless and not could_ever(self.table, waiting, self.policy, now):
                self.hopeless.add(task.id)
        for one in decided.suspensions:
            self._suspend(self.running[one.id], now)
            self.fresh.add(one.for_id)
        return bool(decided.suspensions)

    def _resident(self, one: _Running) -> Resident:
        task, request = one.task, one.request
        cloud = self.elastic[one.host]
        return Resident(
            task.id,
            task.project,
            one.host,
            request.cpu,
            request.mem_mb,
            disk_gb=request.disk_gb,
            gpus=request.gpus,
            since=one.started,
            priority=task.priority,
            preemptible=task.preemptible,
            rules=task.rules,
            elastic=cloud,
            # As in a broker, what has a GPU of its host stays there.
            suspendable=not (cloud or request.gpus),
        )

    def _suspend(self, one: _Running, now: float) -> None:
        """Give back its cores and its memory, but not its disk; it goes on where it was as soon as there is room."""
        task = one.task
        awake = replace(one.request, disk_gb=0.0)
        for tally in (self.total, self.projects[task.project]):
            tally.suspended += 1
            # Whether it will be late is asked anew when it goes on.
            tally.missed -= task.deadline is not None and one.ends > task.deadline
        self.suspended[task.id] = _Suspended(one.request, max(0.0, one.ends - now))
        del self.running[task.id], self.residents[task.id]
        self.table.give(one.host, awake)
        self.vcpus_used -= task.cpu
        self.mem_used_mb -= task.mem_mb
        self.usage.add(task.project, -task.cpu, now)
        waiting = Waiting(
            awake,
            task.project,
            now,
            priority=task.priority,
            preemptible=True,
            runtime_s=one.ends - now,
            deadline=task.deadline,
            rules=task.rules,
            only_host=one.host,
        )
        self.waiting[task.id] = (waiting, task)

    def _start(self, waiting: Waiting, task: Task, host: int, now: float) -> None:
        del self.waiting[task.id]
        cloud = self.elastic[host]
        boot_s = self.setting.cloud_boot_s if cloud else self.setting.boot_s
        before = self.suspended.pop(task.id, None)
        request, left_s = (before.request, before.left_s) if before else (waiting.request, task.runtime_s)
        one = _Running(task, request, host, now, now + boot_s + left_s)
        self.usage.add(task.project, task.cpu, now)
        taken_back = self._taken_back(task, waiting.interruptions, host, now)
        if taken_back < one.ends:
            one.ends, one.waiting = taken_back, waiting
        self.running[task.id] = one
        if self.looks_around:
            self.residents[task.id] = self._resident(one)
        heapq.heappush(self.ends, (one.ends, task.id))
        wait = now + boot_s - task.at
        late = one.waiting is None and task.deadline is not None and one.ends > task.deadline
        first = not waiting.interruptions and before is None
        for tally in (self.total, self.projects[task.project]):
            tally.missed += late
            if first:  # who is launched again is no other task
                tally.placed += 1
                tally.burst += cloud
                tally.waits.append(wait)
        if cloud:
            price = self.prices[host]
            one.charge = Charge(task.id, task.project, float(price or 0.0), self.setting.epoch + now)
            self.charges[task.id] = one.charge
            self.bursting[task.id] = one
            self.launches.append(now)
        else:
            self.vcpus_used += task.cpu
            self.mem_used_mb += task.mem_mb

    def _end(self, now: float) -> None:
        while self.ends and self.ends[0][0] <= now:
            when, vm_id = heapq.heappop(self.ends)
            one = self.running.get(vm_id)
            if one is None or one.ends != when:
                continue  # it was sent away before
            self._gone(one, when)
            if one.waiting is not None:
                self._again(one, one.waiting, when)
            # Room was made: everybody is looked at again.
            self.fresh.update(self.waiting)

    def _taken_back(self, task: Task, times: int, host: int, now: float) -> float:
        """When the cloud takes the VM back; infinity for what is not spare capacity."""
        rate = self.setting.interruptions_hour
        if not self.spot[host] or rate <= 0:
            return float("inf")
        chance = random.Random(f"{self.setting.seed} {task.id} {times}")  # noqa: S311 - nothing secret is drawn
        return now + chance.expovariate(rate / 3600)

    def _again(self, one: _Running, waiting: Waiting, now: float) -> None:
        """It lost what it had done, and asks anew, unless the policy lets such VMs go."""
        task = one.task
        for tally in (self.total, self.projects[task.project]):
            tally.interrupted += 1
        if self.policy.spot.on_interruption == "none":
            for tally in (self.total, self.projects[task.project]):
                tally.missed += task.deadline is not None
            return
        self.waiting[task.id] = (
            replace(waiting, since=now, interruptions=waiting.interruptions + 1),
            task,
        )
        self.fresh.add(task.id)

    def _gone(self, one: _Running, when: float) -> None:
        task = one.task
        del self.running[task.id]
        self.residents.pop(task.id, None)
        self.table.give(one.host, one.request)
        self.usage.add(task.project, -task.cpu, when)
        if one.charge is None:
            self.vcpus_used -= task.cpu
            self.mem_used_mb -= task.mem_mb
            return
        del self.bursting[task.id]
        end = self.setting.epoch + when
        done = Charge(one.charge.vm_id, task.project, one.charge.price_hour, one.charge.started, end)
        del self.charges[task.id]
        self.settled.add(done)
        cost = done.cost(0.0, float("inf"), end, self.billing_s)
        self.cost += cost
        for tally in (self.total, self.projects[task.project]):
            tally.cost += cost
            tally.burst_hours += (when - one.started) / 3600
        vms, vcpus = self.use.projects[task.project]
        self.use.projects[task.project] = (vms - 1, vcpus - task.cpu)
        self.use.vms, self.use.vcpus = self.use.vms - 1, self.use.vcpus - task.cpu

    def _close(self, end: float) -> None:
        """Count what is still there when the workload is over."""
        for one in list(self.bursting.values()):
            self._gone(one, max(end, one.started))
        for waiting, task in self.waiting.values():
            for tally in (self.total, self.projects[task.project]):
                if task.id not in self.suspended:  # whose wait was counted when it began
                    tally.waits.append(max(0.0, end - waiting.since))
                tally.missed += task.deadline is not None

    def _sample(self, now: float) -> None:
        used = self.vcpus_used / self.vcpus if self.vcpus else 1.0
        self.samples.append(
            Sample(now, len(self.waiting), used, len(self.bursting), self.cost, self.state.open)
        )
