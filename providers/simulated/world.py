"""A simulated site itself: what is true "out there", whatever the broker believes.

A world outlives the provider objects that drive it, as a real site outlives a broker. Worlds of one process
are shared by site id; with a state file the world is kept on disk under a lock, so that a broker that was
killed finds after its restart what the site really has.

Invariants: at most one live VM carries a given (broker, VM) mark; one launch token makes one VM, ever; no
host runs more than its capacity; no two VMs of a host site hold one MAC, or one address of one network.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from providers.port import SPOT_INTERRUPTED, VMState
from providers.simulated.options import Failure

LINGER_S = 3600.0
"""A terminated instance of an elastic site stays listed that long, as in EC2."""


@dataclass
class SimulatedVM:
    """One VM of a world. ``next_state`` is taken at ``next_at`` (seconds of the world's clock)."""

    ref: str
    host: str
    state: str
    name: str = ""
    vm_id: str = ""
    broker_id: str = ""
    token: str = ""
    reason: str = ""
    address: str = ""
    vcpus: int = 0
    mem_mb: int = 0
    gpus: int = 0
    dedicated_cpus: bool = False
    hugepages: bool = False
    next_state: str = ""
    next_at: float = 0.0
    leases: list[list[str]] = field(default_factory=list)
    deaf: bool = False
    boots: int = 1
    said: str = ""

    @property
    def live(self) -> bool:
        """Whether it still exists: everything but a terminated instance that is only listed."""
        return self.state != VMState.TERMINATED


class State:
    """All of a world that must survive a restart, with the indices that make thousands of VMs quick."""

    def __init__(self) -> None:
        self.vms: dict[str, SimulatedVM] = {}
        self.by_host: dict[str, dict[str, SimulatedVM]] = defaultdict(dict)
        self.by_mark: dict[tuple[str, str], dict[str, SimulatedVM]] = defaultdict(dict)
        self.by_token: dict[str, SimulatedVM] = {}
        self.leases: dict[tuple[str, str], str] = {}
        self.moving: dict[str, SimulatedVM] = {}
        self.images: set[tuple[str, str]] = set()
        self.networks: dict[tuple[str, str], list[str]] = {}
        self.unreachable: dict[str, str] = {}
        self.failures: list[Failure] = []
        self.calls: dict[str, int] = {}
        self.serial = 0

    def add(self, vm: SimulatedVM) -> None:
        """Put a VM in, in every index."""
        self.vms[vm.ref] = vm
        self.by_host[vm.host][vm.ref] = vm
        if vm.vm_id:
            self.by_mark[vm.broker_id, vm.vm_id][vm.ref] = vm
        if vm.token:
            self.by_token[vm.token] = vm
        for network, address in vm.leases:
            self.leases[network, address] = vm.ref
        if vm.next_state:
            self.moving[vm.ref] = vm

    def remove(self, vm: SimulatedVM) -> None:
        """Take a VM out of every index."""
        self.vms.pop(vm.ref, None)
        self.by_host[vm.host].pop(vm.ref, None)
        self.by_mark[vm.broker_id, vm.vm_id].pop(vm.ref, None)
        if self.by_token.get(vm.token) is vm:
            del self.by_token[vm.token]
        for network, address in vm.leases:
            self.leases.pop((network, address), None)
        self.moving.pop(vm.ref, None)

    def move(self, vm: SimulatedVM, state: str, *, then: str = "", at: float = 0.0, reason: str = "") -> None:
        """Give a VM a new state, and the one that follows it at time ``at``."""
        vm.state, vm.next_state, vm.next_at, vm.reason = state, then, at, reason
        if then:
            self.moving[vm.ref] = vm
        else:
            self.moving.pop(vm.ref, None)

    def settle(self, now: float) -> list[SimulatedVM]:
        """Let time pass: VMs whose moment has come take their next state. They are returned."""
        due = [vm for vm in self.moving.values() if vm.next_at <= now]
        for vm in due:
            following = vm.next_state
            if following == VMState.TERMINATED:
                self.move(vm, following, then="gone", at=vm.next_at + LINGER_S, reason=vm.reason)
            elif following == "gone":
                self.remove(vm)
            else:
                self.move(vm, following, reason=vm.reason)
        return due

    def marked(self, broker_id: str, vm_id: str) -> SimulatedVM | None:
        """The live VM that carries this mark, else the newest terminated one, else None."""
        carriers = list(self.by_mark.get((broker_id, vm_id), {}).values())
        live = [vm for vm in carriers if vm.live]
        return next(reversed(live or carriers), None)

    def dump(self) -> str:
        """As JSON."""
        return json.dumps(
            {
                "vms": [asdict(vm) for vm in self.vms.values()],
                "images": sorted(self.images),
                "networks": [[*key, *value] for key, value in self.networks.items()],
                "unreachable": self.unreachable,
                "failures": [asdict(failure) for failure in self.failures],
                "calls": self.calls,
                "serial": self.serial,
            }
        )

    @classmethod
    def load(cls, text: str) -> State:
        """From JSON."""
        given = json.loads(text)
        state = cls()
        for row in given["vms"]:
            state.add(SimulatedVM(**row))
        state.images = {(host, image) for host, image in given["images"]}
        state.networks = {(row[0], row[1]): row[2:] for row in given["networks"]}
        state.unreachable = given["unreachable"]
        state.failures = [Failure(**row) for row in given["failures"]]
        state.calls = given["calls"]
        state.serial = given["serial"]
        return state


class World:
    """A simulated site. The methods are what an operator, a stranger or bad luck does to it by hand.

    ``clock`` answers seconds and ``sleep`` waits; both may be replaced at any time.
    """

    def __init__(
        self,
        *,
        state_file: str = "",
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.clock = clock
        self.sleep = sleep
        self.state_file = state_file
        self.elastic = False
        self._state: State | None = None if state_file else State()
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._news: list[tuple[str, str]] = []
        self._news_offset = 0
        self._primed = False

    # -- what happens behind the broker's back ------------------------------------------------------

    def vms(self) -> list[SimulatedVM]:
        """All VMs as they are now, strangers' and listed terminated ones included."""
        with self.transaction() as state:
            return list(state.vms.values())

    def vm(self, vm_id: str) -> SimulatedVM | None:
        """The VM with this id of ours, whichever broker made it."""
        return next((vm for vm in reversed(self.vms()) if vm.vm_id == vm_id and vm.live), None)

    def live_vms(self) -> list[SimulatedVM]:
        """VMs that exist: without the terminated ones that are only listed."""
        return [vm for vm in self.vms() if vm.live]

    def calls(self, method: str = "") -> int:
        """How often the provider's ``method`` was called; without one, all of them."""
        with self.transaction() as state:
            return state.calls.get(method, 0) if method else sum(state.calls.values())

    def destroy_vm(self, vm_id: str, reason: str = "destroyed") -> None:
        """Somebody removes a VM by hand: the domain is gone, or the instance is terminated."""
        with self.transaction() as state:
            for vm in [vm for vm in state.vms.values() if vm.vm_id == vm_id and vm.live]:
                if self.elastic:
                    state.move(vm, VMState.TERMINATED, then="gone", at=self.clock() + LINGER_S, reason=reason)
                else:
                    state.remove(vm)
                self.announce(vm_id, vm.host)

    def interrupt_vm(self, vm_id: str) -> None:
        """The cloud takes a VM's spare capacity back."""
        self.destroy_vm(vm_id, f"{SPOT_INTERRUPTED}: capacity is needed elsewhere")

    def power_off_vm(self, vm_id: str, reason: str = "crashed") -> None:
        """The guest goes down by itself; it stays defined."""
        with self.transaction() as state:
            for vm in [vm for vm in state.vms.values() if vm.vm_id == vm_id and vm.live]:
                state.move(vm, VMState.STOPPED, reason=reason)
                self.announce(vm_id, vm.host)

    def move_vm(self, vm_id: str, host: str) -> None:
        """Somebody migrates a VM by hand to another host."""
        with self.transaction() as state:
            for vm in [vm for vm in state.vms.values() if vm.vm_id == vm_id and vm.live]:
                state.remove(vm)
                vm.host = host
                state.add(vm)
                self.announce(vm_id, host)

    def double_vm(self, vm_id: str, host: str) -> str:
        """A second machine with a VM's marks appears on another host. Returns its ref."""
        with self.transaction() as state:
            vm = next(vm for vm in state.vms.values() if vm.vm_id == vm_id and vm.live)
            double = replace(vm, ref=f"{vm.ref}-double", host=host, token="", leases=[])
            state.add(double)
            self.announce(vm_id, host)
            return double.ref

    def say(self, vm_id: str, line: str) -> None:
        """The guest writes a line to its console."""
        with self.transaction() as state:
            for vm in [vm for vm in state.vms.values() if vm.vm_id == vm_id]:
                vm.said += f"{line}\n"

    def deafen_vm(self, vm_id: str) -> None:
        """The guest ignores shutdown requests from now on; only force stops it."""
        with self.transaction() as state:
            for vm in [vm for vm in state.vms.values() if vm.vm_id == vm_id]:
                vm.deaf = True

    def add_stranger(self, host: str, name: str = "stranger", vcpus: int = 1, mem_mb: int = 1024) -> str:
        """A VM that is nobody's of ours appears. Returns its ref."""
        with self.transaction() as state:
            state.serial += 1
            ref = f"stranger-{state.serial:06d}"
            state.add(SimulatedVM(ref, host, VMState.RUNNING, name=name, vcpus=vcpus, mem_mb=mem_mb))
            self.announce()
            return ref

    def remove_stranger(self, ref: str) -> None:
        """The stranger's VM goes."""
        with self.transaction() as state:
            if ref in state.vms:
                state.remove(state.vms[ref])
                self.announce()

    def set_unreachable(self, host: str = "*", reason: str = "no answer") -> None:
        """The host (``*``: the whole site) answers no call until ``set_reachable``."""
        with self.transaction() as state:
            state.unreachable[host] = reason
            self.announce()

    def set_reachable(self, host: str = "*") -> None:
        """The host answers again; ``*``: every host does."""
        with self.transaction() as state:
            if host == "*":
                state.unreachable.clear()
            state.unreachable.pop(host, None)
            self.announce()

    def fail(
        self,
        method: str,
        error: str = "Unreachable",
        message: str = "simulated failure",
        *,
        times: int = 1,
        host: str = "*",
        after: bool = False,
        code: str = "",
    ) -> None:
        """Let the next ``times`` calls of ``method`` fail (see ``Failure``)."""
        with self.transaction() as state:
            state.failures.append(Failure(method, error, message, times, host, after, code))

    def heal(self) -> None:
        """Forget all failures that were ordered."""
        with self.transaction() as state:
            state.failures.clear()

    # -- for the provider ---------------------------------------------------------------------------

    def prime(self, failures: tuple[Failure, ...]) -> None:
        """Order the failures of the site's options, once in the life of the world."""
        with self._lock:
            fresh = not self._primed and not (self.state_file and os.path.exists(self.state_file))
            self._primed = True
            if fresh and (failures or self.state_file):
                with self.transaction() as state:
                    state.failures.extend(Failure(**asdict(failure)) for failure in failures)

    @contextmanager
    def transaction(self) -> Iterator[State]:
        """The state, alone and settled; written back to the state file when there is one.

        An exception leaves the world as far as it was changed, so check first and change then.
        """
        with self._lock:
            if self._state is not None:
                self._settle(self._state)
                yield self._state
                return
            with self._locked_file() as path:
                before = path.read_text() if path.exists() else ""
                state = State.load(before) if before else State()
                self._settle(state)
                self._state = state  # a nested transaction sees the same state
                try:
                    yield state
                finally:
                    self._state = None
                    after = state.dump()
                    if after != before:
                        scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
                        scratch.write_text(after)
                        os.replace(scratch, path)

    def announce(self, vm_id: str = "", host: str = "") -> None:
        """Tell watchers that this VM changed on this host (empty: anything, anywhere)."""
        with self._changed:
            self._news.append((vm_id, host))
            if len(self._news) > 20_000:  # a watcher that is that far behind is told to look at everything
                self._news_offset += 10_000
                del self._news[:10_000]
            self._changed.notify_all()

    def wait_for_news(self, position: int, timeout_s: float) -> tuple[int, list[tuple[str, str]]]:
        """News after ``position`` (-1: from now on), waiting up to ``timeout_s``; with the new position."""
        with self._changed:
            with self.transaction():
                end = self._news_offset + len(self._news)
            if position < 0:
                return end, []
            if position >= end:
                self._changed.wait(timeout_s)
                end = self._news_offset + len(self._news)
            if position < self._news_offset:
                return end, [("", "")]
            return end, list(dict.fromkeys(self._news[position - self._news_offset :]))

    def _settle(self, state: State) -> None:
        if state.moving:
            for vm in state.settle(self.clock()):
                self.announce(vm.vm_id, vm.host)

    @contextmanager
    def _locked_file(self) -> Iterator[Path]:
        path = Path(self.state_file)
        with open(f"{self.state_file}.lock", "a+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released by the kernel when the holder is killed
            yield path
