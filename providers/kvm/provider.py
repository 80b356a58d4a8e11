"""The provider of a kvm site: the port's methods over its hosts."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from providers.kvm import vm as vms
from providers.kvm.acceleration import ProbeCache
from providers.kvm.connection import Connection, Pending
from providers.kvm.domain import vm_id_of
from providers.kvm.driver import LibvirtError, api, is_code
from providers.kvm.host import KvmHost, Session
from providers.kvm.migration import migrate
from providers.kvm.network import ensure_network, networks_of, remove_network
from providers.kvm.options import Options
from providers.port import (
    Capability,
    Conflict,
    HostReport,
    ImageSpec,
    Listing,
    NetworkSpec,
    NotFound,
    Progress,
    ProviderError,
    SiteContext,
    Unreachable,
    VMReport,
    VMSpec,
)

T = TypeVar("T")
_MEMORY_S = 3600.0
"""How long writing or reading all of a VM's memory may take."""
_TICK_S = 1.0
_RECONNECT_TICKS = 5
_POLL_TICKS = 30
"""How often a watcher is told to look at everything, should an event have been lost."""


class KvmProvider:
    """One kvm site. Nothing is connected before the first call."""

    def __init__(self, context: SiteContext) -> None:
        self._context = context
        options = self._options = Options.parse(context)
        probes = ProbeCache(context.cache_dir)
        self._hosts = [
            KvmHost(
                option, options, context, Connection(option.uri, option.label, context.call_timeout_s), probes
            )
            for option in options.hosts
        ]
        self._hostnames = _Hostnames(context.cache_dir)
        for host in self._hosts:
            host.learned_name = self._hostnames.get(host.option.uri)
        self._closed = threading.Event()

    @property
    def capabilities(self) -> frozenset[Capability]:
        return frozenset(
            {
                Capability.STOP,
                Capability.REBOOT,
                Capability.CONSOLE,
                Capability.EVENTS,
                Capability.DIRECT_KERNEL,
                Capability.SUSPEND,
                Capability.MIGRATE,
                Capability.ADDRESSES,
                Capability.SUBNETS,
            }
        )

    def check(self) -> None:
        """Reach every host. One that refuses us or is misconfigured is told; so is a site where none answers."""
        failures = [
            outcome
            for _, outcome in self._each(lambda host, session: None)
            if isinstance(outcome, ProviderError)
        ]
        for error in failures:
            if not isinstance(error, Unreachable):
                raise error
        if len(failures) == len(self._hosts):
            raise failures[0]

    def inventory(self) -> Sequence[HostReport]:
        reports: dict[str, HostReport] = {}
        for host, outcome in self._each(lambda host, session: host.report(session)):
            name = host.name
            if name in reports:
                outcome = Conflict(
                    f"two hosts are called {name}: give each a `name` in the site's option hosts"
                )
                name = host.option.uri
            if isinstance(outcome, ProviderError):
                known = host.last_attributes
                outcome = HostReport(name, reachable=False, reason=str(outcome), attributes=known)
            reports[name] = outcome
        return list(reports.values())

    def list_vms(self) -> Listing:
        found: list[VMReport] = []
        complete, unreachable = set(), {}
        for host, outcome in self._each(
            lambda host, session: vms.list_reports(session.connection, host.name)
        ):
            if isinstance(outcome, ProviderError):
                unreachable[host.name] = str(outcome)
            else:
                complete.add(host.name)
                found.extend(outcome)
        return Listing(vms=found, complete=frozenset(complete), unreachable=unreachable)

    def ensure_image(self, host: str, image: ImageSpec, progress: Progress | None = None) -> None:
        self._host(host).ensure_image(image, progress)

    def ensure_network(self, host: str, network: NetworkSpec) -> None:
        there = self._host(host)

        def ensure(session: Session) -> None:
            with there.vm_lock(network.id):
                ensure_network(session.connection, host, network, self._context.broker_id)

        there.call(ensure)

    def list_networks(self) -> Mapping[str, Collection[str]]:
        broker_id = self._context.broker_id
        return {
            host.name: outcome
            for host, outcome in self._each(
                lambda _, session: set(networks_of(session.connection, broker_id))
            )
            if not isinstance(outcome, ProviderError)
        }

    def remove_network(self, host: str, network_id: str) -> None:
        there = self._host(host)

        def remove(session: Session) -> None:
            with there.vm_lock(network_id):
                remove_network(session.connection, host, network_id, self._context.broker_id)

        there.call(remove)

    def ensure_vm(self, spec: VMSpec) -> VMReport:
        """Raises NotFound when the image is not on the host yet, InvalidSpec, Conflict, OutOfCapacity."""
        vms.check_spec(spec)
        host = self._host(spec.host)

        def ensure(session: Session) -> VMReport:
            with host.vm_lock(spec.id):
                domain = vms.find(session.connection, spec.id, spec.uuid)
                if domain is not None:
                    return vms.adopt(domain, spec.host, spec, self._context.broker_id)
                image = host.image_files(session, spec.image)
                if image is None:
                    raise NotFound(f"image {spec.image.name} is not on host {spec.host}; ensure_image first")
                try:
                    return vms.create(
                        session.connection,
                        session.pool,
                        self._options.pool_path,
                        spec.host,
                        spec,
                        image,
                        session.facts.machine,
                        self._context.broker_id,
                        lambda: host.granting(session, spec),
                    )
                except LibvirtError as error:
                    if host.lost_image(session, spec.image):
                        raise NotFound(
                            f"image {spec.image.name} is gone from host {spec.host}: {error}"
                        ) from error
                    raise

        return host.call(ensure)

    def observe_vm(self, host: str, vm_id: str, ref: str = "") -> VMReport | None:
        def observe(session: Session) -> VMReport | None:
            domain = vms.find(session.connection, vm_id, ref)
            if domain is None:
                return None
            try:
                seen = vms.report(domain, host)
            except LibvirtError as error:
                if is_code(error, api.VIR_ERR_NO_DOMAIN):  # gone between the two calls
                    return None
                raise
            mine = (seen.broker_id, seen.vm_id) == (self._context.broker_id, vm_id)
            return seen if mine or not vm_id else None

        return self._host(host).call(observe)

    def start_vm(self, host: str, ref: str) -> None:
        there = self._host(host)
        if there.call(lambda session: vms.is_saved(vms.get(session.connection, host, ref))):
            there.call_long(_MEMORY_S, lambda connection: vms.start(vms.get(connection, host, ref)))
        else:
            there.call(lambda session: vms.start(vms.get(session.connection, host, ref)))

    def stop_vm(self, host: str, ref: str, *, force: bool = False) -> None:
        self._host(host).call(lambda session: vms.stop(vms.get(session.connection, host, ref), force=force))

    def reboot_vm(self, host: str, ref: str) -> None:
        self._host(host).call(lambda session: vms.reboot(vms.get(session.connection, host, ref), host))

    def suspend_vm(self, host: str, ref: str) -> None:
        there = self._host(host)
        there.call_long(_MEMORY_S, lambda connection: vms.suspend(vms.get(connection, host, ref), host))

    def migrate_vm(self, spec: VMSpec, source: str, progress: Progress | None = None) -> VMReport:
        """With its disk's changes over a copy of its image, so hosts share no storage. Raises as in the port."""
        here, there = self._host(source), self._host(spec.host)
        tls = self._options.migration == "tls"
        return migrate(here, there, spec, self._context.broker_id, progress, tls=tls)

    def delete_vm(self, host: str, vm_id: str, ref: str = "") -> None:
        there = self._host(host)

        def delete(session: Session) -> None:
            with there.vm_lock(vm_id):
                vms.delete(session.connection, session.pool, host, vm_id, ref, self._context.broker_id)

        there.call(delete)

    def console_log(self, host: str, ref: str) -> bytes:
        return self._host(host).call(
            lambda session: vms.console_log(session.connection, session.pool, host, ref)
        )

    def watch(self, notify: Callable[[str, str], None]) -> None:
        """libvirt's lifecycle events of every host; each new or lost connection means "look at everything"."""
        watchers = [_Watcher(host, notify) for host in self._hosts]
        ticks = 0
        while not self._closed.is_set():
            for watcher in watchers:
                watcher.look(may_connect=ticks % _RECONNECT_TICKS == 0)
            ticks += 1
            if ticks % _POLL_TICKS == 0:
                notify("", "")
            self._closed.wait(_TICK_S)

    def close(self) -> None:
        self._closed.set()
        for host in self._hosts:
            host.connection.close()

    # -----------------------------------------------------------------------------------------------

    def _host(self, name: str) -> KvmHost:
        for host in self._hosts:
            if host.name == name:
                return host
        # A host without a name of the user's is known by libvirt's only after the first contact.
        if any(not host.option.name and not host.learned_name for host in self._hosts):
            self._each(lambda host, session: None)
            for host in self._hosts:
                if host.name == name:
                    return host
        raise NotFound(f"site {self._context.site_name} has no host {name!r}")

    def _each(self, action: Callable[[KvmHost, Session], T]) -> list[tuple[KvmHost, T | ProviderError]]:
        """``action`` on all hosts at once; each has its own deadline."""
        begun: list[tuple[KvmHost, Pending[T] | ProviderError]] = []
        for host in self._hosts:
            try:
                begun.append((host, host.submit(partial(action, host))))
            except ProviderError as error:
                begun.append((host, error))
        outcomes: list[tuple[KvmHost, T | ProviderError]] = []
        for host, pending in begun:
            try:
                result = pending if isinstance(pending, ProviderError) else host.connection.result(pending)
            except ProviderError as error:
                result = error
            outcomes.append((host, result))
        self._hostnames.put({host.option.uri: host.learned_name for host in self._hosts})
        return outcomes


