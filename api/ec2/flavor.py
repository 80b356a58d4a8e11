"""Instance types: the broker's flavors, under their own names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from api.ec2 import filters
from api.ec2.call import Call, boolean
from api.ec2.describe import Described, Named, describe
from api.ec2.fault import Fault, invalid
from broker import flavor, host
from broker.listing import Which
from broker.store import FlavorRow

_ARCHITECTURES = {"aarch64": "arm64", "i686": "i386"}


def describe_instance_types(call: Call) -> dict[str, Any]:
    """DescribeInstanceTypes."""
    return describe(call, _TYPES)


def describe_instance_type_offerings(call: Call) -> dict[str, Any]:
    """DescribeInstanceTypeOfferings: a type is offered where at least one host is as large as it."""
    kind = _location_type(call)
    if kind not in ("region", "availability-zone", "availability-zone-id", "outpost"):
        raise invalid("LocationType", kind)
    return describe(call, _OFFERS)


def _location_type(call: Call) -> str:
    return str(call.params.get("LocationType", "region"))


def _architectures(call: Call) -> list[str]:
    """What the hosts of the zones can run."""
    found = {_ARCHITECTURES.get(arch, arch) for arch in host.architectures(call.broker, call.actor)}
    return sorted(found) or ["x86_64"]


def _instance_type(row: FlavorRow, architectures: list[str]) -> dict[str, Any]:
    return {
        "InstanceType": row.name,
        "CurrentGeneration": True,
        "FreeTierEligible": False,
        "SupportedUsageClasses": ["on-demand"],
        "SupportedRootDeviceTypes": ["instance-store"],
        "SupportedVirtualizationTypes": ["hvm"],
        "BareMetal": False,
        "ProcessorInfo": {"SupportedArchitectures": architectures},
        "VCpuInfo": {"DefaultVCpus": row.vcpus, "DefaultCores": row.vcpus, "DefaultThreadsPerCore": 1},
        "MemoryInfo": {"SizeInMiB": row.mem_mb},
        "InstanceStorageSupported": True,
        "InstanceStorageInfo": {
            "TotalSizeInGB": row.disk_gb,
            "Disks": [{"SizeInGB": row.disk_gb, "Count": 1, "Type": "ssd"}],
        },
        "EbsInfo": {"EbsOptimizedSupport": "unsupported", "EncryptionSupport": "unsupported"},
        "NetworkInfo": {
            "MaximumNetworkInterfaces": 8,
            "Ipv4AddressesPerInterface": 1,
            "Ipv6Supported": False,
        },
        "HibernationSupported": False,
        "BurstablePerformanceSupported": False,
        "DedicatedHostsSupported": False,
        "AutoRecoverySupported": False,
        **({"GpuInfo": {"Gpus": [{"Count": row.gpus}]}} if row.gpus else {}),
    }


def _types(call: Call, rows: Sequence[FlavorRow]) -> list[dict[str, Any]]:
    architectures = _architectures(call)
    return [_instance_type(row, architectures) for row in rows]


_TYPE_FIELDS: filters.Fields[dict[str, Any]] = {
    "bare-metal": lambda item: boolean(False),
    "burstable-performance-supported": lambda item: boolean(False),
    "current-generation": lambda item: boolean(True),
    "free-tier-eligible": lambda item: boolean(False),
    "instance-storage-info.total-size-in-gb": lambda item: (
        str(item["InstanceStorageInfo"]["TotalSizeInGB"]),
    ),
    "instance-storage-supported": lambda item: boolean(True),
    "instance-type": lambda item: (item["InstanceType"],),
    "memory-info.size-in-mib": lambda item: (str(item["MemoryInfo"]["SizeInMiB"]),),
    "processor-info.supported-architecture": lambda item: item["ProcessorInfo"]["SupportedArchitectures"],
    "supported-root-device-type": lambda item: item["SupportedRootDeviceTypes"],
    "supported-usage-class": lambda item: item["SupportedUsageClasses"],
    "supported-virtualization-type": lambda item: item["SupportedVirtualizationTypes"],
    "vcpu-info.default-cores": lambda item: (str(item["VCpuInfo"]["DefaultCores"]),),
    "vcpu-info.default-vcpus": lambda item: (str(item["VCpuInfo"]["DefaultVCpus"]),),
}

_TYPES: Described[FlavorRow, dict[str, Any]] = Described(
    answer="InstanceTypes",
    named=[
        Named(
            "InstanceTypes",
            "names",
            lambda _call, absent: Fault(
                "InvalidInstanceType",
                f"The following supplied instance types do not exist: [{', '.join(absent)}]",
            ),
        )
    ],
    fields=_TYPE_FIELDS,
    columns={"instance-type": ("name", list)},
    find=lambda call, which: flavor.list_flavors(call.broker, call.actor, **which),
    items=_types,
    key=lambda row: row.name,
    most=100,
)


def _offers(call: Call, which: Which) -> Sequence[tuple[str, str]]:
    kind, only = _location_type(call), which.get("only") or {}
    if kind == "outpost":
        return []
    flavor_name, _, site_ref = (which.get("after") or "").partition(" ")
    return flavor.list_offers(
        call.broker,
        call.actor,
        by_site=_PLACES[kind],
        names=only.get("name"),
        sites=only.get("site") if kind != "region" else None,
        after=(flavor_name, site_ref) if flavor_name else None,
        limit=which.get("limit"),
    )


_PLACES: dict[str, Literal["id", "name"] | None] = {
    "region": None,
    "availability-zone": "name",
    "availability-zone-id": "id",
}
_OFFERS: Described[tuple[str, str], dict[str, str]] = Described(
    answer="InstanceTypeOfferings",
    fields={
        "instance-type": lambda offer: (offer["InstanceType"],),
        "location": lambda offer: (offer["Location"],),
    },
    columns={"instance-type": ("name", list), "location": ("site", list)},
    find=_offers,
    items=lambda call, rows: [
        {"InstanceType": name, "LocationType": _location_type(call), "Location": site or call.region}
        for name, site in rows
    ],
    key=" ".join,
)
