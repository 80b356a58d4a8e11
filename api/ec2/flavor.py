"""Instance types: the broker's flavors, under their own names."""

from __future__ import annotations

from typing import Any

from api.ec2 import filters
from api.ec2.call import Call, boolean
from api.ec2.fault import Fault, invalid
from api.ec2.paging import page
from api.ec2.site import hosts_of_zones
from broker import flavor, site
from broker.store import FlavorRow

_ARCHITECTURES = {"aarch64": "arm64", "i686": "i386"}


def describe_instance_types(call: Call) -> dict[str, Any]:
    """DescribeInstanceTypes."""
    rows = {row.name: row for row in flavor.list_flavors(call.broker, call.actor)}
    wanted = call.params.get("InstanceTypes")
    if unknown := sorted(set(wanted or ()) - set(rows)):
        raise Fault(
            "InvalidInstanceType",
            f"The following supplied instance types do not exist: [{', '.join(unknown)}]",
        )
    architectures = _architectures(call)
    admits = filters.matcher(call.params.get("Filters", ()), _TYPE_FIELDS)
    types = [
        _instance_type(rows[name], architectures) for name in sorted(rows) if not wanted or name in wanted
    ]
    some, token = page(
        filter(admits, types),
        lambda item: str(item["InstanceType"]),
        call.params,
        ids="InstanceTypes",
        most=100,
    )
    call.proceed()
    return {"InstanceTypes": some, "NextToken": token}


def describe_instance_type_offerings(call: Call) -> dict[str, Any]:
    """DescribeInstanceTypeOfferings: a type is offered where at least one host is as large as it."""
    kind = call.params.get("LocationType", "region")
    if kind not in ("region", "availability-zone", "availability-zone-id", "outpost"):
        raise invalid("LocationType", kind)
    ids = {row.name: row.id for row in site.list_sites(call.broker, call.actor)}
    places = hosts_of_zones(call)
    offers: set[tuple[str, str]] = set()
    for row in flavor.list_flavors(call.broker, call.actor):
        for zone, hosts in places.items():
            fits = any(
                not view.row.elastic
                and view.row.vcpus_total >= row.vcpus
                and view.row.mem_total_mb >= row.mem_mb
                for view in hosts
            )
            if fits and kind == "region":
                offers.add((row.name, call.region))
            elif fits and kind != "outpost":
                offers.add((row.name, zone if kind == "availability-zone" else ids[zone]))
    fields: filters.Fields[dict[str, str]] = {
        "instance-type": lambda offer: (offer["InstanceType"],),
        "location": lambda offer: (offer["Location"],),
    }
    admits = filters.matcher(call.params.get("Filters", ()), fields)
    answer = [
        {"InstanceType": name, "LocationType": kind, "Location": location}
        for name, location in sorted(offers)
    ]
    some, token = page(
        filter(admits, answer), lambda offer: f"{offer['InstanceType']} {offer['Location']}", call.params
    )
    call.proceed()
    return {"InstanceTypeOfferings": some, "NextToken": token}


def _architectures(call: Call) -> list[str]:
    """What the hosts of the zones can run."""
    found = {
        str(view.row.attributes["arch"])
        for hosts in hosts_of_zones(call).values()
        for view in hosts
        if not view.row.elastic and view.row.attributes.get("arch")
    }
    return sorted(_ARCHITECTURES.get(arch, arch) for arch in found) or ["x86_64"]


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
