"""Instances: the broker's VMs."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

from api.ec2 import filters, ids
from api.ec2.call import Call, tag_list
from api.ec2.describe import Described, describe, ids_of, looked_up, named_by_id
from api.ec2.fault import Fault, invalid
from api.ec2.image import ROOT_DEVICE, architecture
from api.ec2.network import subnet_of, subnets
from api.ec2.paging import MOST, page, position
from api.ec2.protocol import decode_user_data, format_time
from api.ec2.site import zones
from api.ec2.tag import of_specifications, shown_since, tags_of_vm, vms_of
from broker import access, flavor, image, keypair, launch, power, vm
from broker.errors import Exists, TokenMismatch
from broker.launch import Wishes
from broker.listing import Which
from broker.states import VMState
from broker.store import NICRow, VMRow
from isthmus.schema._base import NAME_PATTERN

# InstanceState of the EC2 API Reference, for the broker's states.
_STATES = {
    "pending": (0, "pending"),
    "running": (16, "running"),
    "migrating": (16, "running"),
    "shutting-down": (32, "shutting-down"),
    "terminated": (48, "terminated"),
    "stopping": (64, "stopping"),
    "suspending": (64, "stopping"),
    "stopped": (80, "stopped"),
    "suspended": (80, "stopped"),
    "error": (80, "stopped"),
}
_LONGEST_TOKEN = 64
_MOST_AT_ONCE = 1000

# What RunInstances takes besides what is read below: said yes to, because it asks for nothing that is not so anyway.
_HARMLESS = frozenset(
    {
        "AdditionalInfo",
        "CreditSpecification",
        "DryRun",
        "EbsOptimized",
        "MaintenanceOptions",
        "MetadataOptions",
        "Monitoring",
        "PrivateDnsNameOptions",
    }
)
_READ = frozenset(
    {
        "ClientToken",
        "ImageId",
        "InstanceInitiatedShutdownBehavior",
        "InstanceType",
        "KeyName",
        "MaxCount",
        "MinCount",
        "NetworkInterfaces",
        "Placement",
        "PrivateIpAddress",
        "SecurityGroupIds",
        "SecurityGroups",
        "SubnetId",
        "TagSpecifications",
        "UserData",
    }
)


# -- launching -------------------------------------------------------------------------------------------------


def run_instances(call: Call) -> dict[str, Any]:
    """RunInstances: MaxCount VMs or none, at once ``pending``. A repeated ClientToken answers with the same VMs."""
    params = call.params
    access.require(call.actor, "vm.create", call.actor.project_id)
    call.refuse(name for name in params if name not in _HARMLESS | _READ)
    _refuse_groups(params)
    least, most = params["MinCount"], params["MaxCount"]
    if not 1 <= least <= most <= _MOST_AT_ONCE:
        raise invalid("MaxCount", most, f"It must be from MinCount ({least}, at least 1) to {_MOST_AT_ONCE}.")
    token = params.get("ClientToken") or None
    if token is not None and (len(token) > _LONGEST_TOKEN or not token.isascii()):
        raise invalid("ClientToken", token, f"It has at most {_LONGEST_TOKEN} ASCII characters.")
    if not params.get("ImageId"):
        raise Fault("MissingParameter", "The request must contain the parameter ImageId")
    if not params.get("InstanceType"):
        raise Fault("MissingParameter", "The request must contain the parameter InstanceType")
    if params.get("InstanceInitiatedShutdownBehavior", "stop") != "stop":
        raise Fault("UnsupportedOperation", "A VM that shuts itself down stops; it is not terminated.")
    image_id = ids.to_broker("ami", params["ImageId"])
    tags = of_specifications(params.get("TagSpecifications", ()))
    networks, site, address = _where(call)
    if address is not None and most != 1:
        raise Fault("InvalidParameterCombination", "PrivateIpAddress can be given for one instance only")
    user_data = decode_user_data(params.get("UserData", ""))
    image.get(call.broker, call.actor, image_id, here=True)
    flavor.get(call.broker, call.actor, params["InstanceType"])
    if params.get("KeyName"):
        keypair.get(call.broker, call.actor, params["KeyName"])

    def create(name: str | None) -> list[VMRow]:
        made = launch.create_many(
            call.broker,
            call.actor,
            count=most,
            name=name,
            image_ref=image_id,
            flavor_ref=params["InstanceType"],
            networks=networks,
            address=address,
            key_pair=params.get("KeyName") or None,
            user_data=user_data,
            labels=tags,
            wishes=Wishes(site=site),
            # Apart from the keys of the native API, which has the same table.
            token=f"ec2:{token}" if token else None,
            client_token=token,
        )
        return [row for row, _ in made]

    name = tags.get("Name", "")
    if not re.fullmatch(NAME_PATTERN, name) or ids.is_broker_id(name):
        return _reservation(call, create(None))
    try:
        rows = create(name)
    except (Exists, TokenMismatch):
        # EC2 lets many instances have one name. Those after the first are named by their id, and keep the tag.
        rows = create(None)
    return _reservation(call, rows)


def _where(call: Call) -> tuple[list[str], str | None, str | None]:
    """(networks, site, address) that a launch asks for."""
    params = call.params
    placement = dict(params.get("Placement", {}))
    site: str | None = placement.pop("AvailabilityZone", None) or None
    if placement.pop("Tenancy", "default") != "default":
        raise Fault("UnsupportedOperation", "Only the tenancy 'default' is supported by this endpoint.")
    for name, value in placement.items():
        if value:
            raise Fault(
                "UnsupportedOperation", f"The parameter Placement.{name} is not supported by this endpoint."
            )
    if site is not None and site not in (known := [row.name for row in zones(call)]):
        raise Fault(
            "InvalidParameterValue",
            f"Invalid availability zone: [{site}]. There is: {', '.join(known) or 'none'}",
        )
    interfaces = params.get("NetworkInterfaces", ())
    if interfaces and (params.get("SubnetId") or params.get("PrivateIpAddress")):
        raise Fault(
            "InvalidParameterCombination",
            "Network interfaces and an instance-level subnet ID or address may not be specified on the same request",
        )
    if interfaces:
        wanted, address = _interfaces(interfaces)
    else:
        wanted = [params["SubnetId"]] if params.get("SubnetId") else []
        address = params.get("PrivateIpAddress") or None
    networks: list[str] = []
    for ec2_id in wanted:
        row = subnet_of(call, ec2_id)
        if site is not None and row.site.name != site:
            raise invalid("SubnetId", ec2_id, f"It is in the zone {row.site.name}, not in {site}.")
        site = row.site.name
        networks.append(row.network_id)
    return networks, site, address


def _interfaces(given: Sequence[Mapping[str, Any]]) -> tuple[list[str], str | None]:
    """(subnets, address) of network interfaces that are to be made with the instance."""
    served = {"DeviceIndex", "SubnetId", "PrivateIpAddress", "DeleteOnTermination", "Description"}
    ordered = sorted(given, key=lambda interface: interface.get("DeviceIndex", -1))
    if [interface.get("DeviceIndex") for interface in ordered] != list(range(len(given))):
        raise Fault("InvalidParameterValue", "Network interfaces must have the device indexes 0, 1, 2, ...")
    for interface in ordered:
        for name, value in interface.items():
            if name not in served and value:
                raise Fault(
                    "UnsupportedOperation",
                    f"The parameter NetworkInterface.{name} is not supported by this endpoint.",
                )
        if interface.get("DeleteOnTermination") is False:
            raise Fault("UnsupportedOperation", "A network interface ends with its instance.")
        if not interface.get("SubnetId"):
            raise Fault("MissingParameter", "Each network interface must have the parameter SubnetId")
        if interface.get("PrivateIpAddress") and interface is not ordered[0]:
            raise Fault(
                "UnsupportedOperation", "An address can be asked for on the network interface 0 only."
            )
    return [str(interface["SubnetId"]) for interface in ordered], ordered[0].get("PrivateIpAddress") or None


def _refuse_groups(params: Mapping[str, Any]) -> None:
    for name in (*params.get("SecurityGroupIds", ()), *params.get("SecurityGroups", ())):
        raise Fault(
            "InvalidGroup.NotFound", f"The security group '{name}' does not exist: this endpoint has none"
        )


# -- describing ------------------------------------------------------------------------------------------------


def describe_instances(call: Call) -> dict[str, Any]:
    """DescribeInstances: by reservation, oldest first. One id that is not there fails the whole call.

    It is looked up as every kind is; but a page is one of reservations, and a reservation is whole when the next moment's
    VMs have begun: so the rows are gone through here.
    """
    admits, after, limit = _INSTANCES.matcher(call), position(call.params), call.params.get("MaxResults")
    # One more shows that there is another page, and one more that the last launch is whole.
    read = looked_up(call, _INSTANCES, after=after and after[:_TIME_LENGTH], at_first=(limit or MOST) + 2)
    reservations: dict[str, list[_View]] = {}
    for row, view in read:
        key = _key(row.created_at, row.reservation)
        if after and key <= after:
            continue
        if limit and len(reservations) > limit and key[:_TIME_LENGTH] > max(reservations):
            break  # the VMs of a reservation are of one moment, and there are more reservations than are shown
        if admits(view):
            reservations.setdefault(key, []).append(view)
    some, token = page(sorted(reservations), lambda key: key, call.params, ids=["InstanceIds"])
    return {
        "Reservations": [_reservation_of(call, reservations[key]) for key in some],
        "NextToken": token,
    }


def describe_instance_status(call: Call) -> dict[str, Any]:
    """DescribeInstanceStatus: running instances, or all of them with IncludeAllInstances."""
    return describe(call, _STATUSES)


def get_console_output(call: Call) -> dict[str, Any]:
    """GetConsoleOutput: the newest 64 KiB of the serial console, in base64."""
    (row,) = _rows(call, [call.params["InstanceId"]])
    text = vm.console(call.broker, call.actor, row.id) if row.host_id else ""
    return {
        "InstanceId": ids.to_ec2(row.id),
        "Timestamp": call.now,
        "Output": base64.b64encode(text.encode()).decode(),
    }


# -- changing --------------------------------------------------------------------------------------------------


def terminate_instances(call: Call) -> dict[str, Any]:
    """TerminateInstances; a terminated instance stays so."""

    def terminate(row: VMRow) -> VMRow:
        return row if row.state == VMState.TERMINATED else vm.delete(call.broker, call.actor, row.id)[0]

    return {"TerminatingInstances": _change(call, "vm.delete", terminate)}


def start_instances(call: Call) -> dict[str, Any]:
    """StartInstances; nothing changes for a running instance."""

    def start(row: VMRow) -> VMRow:
        return (
            row
            if row.state in (VMState.RUNNING, VMState.PENDING)
            else power.start(call.broker, call.actor, row.id)[0]
        )

    call.refuse(["AdditionalInfo"])
    return {
        "StartingInstances": _change(
            call,
            "vm.start",
            start,
            allowed=(VMState.STOPPED, VMState.SUSPENDED, VMState.RUNNING, VMState.PENDING),
            verb="started",
        )
    }


def stop_instances(call: Call) -> dict[str, Any]:
    """StopInstances; ``Force`` pulls the plug."""
    force = bool(call.params.get("Force"))

    def stop(row: VMRow) -> VMRow:
        if row.state in (VMState.STOPPED, VMState.SUSPENDED, VMState.SUSPENDING):
            return row  # a suspended VM is "stopped" in this API, and started from where it was
        return power.stop(call.broker, call.actor, row.id, force=force)[0]

    call.refuse(["Hibernate"])
    return {
        "StoppingInstances": _change(
            call,
            "vm.stop",
            stop,
            allowed=(
                VMState.RUNNING,
                VMState.STOPPING,
                VMState.STOPPED,
                VMState.SUSPENDING,
                VMState.SUSPENDED,
            ),
            verb="stopped",
        )
    }


def reboot_instances(call: Call) -> None:
    """RebootInstances."""
    _change(
        call,
        "vm.reboot",
        lambda row: power.reboot(call.broker, call.actor, row.id)[0],
        allowed=(VMState.RUNNING,),
        verb="rebooted",
    )


def _change(
    call: Call,
    permission: str,
    act: Callable[[VMRow], VMRow],
    *,
    allowed: Sequence[str] = (),
    verb: str = "",
) -> list[dict[str, Any]]:
    """Do it to every VM that is named, when all are there and in a state for it; the states before and after."""
    access.require(call.actor, permission, call.actor.project_id)
    rows = _rows(call, call.params["InstanceIds"])
    for row in rows:
        if allowed and row.state not in allowed:
            raise Fault(
                "IncorrectInstanceState",
                f"This instance '{ids.to_ec2(row.id)}' is not in a state from which it can be {verb}. It is {row.state}.",
            )
    changes = []
    for row in rows:
        before, after = _STATES[row.state], _STATES[act(row).state]
        changes.append(
            {
                "InstanceId": ids.to_ec2(row.id),
                "CurrentState": {"Code": after[0], "Name": after[1]},
                "PreviousState": {"Code": before[0], "Name": before[1]},
            }
        )
    return changes


_TIME = "%Y%m%dT%H%M%S.%f"
_TIME_LENGTH = len("20260101T000000.000000")


def _key(made: datetime, name: str) -> str:
    """The place of something in a list by age, for its pages."""
    return f"{made.astimezone(UTC):{_TIME}} {name}"


def _last(after: str | None) -> tuple[datetime, str] | None:
    """When the last one of the page before was made, and its id: what ``_key`` put together."""
    if after is None:
        return None
    try:
        made = datetime.strptime(after[:_TIME_LENGTH], _TIME).replace(tzinfo=UTC)
    except ValueError:
        raise invalid("NextToken", after, "It is no token of this broker.") from None
    return made, after[_TIME_LENGTH + 1 :]


def _vms(call: Call, which: Which) -> Sequence[VMRow]:
    """The project's VMs that are asked for, those terminated in the last hour included, oldest first."""
    return vm.list_vms(
        call.broker,
        call.actor,
        ids=which.get("ids"),
        labels=which.get("labels"),
        titles=which.get("titles"),
        only=which.get("only"),
        ended_after=shown_since(call),
        after=_last(which.get("after")),
        limit=which.get("limit") or MOST,
    )


