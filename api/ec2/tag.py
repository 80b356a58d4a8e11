"""Tags: a VM's labels. Any key and value that EC2 takes survives the way there and back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from api.ec2 import filters, ids
from api.ec2.call import Call
from api.ec2.fault import Fault
from api.ec2.paging import page
from broker import vm
from broker.actor import MEMBER
from broker.store import VMRow

CLIENT_TOKEN = "aws:ec2:client-token"  # noqa: S105 (a label's name)
"""The label that keeps a launch's ClientToken; EC2 users can neither set nor see keys that begin with ``aws:``."""

_AT_ONCE = 1000
"""VMs that are read at once."""

MOST = 50
_LONGEST_KEY, _LONGEST_VALUE = 128, 256


def tags_of(row: VMRow) -> dict[str, str]:
    """A VM's tags: its labels, and its name as ``Name`` where that is not a tag already and was given by somebody."""
    shown = {key: value for key, value in row.labels.items() if not key.startswith("aws:")}
    if row.name != row.id:
        shown.setdefault("Name", row.name)
    return shown


def checked(given: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Tags of a request. Raises Fault: InvalidParameterValue, TagLimitExceeded."""
    tags: dict[str, str] = {}
    for tag in given:
        key, value = str(tag.get("Key", "")), str(tag.get("Value", ""))
        if not 0 < len(key) <= _LONGEST_KEY:
            raise Fault("InvalidParameterValue", f"Tag keys have 1 to {_LONGEST_KEY} characters: {key!r}")
        if len(value) > _LONGEST_VALUE:
            raise Fault(
                "InvalidParameterValue",
                f"Tag values have at most {_LONGEST_VALUE} characters: that of {key!r}",
            )
        if key.lower().startswith("aws:"):
            raise Fault(
                "InvalidParameterValue", "Tag keys starting with 'aws:' are reserved for internal use"
            )
        if key in tags:
            raise Fault("InvalidParameterValue", f"Duplicate tag key '{key}' specified.")
        tags[key] = value
    if len(tags) > MOST:
        raise _too_many()
    return tags


def of_specifications(given: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The tags for instances of RunInstances. Raises Fault for other resource types, which are not made."""
    tags: list[Mapping[str, Any]] = []
    for specification in given:
        kind = specification.get("ResourceType")
        if kind != "instance":
            raise Fault(
                "InvalidParameterValue", f"'{kind}' is not a valid taggable resource type for this operation."
            )
        tags.extend(specification.get("Tags", ()))
    return checked(tags)


def create_tags(call: Call) -> None:
    """CreateTags, on instances: all of them or none."""
    tags = checked(call.params["Tags"])
    rows = _tagged(call)
    for row in rows:
        if len({key for key in {**row.labels, **tags} if not key.startswith("aws:")}) > MOST:
            raise _too_many()
    call.proceed()
    for row in rows:
        vm.change_labels(call.broker, call.actor, row.id, lambda labels: {**labels, **tags})


def delete_tags(call: Call) -> None:
    """DeleteTags, on instances; a value that is given must be the tag's, no tags at all mean every one."""
    rows = _tagged(call)
    given = call.params.get("Tags")
    call.proceed()

    def without(labels: Mapping[str, str]) -> dict[str, str]:
        doomed = (
            {
                tag.get("Key", "")
                for tag in given
                if "Value" not in tag or labels.get(tag["Key"]) == tag["Value"]
            }
            if given
            else set(labels)
        )
        return {key: value for key, value in labels.items() if key.startswith("aws:") or key not in doomed}

    for row in rows:
        vm.change_labels(call.broker, call.actor, row.id, without)


def describe_tags(call: Call) -> dict[str, Any]:
    """DescribeTags."""
    fields: filters.Fields[dict[str, str]] = {
        "key": lambda tag: (tag["Key"],),
        "resource-id": lambda tag: (tag["ResourceId"],),
        "resource-type": lambda tag: (tag["ResourceType"],),
        "value": lambda tag: (tag["Value"],),
    }
    given = call.params.get("Filters", ())
    # tag:KEY is a filter here as well, though tags have no tags.
    admits = filters.matcher(given, fields, lambda tag: {tag["Key"]: tag["Value"]})
    tags = [
        {"ResourceId": ids.to_ec2(row.id), "ResourceType": "instance", "Key": key, "Value": value}
        for row in all_vms(call)
        for key, value in tags_of(row).items()
    ]
    tags.sort(key=_order)
    some, token = page(filter(admits, tags), _order, call.params)
    call.proceed()
    return {"Tags": some, "NextToken": token}


def all_vms(call: Call, wanted: Sequence[str] | None = None) -> list[VMRow]:
    """The project's VMs, those terminated lately included, oldest first; ``wanted``: only these ids."""
    return list(each_vm(call, wanted))


def each_vm(
    call: Call, wanted: Sequence[str] | None = None, *, since: datetime | None = None, first: int = _AT_ONCE
) -> Iterator[VMRow]:
    """As ``all_vms``, read as they are asked for: ``first`` of them, then some at a time. ``since``: made then or later.

    A terminated instance is shown for an hour ("Terminate your instance", EC2 User Guide), or as the setting says.
    """
    shown = call.now - timedelta(seconds=call.broker.settings.retention.shown_s)
    after, limit = None, min(first, _AT_ONCE)
    while True:
        some = vm.list_vms(
            call.broker,
            call.actor,
            ids=wanted,
            include_terminated=True,
            terminated_since=shown,
            created_since=since,
            after=after,
            limit=limit,
        )
        yield from some
        if len(some) < limit:
            return
        after, limit = some[-1].id, _AT_ONCE


def _tagged(call: Call) -> list[VMRow]:
    """The VMs that the request names. Raises Fault for what is not there or no instance."""
    call.actor.require(MEMBER)
    names: list[str] = call.params["Resources"]
    for name in names:
        if not re.fullmatch(r"i-[0-9a-f]+", name):
            kind = name.partition("-")[0]
            if kind in ("ami", "subnet", "vpc", "eni"):
                raise Fault(
                    "UnsupportedOperation", f"Only instances can be tagged here, and '{name}' is none"
                )
            raise Fault("InvalidID", f"The ID '{name}' is not valid")
    wanted = [ids.to_broker("i", name) for name in names]
    rows = {row.id: row for row in all_vms(call, wanted)}
    for name, broker_id in zip(names, wanted, strict=True):
        if broker_id not in rows:
            raise Fault("InvalidInstanceID.NotFound", f"The instance ID '{name}' does not exist")
    return list(rows.values())


def _order(tag: Mapping[str, str]) -> str:
    return f"{tag['ResourceId']} {tag['Key']}"


def _too_many() -> Fault:
    return Fault("TagLimitExceeded", f"A resource has at most {MOST} tags")
