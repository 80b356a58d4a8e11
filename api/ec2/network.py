"""VPCs and subnets: the networks that all projects share and the project's own, and their subnets at the sites that are zones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import ip_network
from typing import Any

from api.ec2 import filters, ids
from api.ec2.call import Call, boolean, tag_list
from api.ec2.describe import Listed, describe
from api.ec2.fault import Fault
from api.ec2.tag import tags_of
from broker import network
from broker.errors import NotFound
from broker.store import NetworkRow, SubnetRow

_NEVER_LEASED = 3
"""A subnet's own address, its gateway's and its broadcast address."""


def networks(call: Call) -> list[NetworkRow]:
    """The project's networks and those that are shared, in the order of their ids."""
    return sorted(network.list_networks(call.broker, call.actor, here=True), key=lambda row: row.id)


def subnets(call: Call) -> list[SubnetRow]:
    """The subnets at zones, in the order of their ids."""
    return sorted(
        (subnet for row in networks(call) for subnet in row.subnets if not subnet.site.elastic),
        key=lambda subnet: subnet.id,
    )


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
    for given in call.params.get("PublicIps", ()):
        raise Fault("InvalidAddress.NotFound", f"Address '{given}' not found.")
    for given in call.params.get("AllocationIds", ()):
        raise Fault("InvalidAllocationID.NotFound", f"The allocation ID '{given}' does not exist")
    filters.matcher(call.params.get("Filters", ()), _ADDRESS_FIELDS, lambda _: {})
    call.proceed()
    return {"Addresses": []}


def _owner(call: Call, row: NetworkRow) -> str:
    return row.project.account if row.project is not None else call.account


def _vpc(call: Call, row: NetworkRow, *, default: bool) -> dict[str, Any]:
    digits = row.id.partition("-")[2]
    return {
        "OwnerId": _owner(call, row),
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
    ec2_id, owner = ids.to_ec2(row.id), _owner(call, row.network)
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

_ADDRESS_FIELDS: filters.Fields[dict[str, Any]] = {
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
}


def _vpcs(call: Call, rows: Sequence[NetworkRow]) -> Callable[[NetworkRow], dict[str, Any]]:
    return lambda row: _vpc(call, row, default=len(rows) == 1)


def _subnets(call: Call, rows: Sequence[SubnetRow]) -> Callable[[SubnetRow], dict[str, Any]]:
    leased = network.leased(call.broker, call.actor)
    default = len({row.network_id for row in rows}) == 1
    return lambda row: _subnet(call, row, leased.get(row.id, 0), default=default)


_VPCS: Listed[NetworkRow] = Listed(
    kind=ids.KINDS["vpc"],
    ids_param="VpcIds",
    answer="Vpcs",
    id_member="VpcId",
    fields=_VPC_FIELDS,
    rows=networks,
    items=_vpcs,
)
_SUBNETS: Listed[SubnetRow] = Listed(
    kind=ids.KINDS["subnet"],
    ids_param="SubnetIds",
    answer="Subnets",
    id_member="SubnetId",
    fields=_SUBNET_FIELDS,
    rows=subnets,
    items=_subnets,
)