def _states(wanted: Sequence[str]) -> list[str]:
    return [ours for ours, (_, theirs) in _STATES.items() if theirs in wanted]


def _codes(wanted: Sequence[str]) -> list[str]:
    return [ours for ours, (code, _) in _STATES.items() if str(code) in wanted]


def _rows(call: Call, names: Sequence[str]) -> list[VMRow]:
    """The VMs with these ids, each once. Raises Fault when one is not there."""
    wanted = list(dict.fromkeys(ids.to_broker("i", name) for name in names))
    rows = {row.id: row for row in vms_of(call, wanted)}
    if absent := sorted(set(wanted) - set(rows)):
        raise ids.KINDS["i"].not_found([ids.to_ec2(name) for name in absent])
    return [rows[broker_id] for broker_id in wanted]


# -- how a VM looks as an instance -----------------------------------------------------------------------------

Places = Callable[[], Mapping[tuple[str, str], str]]
"""(network's id, site's name) -> the subnet's id."""


def _places(call: Call, rows: Sequence[VMRow]) -> Places:
    """Of the networks of these VMs; looked up at most once, and only for a VM without an address."""

    @cache
    def look() -> Mapping[tuple[str, str], str]:
        networks = {nic.network_id for row in rows for nic in row.nics if nic.subnet_id is None}
        found = subnets(call, {"only": {"network_id": sorted(networks)}})
        return {(row.network_id, row.site.name): row.id for row in found}

    return look


