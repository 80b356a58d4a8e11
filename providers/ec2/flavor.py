"""Instance types: which are offered in which zone, how big they are and what an hour costs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

import libcloud.pricing

from providers.ec2.client import Client
from providers.ec2.options import DEFAULT_INSTANCE_TYPES, Options
from providers.port import AttributeValue

CACHE_S = 600.0
_ARCHITECTURES = ("x86_64", "arm64", "i386")
_ARCH_NAMES = {"arm64": "aarch64", "i386": "i686"}


@dataclass(frozen=True)
class InstanceType:
    """One instance type: vCPUs, memory in MiB, and what else the cloud says of it."""

    name: str
    vcpus: int
    mem_mb: int
    arch: str = "x86_64"
    hypervisor: str = ""
    gpu_model: str = ""
    gpus: int = 0


@dataclass(frozen=True)
class Catalogue:
    """``types`` by name, and ``offers``: (zone, type) in a stable order."""

    types: Mapping[str, InstanceType]
    offers: tuple[tuple[str, str], ...]
    spot: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """US dollars for an hour of spare capacity, by offer, where it is sold and the site buys it."""


class Flavors:
    """The site's catalogue, asked from the cloud at most every ten minutes."""

    def __init__(
        self,
        client: Client,
        options: Options,
        clock: Callable[[], float],
        wall: Callable[[], float] = time.time,
    ) -> None:
        """``clock`` measures, ``wall`` tells the time of day, both in seconds."""
        self._wall = wall
        self._client = client
        self._options = options
        self._clock = clock
        self._lock = threading.Lock()
        self._catalogue: Catalogue | None = None
        self._read_at = 0.0

    def catalogue(self) -> Catalogue:
        """What is offered. Raises what the cloud answers when nothing is cached or the cache is too old."""
        with self._lock:
            if self._catalogue is None or self._clock() - self._read_at > CACHE_S:
                self._catalogue = self._read()
                self._read_at = self._clock()
            return self._catalogue

    def known(self) -> Catalogue | None:
        """What was offered when the cloud was last asked, however long ago."""
        return self._catalogue

    def _read(self) -> Catalogue:
        types = self._types(self._options.instance_types or DEFAULT_INSTANCE_TYPES)
        if not types and not self._options.instance_types:
            types = self._types(("*",))  # a cloud with names of its own
        offers: set[tuple[str, str]] = set()
        for names in _chunks(sorted(types), 100):
            for page in self._client.pages(
                "describe_instance_type_offerings",
                self._clock,
                LocationType="availability-zone",
                Filters=[{"Name": "instance-type", "Values": names}],
            ):
                for offer in page["InstanceTypeOfferings"]:
                    zone, name = offer["Location"], offer["InstanceType"]
                    if name in types and (not self._options.zones or zone in self._options.zones):
                        offers.add((zone, name))
        return Catalogue(
            types, tuple(sorted(offers)), self._spot(types, offers) if self._options.spot else {}
        )

    def _spot(
        self, types: Mapping[str, InstanceType], offers: set[tuple[str, str]]
    ) -> dict[tuple[str, str], float]:
        """The newest price of each offer."""
        now = datetime.fromtimestamp(self._wall(), UTC)
        found: dict[tuple[str, str], tuple[datetime, float]] = {}
        for names in _chunks(sorted(types), 100):
            for page in self._client.pages(
                "describe_spot_price_history",
                self._clock,
                StartTime=now,
                InstanceTypes=names,
                ProductDescriptions=["Linux/UNIX"],
            ):
                for item in page["SpotPriceHistory"]:
                    offer = (item["AvailabilityZone"], item["InstanceType"])
                    seen = (item["Timestamp"], float(item["SpotPrice"]))
                    if offer in offers and (offer not in found or seen[0] > found[offer][0]):
                        found[offer] = seen
        return {offer: price for offer, (_, price) in found.items()}

    def _types(self, patterns: tuple[str, ...]) -> dict[str, InstanceType]:
        # As a filter, and not as InstanceTypes: there one unknown name fails the whole call.
        found: dict[str, InstanceType] = {}
        for wanted in _chunks(list(patterns), 100):
            for page in self._client.pages(
                "describe_instance_types", self._clock, Filters=[{"Name": "instance-type", "Values": wanted}]
            ):
                for item in page["InstanceTypes"]:
                    if any(fnmatchcase(item["InstanceType"], pattern) for pattern in wanted):
                        found[item["InstanceType"]] = read_type(item)
        return found


def read_type(item: Mapping[str, Any]) -> InstanceType:
    """One entry of DescribeInstanceTypes."""
    offered = item.get("ProcessorInfo", {}).get("SupportedArchitectures", [])
    arch = next((name for name in _ARCHITECTURES if name in offered), "x86_64")
    gpus = item.get("GpuInfo", {}).get("Gpus", [])
    return InstanceType(
        name=item["InstanceType"],
        vcpus=int(item["VCpuInfo"]["DefaultVCpus"]),
        mem_mb=int(item["MemoryInfo"]["SizeInMiB"]),
        arch=_ARCH_NAMES.get(arch, arch),
        hypervisor=str(item.get("Hypervisor", "")),
        gpu_model=" ".join(str(gpus[0].get(key, "")) for key in ("Manufacturer", "Name")).strip()
        if gpus
        else "",
        gpus=sum(int(gpu.get("Count", 0)) for gpu in gpus),
    )


def price_hour(options: Options, instance_type: str) -> float | None:
    """US dollars for an hour on demand, Linux; None where it is not known.

    From the site's ``prices``, else from libcloud's table (offline, a file of its package), where 0.0 stands for
    "not known" and must not read as "free".
    """
    if options.prices and instance_type in options.prices:
        return options.prices[instance_type]
    price = libcloud.pricing.get_size_price("compute", "ec2_linux", instance_type, options.price_region)
    return float(price) if price else None


def attributes(
    options: Options, zone: str, flavor: InstanceType, spot_price: float | None = None
) -> dict[str, AttributeValue]:
    """The attributes of the elastic host ``zone/type``: sizes are those of one VM of that type.

    ``spot_price``: what an hour costs where it is spare capacity.
    """
    return {
        "arch": flavor.arch,
        "cpu_total": float(flavor.vcpus),
        "elastic": 1.0,
        "gpu_model": flavor.gpu_model or None,
        "gpu_total": float(flavor.gpus),
        "hypervisor": flavor.hypervisor or None,
        "instance_type": flavor.name,
        "mem_total_mb": float(flavor.mem_mb),
        "price_hour": price_hour(options, flavor.name) if spot_price is None else spot_price,
        "quota_vcpus": options.quota_vcpus,
        "region": options.region,
        "spot": float(spot_price is not None),
        "zone": zone,
    }


def _chunks(items: list[str], size: int) -> list[list[str]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
