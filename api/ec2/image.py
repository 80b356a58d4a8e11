"""Images: the broker's catalogue, which all projects share."""

from __future__ import annotations

from typing import Any

from api.ec2 import filters, ids
from api.ec2.call import Call, boolean, tag_list
from api.ec2.fault import Fault
from api.ec2.paging import page
from api.ec2.protocol import format_time
from api.ec2.tag import tags_in, tags_of
from broker import image
from broker.store import ImageRow

ROOT_DEVICE = "/dev/vda"
_STATES = {"available": "available", "error": "failed", "failed": "failed"}
_ARCHITECTURES = {"aarch64": "arm64", "i686": "i386"}


def architecture(row: ImageRow) -> str:
    """The architecture by EC2's name."""
    return _ARCHITECTURES.get(row.architecture, row.architecture)


def describe_images(call: Call) -> dict[str, Any]:
    """DescribeImages. To each project the catalogue is its own and public."""
    wanted = [ids.to_broker("ami", given) for given in call.params.get("ImageIds", ())]
    rows = sorted(image.list_images(call.broker, call.actor), key=lambda row: row.id)
    if unknown := sorted(set(wanted) - {row.id for row in rows}):
        names = ", ".join(ids.to_ec2(name) for name in unknown)
        raise Fault("InvalidAMIID.NotFound", f"The image id '[{names}]' does not exist")
    owners = call.params.get("Owners")
    if owners and not {"self", call.account} & set(owners):
        rows = []
    if call.params.get("ExecutableUsers") and not {"self", "all", call.account} & set(
        call.params["ExecutableUsers"]
    ):
        rows = []
    admits = filters.matcher(call.params.get("Filters", ()), _FIELDS, tags_in)
    images = [_image(call, row) for row in rows if not wanted or row.id in wanted]
    some, token = page(filter(admits, images), lambda item: str(item["ImageId"]), call.params, ids="ImageIds")
    call.proceed()
    return {"Images": some, "NextToken": token}


def _image(call: Call, row: ImageRow) -> dict[str, Any]:
    return {
        "ImageId": ids.to_ec2(row.id),
        "ImageLocation": f"{call.account}/{row.name}",
        "State": _STATES.get(row.state, "pending"),
        "OwnerId": call.account,
        "CreationDate": format_time(row.created_at),
        "Public": True,
        "ProductCodes": [],
        "Architecture": architecture(row),
        "ImageType": "machine",
        "Name": row.name,
        "Description": "",
        "RootDeviceType": "instance-store",
        "RootDeviceName": ROOT_DEVICE,
        "BlockDeviceMappings": [],
        "VirtualizationType": "hvm",
        "Tags": tag_list(tags_of(row.labels)),
        "StateReason": {"Code": "Server.InternalError", "Message": row.status_reason}
        if row.status_reason
        else None,
    }


_FIELDS: filters.Fields[dict[str, Any]] = {
    "architecture": lambda item: (item["Architecture"],),
    "creation-date": lambda item: (item["CreationDate"],),
    "description": lambda item: (item["Description"],),
    "image-id": lambda item: (item["ImageId"],),
    "image-type": lambda item: (item["ImageType"],),
    "is-public": lambda item: boolean(item["Public"]),
    "manifest-location": lambda item: (item["ImageLocation"],),
    "name": lambda item: (item["Name"],),
    "owner-alias": lambda item: (),
    "owner-id": lambda item: (item["OwnerId"],),
    "platform": lambda item: (),
    "root-device-name": lambda item: (item["RootDeviceName"],),
    "root-device-type": lambda item: (item["RootDeviceType"],),
    "state": lambda item: (item["State"],),
    "virtualization-type": lambda item: (item["VirtualizationType"],),
}
