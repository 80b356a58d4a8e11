"""The provider of a simulated site: the port's methods over a ``World``."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar

from providers.port import (
    AttributeValue,
    Capability,
    Conflict,
    HostReport,
    ImageSpec,
    InvalidSpec,
    Listing,
    NetworkSpec,
    NotFound,
    OutOfCapacity,
    Progress,
    QuotaExceeded,
    SiteContext,
    Unreachable,
    Unsupported,
    VMReport,
    VMSpec,
    VMState,
)
from providers.simulated.options import Failure, Options
from providers.simulated.world import SimulatedVM, State, World

_POLL_S = 0.2
_CONSOLE_BYTES = 65536
_RUNS = frozenset({VMState.RUNNING, VMState.PENDING, VMState.STOPPING})


class SimulatedProvider:
    """One simulated site. ``clock`` and ``sleep``, when given, become the world's."""

    _worlds: ClassVar[dict[str, World]] = {}
    _worlds_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(
        self,
        context: SiteContext,
        *,
        clock: Callable[[], float] | None = None,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        self._context = context
        self._options = Options.parse(context.options)
        self._host_names = self._options.host_names()
        self._known = frozenset(self._host_names)
        self._world = self.world(context.site_id, state_file=self._options.state_file)
        self._world.elastic = self._options.elastic
        self._world.clock = clock or self._world.clock
        self._world.sleep = sleep or self._world.sleep
        self._world.prime(self._options.failures)
        self._closed = threading.Event()

    @classmethod
    def world(cls, site_id: str, *, state_file: str = "") -> World:
        """The world of a site, made when first asked for, so that tests can order failures beforehand."""
        with cls._worlds_lock:
            world = cls._worlds.get(site_id)
            if world is None or (state_file and world.state_file != state_file):
                replaced = world
                world = cls._worlds[site_id] = World(state_file=state_file)
                if replaced is not None:
                    world.clock, world.sleep = replaced.clock, replaced.sleep
            return world

    @classmethod
    def forget_worlds(cls) -> None:
        """Drop every world of this process; for test fixtures."""
        with cls._worlds_lock:
            cls._worlds.clear()

    @property
    def capabilities(self) -> frozenset[Capability]:
        found = {Capability.STOP, Capability.REBOOT, Capability.CONSOLE, Capability.EVENTS}
        found.add(Capability.ELASTIC if self._options.elastic else Capability.DIRECT_KERNEL)
        if not self._options.elastic:
            found |= {Capability.SUSPEND, Capability.MIGRATE}
        if any(kind.spot_price_hour is not None for kind in self._options.types.values()):
            found.add(Capability.SPOT)
        if self._options.addresses:
            found |= {Capability.ADDRESSES, Capability.SUBNETS}
        return frozenset(found - self._options.without)

    def check(self) -> None:
        """Raises Unreachable when the whole site is."""
        with self._call("check") as state:
            if "*" in state.unreachable:
                raise Unreachable(f"site {self._context.site_name}: {state.unreachable['*']}")

    def inventory(self) -> Sequence[HostReport]:
        with self._call("inventory") as state:
            return [self._host_report(state, name) for name in self._host_names]

    def list_vms(self) -> Listing:
        with self._call("list_vms") as state:
            away = {name: reason for name in self._host_names if (reason := self._away(state, name))}
            return Listing(
                vms=[self._report(vm) for vm in state.vms.values() if vm.host not in away],
                complete=self._known - away.keys(),
                unreachable=away,
            )

    def ensure_image(self, host: str, image: ImageSpec, progress: Progress | None = None) -> None:
        """Raises NotFound when the image's file is missing, or unmapped where ``image_map`` is set."""
        with self._call("ensure_image", host) as state:
            if self._options.image_map and not image.remote_id:
                raise NotFound(
                    f"image {image.name} has no counterpart at site {self._context.site_name}; "
                    f"map it: isthmus image map {image.name} {self._context.site_name}=ID"
                )
            if image.path and not self._options.elastic and not os.path.exists(image.path):
                raise NotFound(f"image {image.name}: the file {image.path} is not there")
            size = max(image.size_bytes, 1)
            if progress is not None and (host, image.id) not in state.images:
                progress(0, size)
            state.images.add((host, image.id))
        if progress is not None:
            progress(size, size)

    def ensure_network(self, host: str, network: NetworkSpec) -> None:
        """Raises Conflict when the host has a network of that id with another definition."""
        wanted = [network.name, network.mode, network.cidr, network.gateway, network.bridge]
        with self._call("ensure_network", host) as state:
            there = state.networks.setdefault((host, network.id), wanted)
            if there != wanted:
                raise Conflict(f"host {host} has network {network.name} as {there}, not as {wanted}")

    def list_networks(self) -> Mapping[str, Collection[str]]:
        with self._call("list_networks") as state:
            return {
                name: {network for host, network in state.networks if host == name}
                for name in self._host_names
                if not self._away(state, name)
            }

    def remove_network(self, host: str, network_id: str) -> None:
        """Raises Conflict while a VM has an address of it."""
        with self._call("remove_network", host) as state:
            for vm in state.vms.values():
                if vm.live and vm.host == host and any(network == network_id for network, _ in vm.leases):
                    raise Conflict(f"host {host}: {vm.name} is on the network {network_id}")
            state.networks.pop((host, network_id), None)

    def ensure_vm(self, spec: VMSpec) -> VMReport:
        """Raises OutOfCapacity, QuotaExceeded, InvalidSpec, NotFound (image, network), Conflict."""
        with self._call("ensure_vm", spec.host) as state:
            there = state.marked(self._context.broker_id, spec.id)
            if there is not None and there.live:
                if not self._options.elastic and there.host != spec.host:
                    raise Conflict(f"VM {spec.name} ({spec.id}) exists on host {there.host}")
                return self._report(there)
            vm = self._run_instance(state, spec) if self._options.elastic else self._create(state, spec)
            self._world.announce(spec.id, vm.host)
            return self._report(vm)

    def observe_vm(self, host: str, vm_id: str, ref: str = "") -> VMReport | None:
        with self._call("observe_vm", host) as state:
            mark = (self._context.broker_id, vm_id)
            vm = state.vms.get(ref) if ref else None
            if vm is None or (vm.broker_id, vm.vm_id) != mark:
                vm = state.marked(*mark)
            if vm is None or (not self._options.elastic and vm.host != host):
                return None
            return self._report(vm)

    def start_vm(self, host: str, ref: str) -> None:
        with self._call("start_vm", host) as state:
            self._need(Capability.STOP, Capability.SUSPEND)
            vm = self._find(state, host, ref)
            if vm.state in (VMState.STOPPED, VMState.STOPPING, VMState.ERROR):
                vm.boots += 1
                self._boot(state, vm)
            elif vm.state == VMState.SUSPENDED:
                self._check_room(state, host, vm)
                state.move(vm, VMState.RUNNING)
                self._world.announce(vm.vm_id, vm.host)

    def stop_vm(self, host: str, ref: str, *, force: bool = False) -> None:
        with self._call("stop_vm", host) as state:
            self._need(Capability.STOP)
            vm = self._find(state, host, ref)
            if vm.state == VMState.STOPPED or (vm.deaf and not force):
                return
            if vm.state == VMState.SUSPENDED and not force:
                raise Conflict(f"VM {vm.name} is suspended: resume it first, or use force")
            if force or self._options.stop_s <= 0:
                state.move(vm, VMState.STOPPED)
            elif vm.state != VMState.STOPPING:
                at = self._world.clock() + self._options.stop_s
                state.move(vm, VMState.STOPPING, then=VMState.STOPPED, at=at)
            self._world.announce(vm.vm_id, vm.host)

    def reboot_vm(self, host: str, ref: str) -> None:
        """Raises Conflict when the VM does not run."""
        with self._call("reboot_vm", host) as state:
            self._need(Capability.REBOOT)
            vm = self._find(state, host, ref)
            if vm.state != VMState.RUNNING:
                raise Conflict(f"VM {vm.name} is {vm.state}; start it first")
            vm.boots += 1
            self._world.announce(vm.vm_id, vm.host)

    def suspend_vm(self, host: str, ref: str) -> None:
        """Raises Conflict when the VM does not run."""
        with self._call("suspend_vm", host) as state:
            self._need(Capability.SUSPEND)
            vm = self._find(state, host, ref)
            if vm.state != VMState.SUSPENDED:
                self._check_runs(vm)
                state.move(vm, VMState.SUSPENDED)
                self._world.announce(vm.vm_id, vm.host)

    def migrate_vm(self, spec: VMSpec, source: str, progress: Progress | None = None) -> VMReport:
        """Raises NotFound (VM, image, network), Conflict, OutOfCapacity."""
        with self._call("migrate_vm", spec.host) as state:
            self._need(Capability.MIGRATE)
            there = state.marked(self._context.broker_id, spec.id)
            if there is not None and there.host == spec.host:
                return self._report(there)
            vm = self._find(state, source, spec.uuid)
            self._check_runs(vm)
            self._check_prepared(state, spec)
            self._check_room(state, spec.host, vm)
            state.remove(vm)
            vm.host = spec.host
            state.add(vm)
            self._world.announce(vm.vm_id, vm.host)
            report = self._report(vm)
        if progress is not None:
            progress(spec.mem_mb, spec.mem_mb)
        return report

    def delete_vm(self, host: str, vm_id: str, ref: str = "") -> None:
        with self._call("delete_vm", host) as state:
            vm = state.marked(self._context.broker_id, vm_id) or (state.vms.get(ref) if ref else None)
            if vm is None or not vm.live or (not self._options.elastic and vm.host != host):
                return
            if (vm.broker_id, vm.vm_id) != (self._context.broker_id, vm_id):
                raise Conflict(f"{ref} on host {vm.host} does not carry the mark of VM {vm_id}; left alone")
            if not self._options.elastic:
                state.remove(vm)
            elif vm.state != VMState.TERMINATING:
                at = self._world.clock() + self._options.stop_s
                state.move(vm, VMState.TERMINATING, then=VMState.TERMINATED, at=at, reason="user initiated")
                state.settle(self._world.clock())
            self._world.announce(vm_id, vm.host)

    def console_log(self, host: str, ref: str) -> bytes:
        with self._call("console_log", host) as state:
            self._need(Capability.CONSOLE)
            vm = self._find(state, host, ref)
            text = "".join(f"[boot {number}] {vm.name} on {vm.host}\n" for number in range(1, vm.boots + 1))
            if vm.state == VMState.RUNNING:
                text += "isthmus-guest ready\n"
            text += vm.said
            return text.encode()[-_CONSOLE_BYTES:]

    def watch(self, notify: Callable[[str, str], None]) -> None:
        """Changes by this process are told one by one, those of another process as "look at everything"."""
        self._need(Capability.EVENTS)
        position = -1
        stamp = self._file_stamp()
        while not self._closed.is_set():
            position, news = self._world.wait_for_news(position, _POLL_S)
            newer = self._file_stamp()
            if not news and newer != stamp:
                news = [("", "")]
            stamp = newer
            for vm_id, host in news:
                notify(vm_id, host)

    def close(self) -> None:
        self._closed.set()

    # -----------------------------------------------------------------------------------------------

    @contextmanager
    def _call(self, method: str, host: str = "") -> Iterator[State]:
        """One call of the site: its latency, the failures that were ordered, its effect under the lock."""
        latency = self._options.latency(method)
        if latency > 0:
            self._world.sleep(latency)
        with self._world.transaction() as state:
            state.calls[method] = state.calls.get(method, 0) + 1
            failure = self._failure(state, method, host)
            if failure is not None and not failure.after:
                raise failure.exception()
            if host and host not in self._known:
                raise NotFound(f"site {self._context.site_name} has no host {host!r}")
            if host and (reason := self._away(state, host)):
                raise Unreachable(f"host {host}: {reason}")
            yield state
            if failure is not None:
                raise failure.exception()

    @staticmethod
    def _failure(state: State, method: str, host: str) -> Failure | None:
        for failure in state.failures:
            if failure.method in ("*", method) and failure.host in ("*", host):
                if failure.times > 0:
                    failure.times -= 1
                    if failure.times == 0:
                        state.failures.remove(failure)
                return failure
        return None

    @staticmethod
    def _away(state: State, host: str) -> str:
        """Why the host does not answer; empty when it does."""
        return state.unreachable.get(host) or state.unreachable.get("*") or ""

    def _find(self, state: State, host: str, ref: str) -> SimulatedVM:
        vm = state.vms.get(ref)
        if vm is None or not vm.live or (not self._options.elastic and vm.host != host):
            raise NotFound(f"host {host} has no VM {ref}")
        return vm

    def _need(self, *any_of: Capability) -> None:
        """Raises Unsupported where the site has none of these: its methods are there for other sites of the kind."""
        if not self.capabilities & set(any_of):
            raise Unsupported(f"site {self._context.site_name} has no capability {any_of[0]}")

    @staticmethod
    def _check_runs(vm: SimulatedVM) -> None:
        if vm.state != VMState.RUNNING:
            raise Conflict(f"VM {vm.name} is {vm.state}; start it first")

    @staticmethod
    def _check_prepared(state: State, spec: VMSpec) -> None:
        if (spec.host, spec.image.id) not in state.images:
            raise NotFound(f"image {spec.image.name} is not on host {spec.host}; ensure_image first")
        for nic in spec.nics:
            if (spec.host, nic.network.id) not in state.networks:
                raise NotFound(f"network {nic.network.name} is not on host {spec.host}; ensure_network first")

    def _check_room(self, state: State, host: str, coming: VMSpec | SimulatedVM) -> None:
        total = self._options.hosts[host]
        there = [vm for vm in state.by_host[host].values() if vm.state != VMState.SUSPENDED]
        limits = (
            ("vCPUs", _lent(total, "cpu_total", "cpu_overcommit")),
            ("MiB of memory", _lent(total, "mem_total_mb", "mem_overcommit")),
            ("dedicated CPUs", _lent(total, "dedicated_cpu_total", "") or 0.0),
            ("MiB in huge pages", _lent(total, "hugepages_mb", "") or 0.0),
            ("GPUs", _lent(total, "gpu_total", "") or 0.0),
        )
        for index, (what, limit) in enumerate(limits):
            want, used = _takes(coming)[index], sum(_takes(vm)[index] for vm in there)
            if want and limit is not None and used + want > limit:
                raise OutOfCapacity(f"host {host} has {limit - used:g} {what} free, {want} are needed")

    def _boot(self, state: State, vm: SimulatedVM) -> None:
        if self._options.boot_s > 0:
            at = self._world.clock() + self._options.boot_s
            state.move(vm, VMState.PENDING, then=VMState.RUNNING, at=at)
        else:
            state.move(vm, VMState.RUNNING)
        self._world.announce(vm.vm_id, vm.host)

    def _create(self, state: State, spec: VMSpec) -> SimulatedVM:
        """A VM on a host of ours. Everything is checked before anything is changed."""
        self._check_prepared(state, spec)
        leases = []
        for nic in spec.nics:
            leases += [*([nic.network.id, address] for address in nic.addresses), ["mac", nic.mac]]
        for network, address in leases:
            if holder := state.leases.get((network, address)):
                raise Conflict(f"{address} is held by VM {state.vms[holder].name} ({holder})")
        if spec.uuid in state.vms:
            raise Conflict(f"a VM with uuid {spec.uuid} that is not VM {spec.id} is on host {spec.host}")
        self._check_room(state, spec.host, spec)
        vm = SimulatedVM(
            ref=spec.uuid,
            host=spec.host,
            state=VMState.PENDING,
            name=spec.name,
            vm_id=spec.id,
            broker_id=self._context.broker_id,
            address=spec.nics[0].address if spec.nics else "",
            vcpus=spec.vcpus,
            mem_mb=spec.mem_mb,
            gpus=spec.gpus,
            dedicated_cpus=spec.dedicated_cpus,
            hugepages=spec.hugepages,
            leases=leases,
        )
        state.add(vm)
        self._boot(state, vm)
        return vm

    def _run_instance(self, state: State, spec: VMSpec) -> SimulatedVM:
        """An instance of a cloud. One token makes one instance, also after that one was terminated."""
        zone, type_name, _ = _parts(spec.host)
        kind = self._options.types[type_name]
        if spec.instance_type and spec.instance_type != type_name:
            raise InvalidSpec(f"instance type {spec.instance_type} on elastic host {spec.host}")
        if self._options.image_map and not spec.image.remote_id:
            raise NotFound(f"image {spec.image.name} has no counterpart at site {self._context.site_name}")
        if spec.token and (earlier := state.by_token.get(spec.token)):
            if (earlier.vm_id, earlier.host) != (spec.id, spec.host):
                raise Conflict(
                    f"token {spec.token} launched VM {earlier.vm_id} on {earlier.host}",
                    code="IdempotentParameterMismatch",
                )
            return earlier
        live = [vm for vm in state.vms.values() if vm.live]
        of_type = [vm for vm in live if _parts(vm.host)[1] == type_name]
        if kind.quota is not None and len(of_type) >= kind.quota:
            raise QuotaExceeded(
                f"the account may run {kind.quota} of {type_name}", code="InstanceLimitExceeded"
            )
        quota = self._options.quota_vcpus
        if quota is not None and sum(vm.vcpus for vm in live) + kind.vcpus > quota:
            raise QuotaExceeded(f"the account may run {quota:g} vCPUs", code="VcpuLimitExceeded")
        if kind.capacity is not None and sum(_parts(vm.host)[0] == zone for vm in of_type) >= kind.capacity:
            raise OutOfCapacity(f"no {type_name} left in {zone}", code="InsufficientInstanceCapacity")
        state.serial += 1
        digest = hashlib.sha256(f"{self._context.site_id} {state.serial}".encode()).hexdigest()
        vm = SimulatedVM(
            ref=f"i-{digest[:17]}",
            host=spec.host,
            state=VMState.PENDING,
            name=spec.name,
            vm_id=spec.id,
            broker_id=self._context.broker_id,
            token=spec.token,
            address=f"10.255.{state.serial // 250 % 250}.{state.serial % 250 + 1}",
            vcpus=kind.vcpus,
            mem_mb=kind.mem_mb,
        )
        state.add(vm)
        self._boot(state, vm)
        return vm

    def _host_report(self, state: State, name: str) -> HostReport:
        reason = self._away(state, name)
        if self._options.elastic:
            zone, type_name, spot = _parts(name)
            kind = self._options.types[type_name]
            elastic: dict[str, AttributeValue] = {
                "arch": "x86_64",
                "hypervisor": "simulated",
                "zone": zone,
                "instance_type": type_name,
                "cpu_total": float(kind.vcpus),
                "mem_total_mb": float(kind.mem_mb),
                "price_hour": kind.spot_price_hour if spot else kind.price_hour,
                "spot": float(spot),
                "quota": None if kind.quota is None else float(kind.quota),
                "quota_vcpus": self._options.quota_vcpus,
            }
            return HostReport(name, reachable=not reason, reason=reason, elastic=True, attributes=elastic)
        there = [vm for vm in state.by_host[name].values() if vm.state in _RUNS]
        strangers = [vm for vm in there if vm.broker_id != self._context.broker_id]
        return HostReport(
            name,
            reachable=not reason,
            reason=reason,
            attributes={
                **self._options.hosts[name],
                "running_vms": float(len(there)),
                "images": tuple(sorted(image for at, image in state.images if at == name)),
            },
            reserved_vcpus=float(sum(vm.vcpus for vm in strangers)),
            reserved_mem_mb=float(sum(vm.mem_mb for vm in strangers)),
        )

    @staticmethod
    def _report(vm: SimulatedVM) -> VMReport:
        return VMReport(
            ref=vm.ref,
            host=vm.host,
            state=VMState(vm.state),
            name=vm.name,
            vm_id=vm.vm_id,
            broker_id=vm.broker_id,
            reason=vm.reason,
            address=vm.address,
            vcpus=vm.vcpus,
            mem_mb=vm.mem_mb,
        )

    def _file_stamp(self) -> tuple[int, int]:
        try:
            found = os.stat(self._options.state_file) if self._options.state_file else None
        except FileNotFoundError:
            found = None
        return (found.st_mtime_ns, found.st_ino) if found else (0, 0)


def _takes(vm: VMSpec | SimulatedVM) -> tuple[int, int, int, int, int]:
    """Shared vCPUs, ordinary memory, dedicated CPUs, memory in huge pages, GPUs."""
    own, pages = vm.dedicated_cpus, vm.hugepages
    return (
        0 if own else vm.vcpus,
        0 if pages else vm.mem_mb,
        vm.vcpus if own else 0,
        vm.mem_mb if pages else 0,
        vm.gpus,
    )


def _lent(attributes: Mapping[str, AttributeValue], total: str, ratio: str) -> float | None:
    """What VMs may have in all; None without a limit."""
    there, times = attributes.get(total), attributes.get(ratio)
    if not isinstance(there, int | float):
        return None
    return there * times if isinstance(times, int | float) else there


def _parts(host: str) -> tuple[str, str, bool]:
    """Zone, type, and whether it is spare capacity, of an elastic host's name."""
    zone, type_name, *market = host.split("/")
    return zone, type_name, bool(market)
