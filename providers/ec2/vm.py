"""Instances as the port's VMs: how they are marked, read and asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from providers.ec2.image import MachineImage
from providers.ec2.options import Options
from providers.ec2.userdata import compose
from providers.port import InvalidSpec, VMReport, VMSpec, VMState

BROKER_TAG = "isthmus:broker"
VM_TAG = "isthmus:vm"

# InstanceState.Name, EC2 API Reference.
_STATES = {
    "pending": VMState.PENDING,
    "running": VMState.RUNNING,
    "stopping": VMState.STOPPING,
    "stopped": VMState.STOPPED,
    "shutting-down": VMState.TERMINATING,
    "terminated": VMState.TERMINATED,
}
GONE = ("shutting-down", "terminated")
_EXPECTED_REASONS = frozenset({"Client.UserInitiatedShutdown", "Client.InstanceInitiatedShutdown", "pending"})
_TAG_VALUE_LIMIT = 256
_TAGS_LIMIT = 50


_SPOT = "/spot"


def host_name(zone: str, instance_type: str, *, spot: bool = False) -> str:
    """The elastic host's name: ``eu-central-1a/t3.small``, with ``/spot`` where it is spare capacity."""
    return f"{zone}/{instance_type}{_SPOT if spot else ''}"


def is_spot(name: str) -> bool:
    """Whether an elastic host is spare capacity."""
    return name.endswith(_SPOT)


def split_host(name: str) -> tuple[str, str]:
    """(zone, instance type) of an elastic host's name. Raises InvalidSpec."""
    zone, slash, instance_type = name.removesuffix(_SPOT).partition("/")
    if not (zone and slash and instance_type):
        raise InvalidSpec(
            f"{name!r} is no host of an ec2 site: these are named zone/type, such as eu-central-1a/t3.small"
        )
    return zone, instance_type


def tags_of(instance: Mapping[str, Any]) -> dict[str, str]:
    """The instance's tags by key."""
    return {tag["Key"]: tag.get("Value", "") for tag in instance.get("Tags", [])}


def report(instance: Mapping[str, Any], sizes: Mapping[str, tuple[int, int]]) -> VMReport:
    """An instance of DescribeInstances or RunInstances; ``sizes``: instance type -> (vCPUs, MiB), where known."""
    tags = tags_of(instance)
    broker_id, vm_id = tags.get(BROKER_TAG, ""), tags.get(VM_TAG, "")
    if not (broker_id and vm_id):
        broker_id = vm_id = ""
    instance_type = str(instance.get("InstanceType", ""))
    vcpus, mem_mb = sizes.get(instance_type, (0, 0))
    return VMReport(
        ref=instance["InstanceId"],
        host=host_name(
            str(instance.get("Placement", {}).get("AvailabilityZone", "")),
            instance_type,
            spot=instance.get("InstanceLifecycle") == "spot",
        ),
        state=_state(instance),
        name=tags.get("Name", ""),
        vm_id=vm_id,
        broker_id=broker_id,
        reason=_reason(instance),
        address=str(instance.get("PublicIpAddress") or ""),
        vcpus=vcpus,
        mem_mb=mem_mb,
    )


def _state(instance: Mapping[str, Any]) -> VMState:
    state = _STATES.get(instance.get("State", {}).get("Name", ""), VMState.ERROR)
    failed = (instance.get("StateReason") or {}).get("Code") == "Server.InternalError"
    # An Isthmus as cloud says so of a VM that failed; EC2 terminates such an instance.
    return VMState.ERROR if state == VMState.STOPPED and failed else state


