"""Images: the broker's catalogue, which all projects share."""

from __future__ import annotations

from typing import Any

from api.ec2 import filters, ids
from api.ec2.call import Call, boolean, tag_list
from api.ec2.describe import Listed, describe
from api.ec2.protocol import format_time
from api.ec2.tag import tags_of
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
    return describe(call, _IMAGES)


def _shown(call: Call) -> bool:
    """Whether the catalogue is of those owners, and may be launched by those users."""
    owners, users = call.params.get("Owners"), call.params.get("ExecutableUsers")
    return not (owners and not {"self", call.account} & set(owners)) and not (
        users and not {"self", "all", call.account} & set(users)
    )


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

_IMAGES: Listed[ImageRow] = Listed(
    kind=ids.KINDS["ami"],
    ids_param="ImageIds",
    answer="Images",
    id_member="ImageId",
    fields=_FIELDS,
    rows=lambda call: image.list_images(call.broker, call.actor),
    items=lambda call, _rows: lambda row: _image(call, row),
    shown=_shown,
)