def _views(call: Call, rows: Sequence[VMRow]) -> list[_View]:
    places = _places(call, rows)
    return [_View(call, row, places) for row in rows]


class _View:
    """A VM as an instance, with what filters ask of it."""

    def __init__(self, call: Call, row: VMRow, places: Places) -> None:
        self.call = call
        self.row = row
        self.index = row.launch_index
        self.id = ids.to_ec2(row.id)
        self.tags = tags_of_vm(row)
        self.state = _STATES[row.state]
        # Until it is placed, an instance is where it was asked for.
        at = row.site or row.site_wanted
        self.zone = at.name if at else ""
        self._places = places
        # A terminated instance has none: it is nowhere.
        nic = row.nics[0] if row.nics else None
        self.network = nic.network_id if nic else ""
        self.subnet = self.subnet_of(nic) if nic else ""
        self.address = (nic.address or nic.wanted_address or "") if nic else ""

    def subnet_of(self, nic: NICRow) -> str:
        """Where a NIC is, or will be once the VM is in the zone that it was asked for in; empty when nothing says so."""
        if nic.subnet_id is not None:
            return nic.subnet_id
        return self._places().get((nic.network_id, self.zone), "") if self.zone else ""

    def of_nics(self, each: Callable[[NICRow], Iterable[str]]) -> list[str]:
        """What filters ask of its network interfaces."""
        return [value for nic in self.row.nics for value in each(nic)]

    @property
    def public_address(self) -> str | None:
        """The address from outside, where it has one besides those of its subnets."""
        known = self.row.public_address
        return None if known in self.of_nics(_addresses) else known

    @property
    def reason(self) -> tuple[str, str]:
        """StateReason: (code, message)."""
        row, words = self.row, self.row.status_reason
        if row.state == "error":
            return "Server.InternalError", words or "Server.InternalError: the VM failed"
        if row.state == "pending":
            return "pending", words or "pending"
        if row.state in ("stopping", "stopped"):
            if row.desired == VMState.STOPPED:
                return "Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: User initiated shutdown"
            return (
                "Client.InstanceInitiatedShutdown",
                f"Client.InstanceInitiatedShutdown: {words or 'it shut down'}",
            )
        if row.state in ("suspending", "suspended"):
            if row.desired == VMState.SUSPENDED:
                return (
                    "Client.UserInitiatedHibernate",
                    "Client.UserInitiatedHibernate: User initiated hibernate",
                )
            return "Server.SuspendedForOthers", f"Server.SuspendedForOthers: {words or 'it made room'}"
        if row.state in ("shutting-down", "terminated"):
            if row.desired == VMState.TERMINATED:
                return "Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: User initiated shutdown"
            return "Server.InternalError", f"Server.InternalError: {words or 'it is gone'}"
        return "", ""

    @property
    def transition(self) -> str:
        """StateTransitionReason."""
        by_user = self.reason[0] == "Client.UserInitiatedShutdown"
        return (
            f"User initiated ({self.row.state_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} GMT)" if by_user else ""
        )

    def instance(self) -> dict[str, Any]:
        """The instance of answers."""
        row, (code, words) = self.row, self.reason
        return {
            "Architecture": architecture(row.image),
            "BlockDeviceMappings": [],
            "ClientToken": row.client_token or "",
            "EbsOptimized": False,
            "NetworkInterfaces": self.interfaces(),
            "RootDeviceName": ROOT_DEVICE,
            "RootDeviceType": "instance-store",
            "SecurityGroups": [],
            "StateReason": {"Code": code, "Message": words} if code else None,
            "Tags": tag_list(self.tags),
            "VirtualizationType": "hvm",
            "CpuOptions": {"CoreCount": row.vcpus, "ThreadsPerCore": 1},
            "InstanceId": self.id,
            "ImageId": ids.to_ec2(row.image_id),
            "State": {"Code": self.state[0], "Name": self.state[1]},
            "PrivateDnsName": "",
            "PublicDnsName": "",
            "StateTransitionReason": self.transition,
            "KeyName": row.key_pair,
            "AmiLaunchIndex": self.index,
            "ProductCodes": [],
            "InstanceType": row.flavor,
            "LaunchTime": row.launched_at or row.created_at,
            "Placement": {"AvailabilityZone": self.zone, "GroupName": "", "Tenancy": "default"},
            "Monitoring": {"State": "disabled"},
            "SubnetId": ids.to_ec2(self.subnet) if self.subnet else None,
            "VpcId": ids.to_ec2(self.network) if self.network else None,
            "PrivateIpAddress": self.address or None,
            "PublicIpAddress": self.public_address or None,
        }

    def interfaces(self) -> list[dict[str, Any]]:
        """Its network interfaces; they are being attached until it is placed, and have no address until then."""
        return [self._interface(nic) for nic in self.row.nics]

    def _interface(self, nic: NICRow) -> dict[str, Any]:
        ec2_id, subnet, placed = ids.interface(nic.id), self.subnet_of(nic), nic.subnet_id is not None
        return {
            "Attachment": {
                "AttachmentId": ec2_id.replace("eni-", "eni-attach-"),
                "DeleteOnTermination": True,
                "DeviceIndex": nic.position,
                "Status": "attached" if placed else "attaching",
            },
            "Description": "",
            "Groups": [],
            "Ipv6Addresses": [],
            "MacAddress": nic.mac,
            "NetworkInterfaceId": ec2_id,
            "OwnerId": self.call.account,
            "PrivateIpAddress": nic.address,
            "PrivateIpAddresses": [
                {"Primary": each.position == 0, "PrivateIpAddress": each.address} for each in nic.addresses
            ],
            "SourceDestCheck": True,
            "Status": "in-use" if placed else "attaching",
            "SubnetId": ids.to_ec2(subnet) if subnet else None,
            "VpcId": ids.to_ec2(nic.network_id),
            "InterfaceType": "interface",
        }