class _Watcher:
    """Keeps one host's lifecycle events flowing over whatever connection the host has at the moment."""

    def __init__(self, host: KvmHost, notify: Callable[[str, str], None]) -> None:
        self._host = host
        self._notify = notify
        self._connection: Any = None
        self._pending: Pending[None] | None = None

    def look(self, *, may_connect: bool) -> None:
        """Register on a new connection; tell of a lost one. Waits for nothing."""
        current = self._host.connection.current()
        if current is not None and current is self._connection:
            return
        if self._connection is not None:
            self._connection = None
            self._notify("", "")
        if self._pending is not None and not self._pending.future.done():
            return
        if current is not None or may_connect:
            with contextlib.suppress(ProviderError):
                self._pending = self._host.connection.submit(self._register)

    def _register(self, connection: Any) -> None:
        if connection is self._connection:
            return
        connection.domainEventRegisterAny(None, api.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._tell, None)
        self._connection = connection
        self._notify("", "")

    def _tell(self, _connection: Any, domain: Any, _event: int, _detail: int, _opaque: object) -> None:
        # In libvirt's event thread; the name is known without a call.
        self._notify(vm_id_of(domain.name()), self._host.name)


class _Hostnames:
    """What hosts without a name of the user's call themselves, kept so that they are known while they are down."""

    def __init__(self, directory: str) -> None:
        self._path = Path(directory) / "hostnames.json" if directory else None
        self._names: dict[str, str] = {}
        if self._path is not None:
            with contextlib.suppress(OSError, ValueError):
                self._names = json.loads(self._path.read_text())

    def get(self, uri: str) -> str:
        """The name, empty when it was never learned."""
        return self._names.get(uri, "")

    def put(self, names: dict[str, str]) -> None:
        """Remember; writes only news."""
        names = {uri: name for uri, name in names.items() if name}
        if names != self._names:
            self._names = names
            if self._path is not None:
                scratch = self._path.with_name(f"{self._path.name}.{os.getpid()}")
                scratch.write_text(json.dumps(names, indent=1))
                os.replace(scratch, self._path)
