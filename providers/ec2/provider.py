"""One EC2 site behind the port."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from providers.ec2 import flavor, vm
from providers.ec2.client import Client
from providers.ec2.image import Images
from providers.ec2.options import Options, read_credentials, read_options
from providers.port import (
    Capability,
    Conflict,
    HostReport,
    ImageSpec,
    InvalidSpec,
    Listing,
    NetworkSpec,
    NotFound,
    Progress,
    ProviderError,
    QuotaExceeded,
    SiteContext,
    Unreachable,
    VMReport,
    VMSpec,
)

CONSOLE_BYTES = 65_536
SETTLE_S = 60.0
"""How long EC2 may not show an instance that it has just made ("Eventual consistency", EC2 Developer Guide)."""


class Ec2Provider:
    """Drives one region of EC2, or of anything that speaks its Query API (another Isthmus, for one).

    Hosts are zones times instance types. An instance is ours when it carries the tags ``isthmus:broker`` and
    ``isthmus:vm``; nothing else is ever changed or terminated.
    """

    def __init__(self, context: SiteContext, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._context = context
        self._clock = clock
        self._lock = threading.Lock()
        self._launch_lock = threading.Lock()
        self._fresh: dict[str, tuple[float, str]] = {}  # ref -> (launched at, host)

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Elastic; stops, reboots, shows the console. Addresses are the tunnel's, not the cloud's.

        EC2 tells nothing by itself over this API, hibernates only what was launched for it, and which machine an instance
        is on is Amazon's affair: no events, no suspend, no migrate.
        """
        found = {Capability.STOP, Capability.REBOOT, Capability.CONSOLE, Capability.ELASTIC}
        return frozenset(found | {Capability.SPOT} if self._options.spot else found)

    @cached_property
    def _options(self) -> Options:
        return read_options(self._context)

    @cached_property
    def _client(self) -> Client:
        return Client(
            self._context.site_name,
            self._options,
            read_credentials(self._context),
            self._context.call_timeout_s,
        )

    @cached_property
    def _flavors(self) -> flavor.Flavors:
        return flavor.Flavors(self._client, self._options, self._clock)

    @cached_property
    def _images(self) -> Images:
        return Images(self._client, self._clock)

    # -- the site ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Ask for the zones. Raises Unreachable, AuthenticationFailed or InvalidSpec (options) in words."""
        zones = self._zones()
        if unknown := sorted(self._options.zones - set(zones)):
            raise InvalidSpec(
                f"{self._context.site_name} has no zone {unknown[0]!r}; it has {', '.join(sorted(zones)) or 'none'}"
            )
        offers = self._flavors.catalogue().offers
        if not offers:
            wanted = ", ".join(self._options.instance_types) or "any"
            raise InvalidSpec(
                f"{self._context.site_name} offers none of the instance types asked for ({wanted})"
            )

        self._check_subnets({zone for zone, _ in offers})

    def _check_subnets(self, used: set[str]) -> None:
        """A subnet lies in one zone, and EC2 refuses each launch in another one: better said now."""
        wanted = {zone: subnet for zone in sorted(used) if (subnet := self._options.subnet(zone))}
        for zone, subnet in wanted.items():
            try:
                (found,) = self._client.call("describe_subnets", SubnetIds=[subnet])["Subnets"]
            except NotFound as error:
                raise InvalidSpec(f"options subnet_id and subnets: {error}", code=error.code) from error
            if found["AvailabilityZone"] != zone:
                raise InvalidSpec(
                    f"{self._context.site_name}: subnet {subnet} is in the zone {found['AvailabilityZone']} and cannot "
                    f"serve {zone}: set option zones to the zones to use, and option subnets to each zone's subnet"
                )

    def inventory(self) -> Sequence[HostReport]:
        """One elastic host per zone and instance type offered there, in the order of their names.

        When the cloud does not answer, what was known of it is reported as unreachable; Unreachable is raised
        when nothing was known.
        """
        try:
            zones = self._zones()
            catalogue = self._flavors.catalogue()
        except Unreachable as error:
            known = self._flavors.known()
            if known is None:
                raise
            return [
                self._host(known, zone, name, str(error), spot=spot) for zone, name, spot in _markets(known)
            ]
        return [
            self._host(
                catalogue,
                zone,
                name,
                "" if zones.get(zone, "available") == "available" else f"zone {zone} is {zones[zone]}",
                spot=spot,
            )
            for zone, name, spot in _markets(catalogue)
        ]

    def _zones(self) -> dict[str, str]:
        answer = self._client.call("describe_availability_zones")
        return {zone["ZoneName"]: zone.get("State", "available") for zone in answer["AvailabilityZones"]}

    def _host(
        self, catalogue: flavor.Catalogue, zone: str, name: str, reason: str, *, spot: bool
    ) -> HostReport:
        price = catalogue.spot[zone, name] if spot else None
        return HostReport(
            name=vm.host_name(zone, name, spot=spot),
            reachable=not reason,
            reason=reason,
            elastic=True,
            attributes=flavor.attributes(self._options, zone, catalogue.types[name], price),
        )

    # -- images and networks -----------------------------------------------------------------------------------

    def ensure_image(self, host: str, image: ImageSpec, progress: Progress | None = None) -> None:
        """See that the mapped AMI is there and ready. Raises NotFound when the image is not mapped or is gone."""
        self._images.find(image)

    def ensure_network(self, host: str, network: NetworkSpec) -> None:
        """Nothing to do: a VM here joins our networks through its tunnel, over whatever subnet the cloud gives it."""

    # -- VMs ---------------------------------------------------------------------------------------------------

    def list_vms(self) -> Listing:
        """Every instance of the region, strangers' included; of a VM of ours that is gone its last instance."""
        sizes = self._sizes()
        reports = [vm.report(instance, sizes) for instance in vm.current(self._instances())]
        hosts = {report.host for report in reports}
        if known := self._flavors.known():
            hosts.update(vm.host_name(zone, name, spot=spot) for zone, name, spot in _markets(known))
        # A launch of a moment ago may be missing from the list: its host's list is then not whole.
        shown = {report.ref for report in reports}
        hosts -= {host for ref, host in self._launched_lately().items() if ref not in shown}
        return Listing(reports, frozenset(hosts))

    def ensure_vm(self, spec: VMSpec) -> VMReport:
        """Launch the VM, or find the instance that an earlier, unanswered call launched.

        The marks are looked for first, the ClientToken covers what EC2 does not show yet.
        """
        request = vm.launch_request(
            spec, self._context.broker_id, self._options, self._images.find(spec.image)
        )
        token = request["ClientToken"]
        sizes = self._sizes()
        found = vm.newest_live(self._marked(spec.id), token)
        if found is not None and found["State"]["Name"] not in vm.GONE:
            return vm.report(found, sizes)
        if self._options.quota_vcpus is None:
            return vm.report(self._launch(request, spec), sizes)
        with self._launch_lock:  # two launches must not both take the last of the quota
            self._check_quota(self._options.quota_vcpus, spec, sizes)
            return vm.report(self._launch(request, spec), sizes)

    def _launch(self, request: Mapping[str, Any], spec: VMSpec) -> Mapping[str, Any]:
        try:
            launched: Mapping[str, Any] = self._client.call("run_instances", **request)["Instances"][0]
        except Conflict as error:
            # The token was used with other parameters (the VM was placed elsewhere after a lost answer).
            if error.code != "IdempotentParameterMismatch":
                raise
            adopted = self._by_token(request["ClientToken"])
            if adopted is None or vm.tags_of(adopted).get(vm.VM_TAG) != spec.id:
                raise
            return adopted
        with self._lock:
            self._fresh[launched["InstanceId"]] = (self._clock(), spec.host)
        return launched

    def _check_quota(self, quota: float, spec: VMSpec, sizes: Mapping[str, tuple[int, int]]) -> None:
        used = sum(
            sizes.get(instance["InstanceType"], (0, 0))[0]
            for instance in self._instances(
                [{"Name": f"tag:{vm.BROKER_TAG}", "Values": [self._context.broker_id]}]
            )
            if instance["State"]["Name"] not in (*vm.GONE, "stopped")
        )
        wanted = sizes.get(vm.split_host(spec.host)[1], (spec.vcpus, 0))[0]
        if used + wanted > quota:
            raise QuotaExceeded(
                f"{self._context.site_name}: {used} of quota_vcpus {quota:g} are in use, {wanted} more do not fit",
                code="VcpuLimitExceeded",
            )

    def observe_vm(self, host: str, vm_id: str, ref: str = "") -> VMReport | None:
        """The instance as it is now; None when EC2 neither shows it nor may still be about to."""
        instance = self._find(vm_id, ref)
        if instance is not None:
            return vm.report(instance, self._sizes())
        if ref and ref in self._launched_lately():
            raise ProviderError(
                f"{self._context.site_name} does not show {ref} yet, which was launched a moment ago",
                code="InvalidInstanceID.NotFound",
            )
        return None

    def start_vm(self, host: str, ref: str) -> None:
        """Start a stopped instance; nothing when it runs. Raises NotFound."""
        self._change("start_instances", ref, InstanceIds=[ref])

    def stop_vm(self, host: str, ref: str, *, force: bool = False) -> None:
        """Stop an instance; nothing when it is stopped. Raises NotFound."""
        self._change("stop_instances", ref, InstanceIds=[ref], Force=force)

    def reboot_vm(self, host: str, ref: str) -> None:
        """Reboot a running instance. Raises NotFound."""
        self._change("reboot_instances", ref, InstanceIds=[ref])

    def _change(self, action: str, ref: str, **parameters: Any) -> None:
        try:
            self._client.call(action, **parameters)
        except ProviderError as error:
            if error.code not in ("IncorrectInstanceState", "IncorrectState"):
                raise
            instance = self._by_ref(ref)
            if instance is None or instance["State"]["Name"] in vm.GONE:
                raise NotFound(f"{self._context.site_name}: {ref} is terminated", code=error.code) from error
            raise

    def delete_vm(self, host: str, vm_id: str, ref: str = "") -> None:
        """Terminate the VM's instance (each of them, should there be several); nothing when it is gone.

        Raises Conflict when ``ref`` is an instance that does not carry the VM's marks.
        """
        doomed = {instance["InstanceId"]: instance for instance in self._marked(vm_id)}
        if ref and ref not in doomed:
            instance = self._by_ref(ref)
            if instance is not None:
                if not self._is_ours(instance, vm_id):
                    raise Conflict(
                        f"{self._context.site_name}: {ref} is not ours to terminate: it lacks our tags"
                    )
                doomed[ref] = instance
            elif ref in self._launched_lately():
                doomed[ref] = {"State": {"Name": "pending"}}
        live = sorted(name for name, instance in doomed.items() if instance["State"]["Name"] not in vm.GONE)
        for name in live:
            try:
                self._client.call("terminate_instances", InstanceIds=[name])
            except NotFound:
                if name in self._launched_lately():
                    raise ProviderError(
                        f"{self._context.site_name} does not show {name} yet, which was launched a moment ago",
                        code="InvalidInstanceID.NotFound",
                    ) from None
            with self._lock:
                self._fresh.pop(name, None)

    def console_log(self, host: str, ref: str) -> bytes:
        """The newest 64 KiB of the serial console that the cloud keeps. Raises NotFound, Unsupported."""
        # The wire has base64; boto3 gives text, with U+FFFD for what is not UTF-8.
        output: str = self._client.call("get_console_output", InstanceId=ref).get("Output") or ""
        return output.encode()[-CONSOLE_BYTES:]

    def close(self) -> None:
        """Close the connections."""
        if "_client" in self.__dict__:
            self._client.close()

    # -- finding instances -------------------------------------------------------------------------------------

    def _instances(self, filters: Sequence[Mapping[str, Any]] = ()) -> Iterable[Mapping[str, Any]]:
        given: dict[str, Any] = {"Filters": list(filters)} if filters else {}
        for page in self._client.pages("describe_instances", self._clock, size=1000, **given):
            for reservation in page["Reservations"]:
                yield from reservation["Instances"]

    def _marked(self, vm_id: str) -> list[Mapping[str, Any]]:
        return list(
            self._instances(
                [
                    {"Name": f"tag:{vm.BROKER_TAG}", "Values": [self._context.broker_id]},
                    {"Name": f"tag:{vm.VM_TAG}", "Values": [vm_id]},
                ]
            )
        )

    def _by_token(self, token: str) -> Mapping[str, Any] | None:
        return vm.newest_live(self._instances([{"Name": "client-token", "Values": [token]}]))

    def _by_ref(self, ref: str) -> Mapping[str, Any] | None:
        try:
            answer = self._client.call("describe_instances", InstanceIds=[ref])
        except NotFound:
            return None
        found = [instance for reservation in answer["Reservations"] for instance in reservation["Instances"]]
        return found[0] if found else None

    def _find(self, vm_id: str, ref: str) -> Mapping[str, Any] | None:
        instance = self._by_ref(ref) if ref else None
        if instance is not None and self._is_ours(instance, vm_id):
            return instance
        return vm.newest_live(self._marked(vm_id))

    def _is_ours(self, instance: Mapping[str, Any], vm_id: str) -> bool:
        tags = vm.tags_of(instance)
        return tags.get(vm.BROKER_TAG) == self._context.broker_id and tags.get(vm.VM_TAG) == vm_id

    def _launched_lately(self) -> dict[str, str]:
        """ref -> host of the launches that EC2 may not show yet."""
        with self._lock:
            now = self._clock()
            self._fresh = {ref: entry for ref, entry in self._fresh.items() if now - entry[0] <= SETTLE_S}
            return {ref: host for ref, (_, host) in self._fresh.items()}

    def _sizes(self) -> dict[str, tuple[int, int]]:
        """Instance type -> (vCPUs, MiB) of what the site offers."""
        return {name: (kind.vcpus, kind.mem_mb) for name, kind in self._flavors.catalogue().types.items()}


def _markets(catalogue: flavor.Catalogue) -> list[tuple[str, str, bool]]:
    """(zone, type, whether it is spare capacity) of everything that is sold, in the order of the hosts' names."""
    found = [(zone, name, False) for zone, name in catalogue.offers]
    found += [(zone, name, True) for zone, name in catalogue.spot]
    return sorted(found)
