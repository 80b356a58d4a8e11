"""Regions and availability zones: the broker is one region, and its sites of hosts are the zones.

Sites that are clouds themselves are no zones: where a VM bursts to is the policy's choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from api.ec2.call import Call
from api.ec2.describe import Described, Named, describe
from api.ec2.fault import Fault
from broker import site
from broker.listing import Which
from broker.states import SiteState
from broker.store import SiteRow


def zones(call: Call) -> Sequence[SiteRow]:
    """The sites that are zones, by name."""
    return _sites(call, {})


def describe_availability_zones(call: Call) -> dict[str, Any]:
    """DescribeAvailabilityZones."""
    return describe(call, _ZONES)


def describe_regions(call: Call) -> dict[str, Any]:
    """DescribeRegions: there is one."""
    return describe(call, _REGIONS)


def _unknown(param: str, noun: str, absent: Sequence[str], known: Iterable[str]) -> Fault:
    return Fault(
        "InvalidParameterValue",
        f"Invalid {noun}s in {param}: [{', '.join(absent)}]. There is: {', '.join(known)}",
    )


def _zone(call: Call, row: SiteRow) -> dict[str, Any]:
    return {
        "OptInStatus": "opt-in-not-required",
        "Messages": [{"Message": row.status_reason}] if row.status_reason else [],
        "RegionName": call.region,
        "ZoneName": row.name,
        "ZoneId": row.id,
        "GroupName": call.region,
        "NetworkBorderGroup": call.region,
        "ZoneType": "availability-zone",
        "State": _state(row.state),
    }


def _state(state: str) -> str:
    return "unavailable" if state == SiteState.UNREACHABLE else "available"


def _states(wanted: Sequence[str]) -> list[str]:
    return [state for state in SiteState if _state(state) in wanted]


def _sites(call: Call, which: Which) -> Sequence[SiteRow]:
    which = {**which, "only": {**(which.get("only") or {}), "elastic": [False]}}
    return site.list_sites(call.broker, call.actor, **which)


class _Region(NamedTuple):
    name: str


_ZONES: Described[SiteRow, dict[str, Any]] = Described(
    answer="AvailabilityZones",
    named=[
        Named(
            "ZoneNames",
            "names",
            lambda call, absent: _unknown(
                "ZoneNames", "availability zone", absent, [row.name for row in zones(call)]
            ),
        ),
        Named(
            "ZoneIds",
            "ids",
            lambda call, absent: _unknown(
                "ZoneIds", "availability zone id", absent, [row.id for row in zones(call)]
            ),
        ),
    ],
    fields={
        "group-name": lambda zone: (zone["GroupName"],),
        "opt-in-status": lambda zone: (zone["OptInStatus"],),
        "region-name": lambda zone: (zone["RegionName"],),
        "state": lambda zone: (zone["State"],),
        "zone-id": lambda zone: (zone["ZoneId"],),
        "zone-name": lambda zone: (zone["ZoneName"],),
        "zone-type": lambda zone: (zone["ZoneType"],),
    },
    columns={"state": ("state", _states), "zone-id": ("id", list), "zone-name": ("name", list)},
    find=_sites,
    items=lambda call, rows: [_zone(call, row) for row in rows],
    key=lambda row: row.name,
)

_REGIONS: Described[_Region, dict[str, Any]] = Described(
    answer="Regions",
    named=[
        Named(
            "RegionNames",
            "names",
            lambda call, absent: _unknown("RegionNames", "region", absent, [call.region]),
        )
    ],
    fields={
        "endpoint": lambda region: (region["Endpoint"],),
        "opt-in-status": lambda region: (region["OptInStatus"],),
        "region-name": lambda region: (region["RegionName"],),
    },
    find=lambda call, _which: [_Region(call.region)],
    items=lambda call, rows: [
        {"OptInStatus": "opt-in-not-required", "RegionName": row.name, "Endpoint": call.endpoint}
        for row in rows
    ],
    key=lambda row: row.name,
)
