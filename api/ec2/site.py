"""Regions and availability zones: the broker is one region, and its sites of hosts are the zones.

Sites that are clouds themselves are no zones: where a VM bursts to is the policy's choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from api.ec2 import filters
from api.ec2.call import Call
from api.ec2.fault import Fault
from broker import host, site
from broker.host import HostView
from broker.states import SiteState
from broker.store import SiteRow


def hosts_of_zones(call: Call) -> dict[str, list[HostView]]:
    """Zone name -> its hosts; a site without hosts yet is a zone too."""
    views = host.list_hosts(call.broker, call.actor)
    found: dict[str, list[HostView]] = {row.name: [] for row in site.list_sites(call.broker, call.actor)}
    for view in views:
        found[view.row.site.name].append(view)
    return {
        name: members
        for name, members in found.items()
        if not members or any(not view.row.elastic for view in members)
    }


def zones(call: Call) -> list[SiteRow]:
    """The sites that are zones, by name."""
    return [row for row in site.list_sites(call.broker, call.actor) if not row.elastic]


def describe_availability_zones(call: Call) -> dict[str, Any]:
    """DescribeAvailabilityZones."""
    found = zones(call)
    _all_known("ZoneNames", call.params.get("ZoneNames"), [row.name for row in found], "availability zone")
    _all_known("ZoneIds", call.params.get("ZoneIds"), [row.id for row in found], "availability zone id")
    fields: filters.Fields[dict[str, Any]] = {
        "group-name": lambda zone: (zone["GroupName"],),
        "opt-in-status": lambda zone: (zone["OptInStatus"],),
        "region-name": lambda zone: (zone["RegionName"],),
        "state": lambda zone: (zone["State"],),
        "zone-id": lambda zone: (zone["ZoneId"],),
        "zone-name": lambda zone: (zone["ZoneName"],),
        "zone-type": lambda zone: (zone["ZoneType"],),
    }
    admits = filters.matcher(call.params.get("Filters", ()), fields)
    call.proceed()
    wanted_names, wanted_ids = call.params.get("ZoneNames"), call.params.get("ZoneIds")
    answer = [
        {
            "OptInStatus": "opt-in-not-required",
            "Messages": [{"Message": row.status_reason}] if row.status_reason else [],
            "RegionName": call.region,
            "ZoneName": row.name,
            "ZoneId": row.id,
            "GroupName": call.region,
            "NetworkBorderGroup": call.region,
            "ZoneType": "availability-zone",
            "State": "unavailable" if row.state == SiteState.UNREACHABLE else "available",
        }
        for row in found
        if (not wanted_names or row.name in wanted_names) and (not wanted_ids or row.id in wanted_ids)
    ]
    return {"AvailabilityZones": [zone for zone in answer if admits(zone)]}


def describe_regions(call: Call) -> dict[str, Any]:
    """DescribeRegions: there is one."""
    _all_known("RegionNames", call.params.get("RegionNames"), [call.region], "region")
    region = {"OptInStatus": "opt-in-not-required", "RegionName": call.region, "Endpoint": call.endpoint}
    fields: filters.Fields[dict[str, Any]] = {
        "endpoint": lambda region: (region["Endpoint"],),
        "opt-in-status": lambda region: (region["OptInStatus"],),
        "region-name": lambda region: (region["RegionName"],),
    }
    admits = filters.matcher(call.params.get("Filters", ()), fields)
    call.proceed()
    return {"Regions": [region] if admits(region) else []}


def _all_known(name: str, wanted: Sequence[str] | None, known: Sequence[str], noun: str) -> None:
    if unknown := sorted(set(wanted or ()) - set(known)):
        raise Fault(
            "InvalidParameterValue",
            f"Invalid {noun}s in {name}: [{', '.join(unknown)}]. There is: {', '.join(known)}",
        )
