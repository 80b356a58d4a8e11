"""Images: the broker's catalogue, which all projects share, and the project's own. Each version is an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from api.ec2 import filters, ids
from api.ec2.call import Call, boolean, tag_list
from api.ec2.describe import Described, describe, ids_of, named_by_id
from api.ec2.owner import account_of, owners
from api.ec2.protocol import format_time
from api.ec2.tag import tags_in, tags_of
from broker import image
from broker.listing import Which
from broker.states import ImageState, Visibility
from broker.store import ImageRow

ROOT_DEVICE = "/dev/vda"
_STATES = {"available": "available", "error": "failed", "failed": "failed"}
_ARCHITECTURES = {"aarch64": "arm64", "i686": "i386"}


def architecture(row: ImageRow) -> str:
    """The architecture by EC2's name."""
    return _ARCHITECTURES.get(row.architecture, row.architecture)


def describe_images(call: Call) -> dict[str, Any]:
    """DescribeImages. To each project the broker's images are its own and public. Those that are deprecated are shown
    to their project, and to others who name them or ask for them too."""
    return describe(call, _IMAGES)


def _shown(call: Call, row: ImageRow) -> bool:
    """Whether the image is of one of those owners, may be launched by one of those users, and is not too old to be shown."""
    params = call.params
    owner = account_of(call, row.project)
    owned_by = {owner, "self"} if owner == call.account else {owner}
    used_by = {"self", call.account} | ({"all"} if row.visibility == Visibility.SHARED else set())
    owners, users = params.get("Owners"), params.get("ExecutableUsers")
    if (owners and not owned_by & set(owners)) or (users and not used_by & set(users)):
        return False
    mine = row.project_id == call.actor.project_id
    return (
        row.deprecated_at is None or mine or bool(params.get("IncludeDeprecated") or params.get("ImageIds"))
    )


def _image(call: Call, row: ImageRow) -> dict[str, Any]:
    return {
        "ImageId": ids.to_ec2(row.id),
        "ImageLocation": f"{account_of(call, row.project)}/{row.name}",
        "State": _STATES.get(row.state, "pending"),
        "OwnerId": account_of(call, row.project),
        "CreationDate": format_time(row.created_at),
        "DeprecationTime": format_time(row.deprecated_at) if row.deprecated_at else None,
        "Public": row.visibility == Visibility.SHARED,
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


def _states(wanted: Sequence[str]) -> list[str]:
    return [state for state in ImageState if _STATES.get(state, "pending") in wanted]


def _owned(call: Call) -> Which:
    """``Owners`` say what the filter says."""
    return {"owners": owners(call, call.params.get("Owners"))}


_IMAGES: Described[ImageRow, dict[str, Any]] = Described(
    answer="Images",
    named=[named_by_id("ImageIds", "ami")],
    fields=_FIELDS,
    tags=tags_in,
    columns={"image-id": ("id", ids_of), "name": ("name", list), "state": ("state", _states)},
    also=_owned,
    find=lambda call, which: image.list_images(call.broker, call.actor, here=True, **which),
    items=lambda call, rows: [_image(call, row) for row in rows],
    shown=_shown,
)