def _reservation(call: Call, rows: Sequence[VMRow]) -> dict[str, Any]:
    return _reservation_of(call, _views(call, rows))


def _reservation_of(call: Call, views: Sequence[_View]) -> dict[str, Any]:
    return {
        "ReservationId": views[0].row.reservation,
        "OwnerId": call.account,
        "Groups": [],
        "Instances": [view.instance() for view in views],
    }


def _status(view: _View) -> dict[str, Any]:
    status = "ok" if view.state[1] == "running" else "not-applicable"
    details = [{"Name": "reachability", "Status": "passed"}] if status == "ok" else []
    summary = {"Status": status, "Details": details}
    return {
        "AvailabilityZone": view.zone,
        "Events": [],
        "InstanceId": view.id,
        "InstanceState": {"Code": view.state[0], "Name": view.state[1]},
        "InstanceStatus": summary,
        "SystemStatus": summary,
    }


def _details(summary: Mapping[str, Any]) -> list[str]:
    return [detail["Status"] for detail in summary["Details"]]


def _addresses(nic: NICRow) -> Sequence[str]:
    return [each.address for each in nic.addresses]


def _some(value: str | None) -> Sequence[str]:
    """A value as filters compare it; nothing when there is none."""
    return (value,) if value else ()


_FIELDS: filters.Fields[_View] = {
    "architecture": lambda view: (architecture(view.row.image),),
    "availability-zone": lambda view: _some(view.zone),
    "client-token": lambda view: _some(view.row.client_token),
    "image-id": lambda view: (ids.to_ec2(view.row.image_id),),
    "instance-id": lambda view: (view.id,),
    "instance-state-code": lambda view: (str(view.state[0]),),
    "instance-state-name": lambda view: (view.state[1],),
    "instance-type": lambda view: (view.row.flavor,),
    "ip-address": lambda view: _some(view.public_address),
    "key-name": lambda view: _some(view.row.key_pair),
    "launch-index": lambda view: (str(view.index),),
    "launch-time": lambda view: (format_time(view.row.launched_at or view.row.created_at),),
    "monitoring-state": lambda view: ("disabled",),
    "network-interface.addresses.private-ip-address": lambda view: view.of_nics(_addresses),
    "network-interface.mac-address": lambda view: view.of_nics(lambda nic: (nic.mac,)),
    "network-interface.network-interface-id": lambda view: view.of_nics(lambda nic: (ids.interface(nic.id),)),
    "network-interface.private-ip-address": lambda view: view.of_nics(lambda nic: _some(nic.address)),
    "network-interface.subnet-id": lambda view: [
        ids.to_ec2(subnet) for subnet in view.of_nics(lambda nic: _some(view.subnet_of(nic)))
    ],
    "network-interface.vpc-id": lambda view: view.of_nics(lambda nic: (ids.to_ec2(nic.network_id),)),
    "owner-id": lambda view: (view.call.account,),
    "private-ip-address": lambda view: _some(view.address),
    "reason": lambda view: _some(view.transition),
    "reservation-id": lambda view: (view.row.reservation,),
    "root-device-name": lambda view: (ROOT_DEVICE,),
    "root-device-type": lambda view: ("instance-store",),
    "state-reason-code": lambda view: _some(view.reason[0]),
    "state-reason-message": lambda view: _some(view.reason[1]),
    "subnet-id": lambda view: _some(view.subnet and ids.to_ec2(view.subnet)),
    "tenancy": lambda view: ("default",),
    "virtualization-type": lambda view: ("hvm",),
    "vpc-id": lambda view: _some(view.network and ids.to_ec2(view.network)),
    # Filters that EC2 knows, for what no instance here has.
    **{
        name: lambda view: ()
        for name in (
            "block-device-mapping.volume-id",
            "dns-name",
            "group-id",
            "group-name",
            "host-id",
            "iam-instance-profile.arn",
            "instance-lifecycle",
            "instance.group-id",
            "instance.group-name",
            "network-interface.group-id",
            "placement-group-name",
            "platform",
            "private-dns-name",
            "requester-id",
            "spot-instance-request-id",
        )
    },
}

