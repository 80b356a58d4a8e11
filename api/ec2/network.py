"""VPCs and subnets: the networks that all projects share and the project's own, and their subnets at the sites that are zones."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_network
from typing import Any

from api.ec2 import filters, ids
from api.ec2.call import Call, boolean, tag_list
from api.ec2.describe import Described, Named, describe, ids_of, named_by_id
from api.ec2.fault import Fault
from api.ec2.owner import account_of, owners
from api.ec2.tag import tags_in, tags_of
from broker import network
from broker.errors import NotFound
from broker.listing import Which
from broker.store import NetworkRow, SubnetRow

_NEVER_LEASED = 3
"""A subnet's own address, its gateway's and its broadcast address."""


def subnets(call: Call, which: Which) -> Sequence[SubnetRow]:
    """Those of the subnets at zones that are asked for, by their ids."""
    which = {**which, "only": {**(which.get("only") or {}), "elastic": [False]}}
    return network.list_subnets(call.broker, call.actor, here=True, **which)


def subnet_of(call: Call, ec2_id: str) -> SubnetRow:
    """The subnet with that id. Raises Fault (InvalidSubnetID.NotFound, .Malformed)."""
    try:
        row = network.get_subnet(call.broker, call.actor, ids.to_broker("subnet", ec2_id), here=True)
    except NotFound:
        row = None
    if row is not None and not row.site.elastic:
        return row
    raise Fault("InvalidSubnetID.NotFound", f"The subnet ID '{ec2_id}' does not exist")


def describe_vpcs(call: Call) -> dict[str, Any]:
    """DescribeVpcs. The only network that the project may use is the default one."""
    return describe(call, _VPCS)


def describe_subnets(call: Call) -> dict[str, Any]:
    """DescribeSubnets."""
    return describe(call, _SUBNETS)


def describe_addresses(call: Call) -> dict[str, Any]:
    """DescribeAddresses: there are no Elastic IP addresses (libcloud asks for them whenever it lists nodes)."""
    return describe(call, _ADDRESSES)


def _vpc(call: Call, row: NetworkRow, *, default: bool) -> dict[str, Any]:
    digits = row.id.partition("-")[2]
    return {
        "OwnerId": account_of(call, row.project),
        "InstanceTenancy": "default",
        "Ipv6CidrBlockAssociationSet": [],
        "CidrBlockAssociationSet": [
            {
                "AssociationId": f"vpc-cidr-assoc-{digits}",
                "CidrBlock": row.cidr,
                "CidrBlockState": {"State": "associated"},
            }
        ],
        "IsDefault": default,
        "Tags": tag_list(tags_of(row.labels, row.name)),
        "VpcId": ids.to_ec2(row.id),
        "State": "available",
        "CidrBlock": row.cidr,
        "DhcpOptionsId": "default",
    }


def _subnet(call: Call, row: SubnetRow, leased: int, *, default: bool) -> dict[str, Any]:
    reserved = sum(1 for text in row.reserved for _ in network.expand(text))
    room = ip_network(row.cidr).num_addresses - _NEVER_LEASED - reserved - leased
    ec2_id, owner = ids.to_ec2(row.id), account_of(call, row.network.project)
    return {
        "AvailabilityZoneId": row.site_id,
        "OwnerId": owner,
        "AssignIpv6AddressOnCreation": False,
        "Ipv6CidrBlockAssociationSet": [],
        "Tags": tag_list(tags_of(row.labels, f"{row.network.name}-{row.site.name}")),
        "SubnetArn": f"arn:aws:ec2:{call.region}:{owner}:subnet/{ec2_id}",
        "SubnetId": ec2_id,
        "State": "available",
        "VpcId": ids.to_ec2(row.network_id),
        "CidrBlock": row.cidr,
        "AvailableIpAddressCount": max(0, room),
        "AvailabilityZone": row.site.name,
        "DefaultForAz": default,
        "MapPublicIpOnLaunch": False,
    }


_VPC_FIELDS: filters.Fields[dict[str, Any]] = {
    "cidr": lambda item: (item["CidrBlock"],),
    "cidr-block-association.cidr-block": lambda item: (item["CidrBlock"],),
    "dhcp-options-id": lambda item: (item["DhcpOptionsId"],),
    "is-default": lambda item: boolean(item["IsDefault"]),
    "isDefault": lambda item: boolean(item["IsDefault"]),
    "owner-id": lambda item: (item["OwnerId"],),
    "state": lambda item: (item["State"],),
    "vpc-id": lambda item: (item["VpcId"],),
}

_SUBNET_FIELDS: filters.Fields[dict[str, Any]] = {
    "availability-zone": lambda item: (item["AvailabilityZone"],),
    "availabilityZone": lambda item: (item["AvailabilityZone"],),
    "availability-zone-id": lambda item: (item["AvailabilityZoneId"],),
    "available-ip-address-count": lambda item: (str(item["AvailableIpAddressCount"]),),
    "cidr": lambda item: (item["CidrBlock"],),
    "cidr-block": lambda item: (item["CidrBlock"],),
    "default-for-az": lambda item: boolean(item["DefaultForAz"]),
    "defaultForAz": lambda item: boolean(item["DefaultForAz"]),
    "map-public-ip-on-launch": lambda item: boolean(item["MapPublicIpOnLaunch"]),
    "owner-id": lambda item: (item["OwnerId"],),
    "state": lambda item: (item["State"],),
    "subnet-arn": lambda item: (item["SubnetArn"],),
    "subnet-id": lambda item: (item["SubnetId"],),
    "vpc-id": lambda item: (item["VpcId"],),
}


def _networks(call: Call, which: Which) -> Sequence[NetworkRow]:
    return network.list_networks(call.broker, call.actor, here=True, **which)


def _vpcs(call: Call, rows: Sequence[NetworkRow]) -> list[dict[str, Any]]:
    default = len(_networks(call, {"limit": 2})) == 1
    return [_vpc(call, row, default=default) for row in rows]


def _subnets(call: Call, rows: Sequence[SubnetRow]) -> list[dict[str, Any]]:
    leased = network.leased(call.broker, call.actor, ids=[row.id for row in rows])
    at_zones = network.list_networks(call.broker, call.actor, here=True, elastic=False, limit=2)
    return [_subnet(call, row, leased.get(row.id, 0), default=len(at_zones) == 1) for row in rows]


def _owned(call: Call) -> Which:
    return {"owners": owners(call)}


_VPCS: Described[NetworkRow, dict[str, Any]] = Described(
    answer="Vpcs",
    named=[named_by_id("VpcIds", "vpc")],
    fields=_VPC_FIELDS,
    tags=tags_in,
    columns={
        "cidr": ("cidr", list),
        "cidr-block-association.cidr-block": ("cidr", list),
        "vpc-id": ("id", ids_of),
    },
    also=_owned,
    find=_networks,
    items=_vpcs,
)
_SUBNETS: Described[SubnetRow, dict[str, Any]] = Described(
    answer="Subnets",
    named=[named_by_id("SubnetIds", "subnet")],
    fields=_SUBNET_FIELDS,
    tags=tags_in,
    columns={
        "availability-zone": ("site", list),
        "availabilityZone": ("site", list),
        "availability-zone-id": ("site_id", list),
        "cidr": ("cidr", list),
        "cidr-block": ("cidr", list),
        "subnet-id": ("id", ids_of),
        "vpc-id": ("network_id", ids_of),
    },
    also=_owned,
    find=subnets,
    items=_subnets,
)
_ADDRESSES: Described[Any, dict[str, Any]] = Described(
    answer="Addresses",
    named=[
        Named(
            "PublicIps",
            "names",
            lambda _call, absent: Fault("InvalidAddress.NotFound", f"Address '{absent[0]}' not found."),
        ),
        Named(
            "AllocationIds",
            "ids",
            lambda _call, absent: Fault(
                "InvalidAllocationID.NotFound", f"The allocation ID '{absent[0]}' does not exist"
            ),
        ),
    ],
    fields={
        name: lambda item: ()
        for name in (
            "allocation-id",
            "association-id",
            "domain",
            "instance-id",
            "network-border-group",
            "network-interface-id",
            "network-interface-owner-id",
            "private-ip-address",
            "public-ip",
        )
    },
    tags=lambda _item: {},
    find=lambda _call, _which: [],
    items=lambda _call, _rows: [],
)
