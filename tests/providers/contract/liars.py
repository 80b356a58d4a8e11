"""Providers that declare what they do not do, one lie each. ``test_liars.py`` has the suite find every one of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

from providers.port import (
    Capability,
    HostReport,
    Listing,
    NotFound,
    Progress,
    SiteContext,
    VMReport,
    VMSpec,
    VMState,
)
from providers.simulated import SimulatedProvider
from tests.providers.contract.rigs import SimulatedCloudRig, SimulatedRig


class Honest(SimulatedRig):
    """Tells no lie, so that what is found is not found in everybody."""


class Liar(SimulatedRig):
    """Declares all that a simulated site declares."""

    patience_s = 1.0
    lies_about: ClassVar[Capability | None] = None
    """The capability whose contract is not kept; None for the core's."""
    found_by: ClassVar[str]
    """The test that must fail."""


# -- the core ----------------------------------------------------------------------------------------------------------


class TwoOfEach(Liar):
    """A launch that is asked for again is done again."""

    found_by = "test_second_ensure_changes_nothing"

    class kind(SimulatedProvider):
        def ensure_vm(self, spec: VMSpec) -> VMReport:
            first = super().ensure_vm(spec)
            with self._world.transaction() as state:
                again = replace(state.vms[first.ref], ref=f"{first.ref}-{len(state.vms)}", leases=[])
                state.add(again)
            return self._report(again)


class Unmarked(Liar):
    """Forgets whose a VM is in its listing."""

    found_by = "test_vm_is_seen_with_its_marks_where_it_runs"

    class kind(SimulatedProvider):
        def list_vms(self) -> Listing:
            listing = super().list_vms()
            return replace(listing, vms=[replace(vm, broker_id="", vm_id="") for vm in listing.vms])


class Grave(Liar):
    """What is gone cannot be deleted again."""

    found_by = "test_deleting_takes_all_that_was_made_and_again_takes_nothing"

    class kind(SimulatedProvider):
        def delete_vm(self, host: str, vm_id: str, ref: str = "") -> None:
            if self.observe_vm(host, vm_id, ref) is None:
                raise NotFound(f"there is no VM {vm_id}")
            super().delete_vm(host, vm_id, ref)


class Bully(Liar):
    """Deletes whatever the ref names."""

    found_by = "test_machine_that_no_broker_made_has_no_marks_and_is_left_alone"

    class kind(SimulatedProvider):
        def delete_vm(self, host: str, vm_id: str, ref: str = "") -> None:
            with self._world.transaction() as state:
                if ref in state.vms:
                    state.remove(state.vms[ref])
            super().delete_vm(host, vm_id, ref)


class Complete(Liar):
    """Says that the list of a host is whole which does not answer."""

    found_by = "test_nothing_is_concluded_of_a_host_that_does_not_answer"

    class kind(SimulatedProvider):
        def list_vms(self) -> Listing:
            return replace(super().list_vms(), complete=self._known)


class Racy(Liar):
    """Looks first and makes then, with a gap in between."""

    found_by = "test_two_calls_at_once_make_one_vm"

    class kind(SimulatedProvider):
        gap: ClassVar[threading.Barrier] = threading.Barrier(2)

        def ensure_vm(self, spec: VMSpec) -> VMReport:
            there = self.observe_vm(spec.host, spec.id)
            if there is not None:
                return there
            try:
                self.gap.wait(0.1)
            except threading.BrokenBarrierError:
                self.gap.reset()
            with self._world.transaction() as state:
                other = replace(spec, uuid=f"{spec.uuid}-{len(state.vms)}", nics=())
                return self._report(self._create(state, other))


# -- a capability each -------------------------------------------------------------------------------------------------


class NeverStops(Liar):
    lies_about = Capability.STOP
    found_by = "test_plug_is_pulled_and_the_vm_started_again_each_twice"

    class kind(SimulatedProvider):
        def stop_vm(self, host: str, ref: str, *, force: bool = False) -> None:
            with self._call("stop_vm", host) as state:
                self._find(state, host, ref)


class NoMethod(Liar):
    """Declares it, and has nothing for it."""

    lies_about = Capability.REBOOT
    found_by = "test_it_has_what_the_capabilities_demand_that_it_declares"

    class kind(SimulatedProvider):
        reboot_vm = None  # type: ignore[assignment]