def current(instances: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The instances without the gone ones of VMs that were launched again, or never were ours."""
    found = list(instances)
    live = {tags_of(instance).get(VM_TAG) for instance in found if instance["State"]["Name"] not in GONE}
    newest: dict[str, Mapping[str, Any]] = {}
    kept: list[Mapping[str, Any]] = []
    for instance in found:
        vm_id = tags_of(instance).get(VM_TAG, "")
        if instance["State"]["Name"] not in GONE:
            kept.append(instance)
        elif vm_id and vm_id not in live:
            known = newest.get(vm_id)
            newest[vm_id] = instance if known is None else newest_live((known, instance)) or instance
    return [*kept, *newest.values()]


def _reason(instance: Mapping[str, Any]) -> str:
    """The cloud's word for a state nobody asked for; empty for the rest."""
    reason = instance.get("StateReason") or {}
    code = str(reason.get("Code", ""))
    if not code or code in _EXPECTED_REASONS:
        return ""
    words = str(reason.get("Message", ""))
    return words if words.startswith(code) else f"{code}: {words}".rstrip(": ")


def client_token(token: str) -> str:
    """The launch's token as EC2 takes it: at most 64 ASCII characters; a longer one is hashed."""
    if len(token) <= 64 and token.isascii() and token.isprintable():
        return token
    return hashlib.sha256(token.encode()).hexdigest()


def launch_request(spec: VMSpec, broker_id: str, options: Options, image: MachineImage) -> dict[str, Any]:
    """The parameters of RunInstances for one VM. Equal inputs give equal requests. Raises InvalidSpec."""
    zone, instance_type = split_host(spec.host)
    if spec.instance_type and spec.instance_type != instance_type:
        raise InvalidSpec(f"instance type {spec.instance_type} was asked for on host {spec.host}")
    if not spec.token:
        raise InvalidSpec(f"the launch of {spec.name} has no token")
    request: dict[str, Any] = {
        "ImageId": image.id,
        "InstanceType": instance_type,
        "MinCount": 1,
        "MaxCount": 1,
        "ClientToken": client_token(spec.token),
        "Placement": {"AvailabilityZone": zone},
        # IMDSv2 only, and not from containers behind a bridge: the user data holds the bootstrap key.
        "MetadataOptions": {
            "HttpTokens": "required",
            "HttpPutResponseHopLimit": 1,
            "HttpEndpoint": "enabled",
        },
        "TagSpecifications": [{"ResourceType": "instance", "Tags": _tags(spec, broker_id)}],
    }
    if is_spot(spec.host):
        # Without MaxPrice it costs at most as much as on demand.
        request["InstanceMarketOptions"] = {
            "MarketType": "spot",
            "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"},
        }
    if user_data := compose(spec):
        request["UserData"] = user_data
    if subnet := options.subnet(zone):
        request["SubnetId"] = subnet
    if options.security_group_ids:
        request["SecurityGroupIds"] = list(options.security_group_ids)
    if image.root_gb and spec.disk_gb > image.root_gb:
        request["BlockDeviceMappings"] = [
            {
                "DeviceName": image.root_device,
                "Ebs": {"VolumeSize": spec.disk_gb, "DeleteOnTermination": True},
            }
        ]
    return request


def _tags(spec: VMSpec, broker_id: str) -> list[dict[str, str]]:
    """Our marks, the name, and as many of the VM's labels as EC2 has room for."""
    tags = {BROKER_TAG: broker_id, VM_TAG: spec.id, "Name": spec.name}
    for key, value in sorted(spec.labels.items()):
        fits = 0 < len(key) <= 128 and len(value) <= _TAG_VALUE_LIMIT and not key.lower().startswith("aws:")
        if fits and key not in tags and len(tags) < _TAGS_LIMIT:
            tags[key] = value
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def newest_live(instances: Iterable[Mapping[str, Any]], token: str = "") -> Mapping[str, Any] | None:
    """Of several instances with one VM's marks the one that counts: alive before gone, then our launch's, then the newest."""

    def order(instance: Mapping[str, Any]) -> tuple[bool, bool, str]:
        alive = instance["State"]["Name"] not in GONE
        ours = bool(token) and instance.get("ClientToken", "") == token
        return alive, ours, str(instance.get("LaunchTime", ""))

    return max(instances, key=order, default=None)