_STATUS_FIELDS: filters.Fields[dict[str, Any]] = {
    "availability-zone": lambda item: _some(item["AvailabilityZone"]),
    "instance-state-code": lambda item: (str(item["InstanceState"]["Code"]),),
    "instance-state-name": lambda item: (item["InstanceState"]["Name"],),
    "instance-status.reachability": lambda item: _details(item["InstanceStatus"]),
    "instance-status.status": lambda item: (item["InstanceStatus"]["Status"],),
    "system-status.reachability": lambda item: _details(item["SystemStatus"]),
    "system-status.status": lambda item: (item["SystemStatus"]["Status"],),
}


_RUNNING = _states(["running"])


def _wanted(call: Call) -> Which:
    """The running ones, unless all are asked for."""
    return {} if call.params.get("IncludeAllInstances") else {"only": {"state": _RUNNING}}


_INSTANCES: Described[VMRow, _View] = Described(
    answer="Reservations",
    named=[named_by_id("InstanceIds", "i")],
    fields=_FIELDS,
    tags=lambda view: view.tags,
    columns={
        "client-token": ("client_token", list),
        "image-id": ("image_id", ids_of),
        "instance-id": ("id", ids_of),
        "instance-state-code": ("state", _codes),
        "instance-state-name": ("state", _states),
        "instance-type": ("flavor", list),
        "key-name": ("key_pair", list),
        "reservation-id": ("reservation", list),
    },
    find=_vms,
    items=_views,
    key=lambda row: _key(row.created_at, row.id),
)
_STATUSES: Described[VMRow, dict[str, Any]] = Described(
    answer="InstanceStatuses",
    named=[named_by_id("InstanceIds", "i")],
    fields=_STATUS_FIELDS,
    columns={"instance-state-code": ("state", _codes), "instance-state-name": ("state", _states)},
    find=_vms,
    items=lambda call, rows: [_status(view) for view in _views(call, rows)],
    also=_wanted,
    shown=lambda call, row: bool(call.params.get("IncludeAllInstances")) or row.state in _RUNNING,
    key=lambda row: _key(row.created_at, row.id),
)