class ForgetsMemory(Liar):
    """Stops a VM where it should save its memory."""

    lies_about = Capability.SUSPEND
    found_by = "test_suspended_vm_stays_so_until_it_is_started"

    class kind(SimulatedProvider):
        def suspend_vm(self, host: str, ref: str) -> None:
            self.stop_vm(host, ref, force=True)


class Copies(Liar):
    """Makes the VM on its target, and leaves it at its source."""

    lies_about = Capability.MIGRATE
    found_by = "test_running_vm_moves_once_and_leaves_nothing"

    class kind(SimulatedProvider):
        def migrate_vm(self, spec: VMSpec, source: str, progress: Progress | None = None) -> VMReport:
            report = super().migrate_vm(spec, source, progress)
            if not any(vm.ref.endswith("-double") for vm in self._world.vms()):
                self._world.double_vm(spec.id, source)
            return report


class Babbles(Liar):
    lies_about = Capability.CONSOLE
    found_by = "test_console_is_the_newest_64_kib_in_bytes"

    class kind(SimulatedProvider):
        def console_log(self, host: str, ref: str) -> bytes:
            return super().console_log(host, ref).ljust(70_000)


class Silent(Liar):
    """Watches, and tells nothing."""

    lies_about = Capability.EVENTS
    found_by = "test_watcher_hears_of_each_change_until_the_provider_is_closed"

    class kind(SimulatedProvider):
        def watch(self, notify: Callable[[str, str], None]) -> None:
            self._closed.wait()


class NotElastic(SimulatedCloudRig):
    lies_about = Capability.ELASTIC
    patience_s = 1.0
    found_by = "test_hosts_are_elastic_where_the_provider_says_so_and_nowhere_else"

    class kind(SimulatedProvider):
        def inventory(self) -> list[HostReport]:
            return [replace(host, elastic=False) for host in super().inventory()]


class NothingSpare(SimulatedCloudRig):
    """Declares spare capacity, and has it nowhere."""

    lies_about = Capability.SPOT
    found_by = "test_spare_capacity_is_reported_where_it_is_declared_and_nowhere_else"

    class kind(SimulatedProvider):
        def inventory(self) -> list[HostReport]:
            return [
                replace(host, attributes={**host.attributes, "spot": 0.0}) for host in super().inventory()
            ]


class BootsNothing(Liar):
    """Makes a VM with a kernel, that never runs."""

    lies_about = Capability.DIRECT_KERNEL
    found_by = "test_image_with_a_kernel_boots"

    class kind(SimulatedProvider):
        def observe_vm(self, host: str, vm_id: str, ref: str = "") -> VMReport | None:
            seen = super().observe_vm(host, vm_id, ref)
            return None if seen is None else replace(seen, state=VMState.PENDING)


class AnyAddress(Liar):
    lies_about = Capability.ADDRESSES
    found_by = "test_vm_has_the_address_that_was_leased_for_it"

    class kind(SimulatedProvider):
        @staticmethod
        def _report(vm: object) -> VMReport:
            return replace(SimulatedProvider._report(vm), address="10.255.0.1")  # type: ignore[arg-type]


class KeepsSubnets(Liar):
    lies_about = Capability.SUBNETS
    found_by = "test_subnet_that_nobody_needs_is_taken_from_the_host_and_again_takes_nothing"

    class kind(SimulatedProvider):
        def remove_network(self, host: str, network_id: str) -> None:
            pass


class CutsOff(Liar):
    """Takes a subnet away from under its VMs."""

    lies_about = Capability.SUBNETS
    found_by = "test_subnet_that_a_machine_is_on_stays"

    class kind(SimulatedProvider):
        def remove_network(self, host: str, network_id: str) -> None:
            with self._world.transaction() as state:
                state.networks.pop((host, network_id), None)


class SaysLess(SimulatedRig):
    """Lacks what it does not declare, as it may: no methods that only refuse."""

    capabilities = frozenset({Capability.DIRECT_KERNEL, Capability.ADDRESSES})

    class kind:
        """The core and nothing else."""

        def __init__(self, context: SiteContext) -> None:
            site = SimulatedProvider(context)
            self.capabilities = SaysLess.capabilities
            core = ("check", "inventory", "list_vms", "ensure_image", "ensure_network", "ensure_vm")
            for name in (*core, "observe_vm", "delete_vm", "close"):
                setattr(self, name, getattr(site, name))
