"""Tags: labels of anything. Any key and value that EC2 takes survives the way there and back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from api.ec2 import ids
from api.ec2.call import Call
from api.ec2.describe import Described, describe, ids_of
from api.ec2.fault import Fault, invalid
from broker import access, label, labelled, vm
from broker.errors import NotFound
from broker.listing import Which
from broker.store import VMRow


def shown_since(call: Call) -> datetime:
    """Since when terminated instances are shown: for an hour ("Terminate your instance", EC2 User Guide), or as the
    setting says."""
    return call.now - timedelta(seconds=call.broker.settings.retention.shown_s)


MOST = 50
_LONGEST_KEY, _LONGEST_VALUE = 128, 256


def tags_of(labels: Mapping[str, str], name: str = "") -> dict[str, str]:
    """A thing's tags: its labels, and its name as ``Name`` where that is not a tag already and was given by somebody."""
    shown = {key: value for key, value in labels.items() if not key.startswith("aws:")}
    if name:
        shown.setdefault("Name", name)
    return shown


def tags_of_vm(row: VMRow) -> dict[str, str]:
    """A VM's tags. One that nobody named is named by its id, which is no tag."""
    return tags_of(row.labels, row.name if row.name != row.id else "")


def tags_in(item: Mapping[str, Any]) -> dict[str, str]:
    """The tags of an answer's item, for filters."""
    return {tag["Key"]: tag["Value"] for tag in item["Tags"]}


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


def of_specifications(given: Sequence[Mapping[str, Any]], resource_type: str = "instance") -> dict[str, str]:
    """The tags for what is made. Raises Fault for other resource types, which are not."""
    tags: list[Mapping[str, Any]] = []
    for specification in given:
        kind = specification.get("ResourceType")
        if kind != resource_type:
            raise Fault(
                "InvalidParameterValue", f"'{kind}' is not a valid taggable resource type for this operation."
            )
        tags.extend(specification.get("Tags", ()))
    return checked(tags)


def create_tags(call: Call) -> None:
    """CreateTags, on anything: all of them or none."""
    tags = checked(call.params["Tags"])

    def more(labels: Mapping[str, str]) -> dict[str, str]:
        return {**labels, **tags}

    _change(call, more)


def delete_tags(call: Call) -> None:
    """DeleteTags, on anything; a value that is given must be the tag's, no tags at all mean every one."""
    given = call.params.get("Tags")

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

    _change(call, without)


def _change(call: Call, make: label.Change) -> None:
    things = _tagged(call)
    for noun, broker_id in things:
        labels = make(labelled.get(call.broker, call.actor, noun, broker_id))
        if len([key for key in labels if not key.startswith("aws:")]) > MOST:
            raise _too_many()
    labelled.change(call.broker, call.actor, things, make)


def describe_tags(call: Call) -> dict[str, Any]:
    """DescribeTags: of all that may have any."""
    return describe(call, _TAGS)


class _Tag(NamedTuple):
    noun: str
    broker_id: str
    key: str
    value: str


_IN_ORDER = [ids.KINDS[prefix] for prefix in sorted(ids.KINDS)]
"""Kinds by EC2's prefix, which is how tags are listed."""
_TYPES = {kind.noun: kind.resource_type for kind in _IN_ORDER}


def _nouns(types: Sequence[str]) -> list[str]:
    return [noun for noun, resource_type in _TYPES.items() if resource_type in types]


def _tags(call: Call, which: Which) -> list[_Tag]:
    found = labelled.list_labels(
        call.broker,
        call.actor,
        list(_TYPES),
        titles=True,
        ended_after=shown_since(call),
        only=which.get("only"),
        after=_last(which.get("after")),
        limit=which.get("limit"),
    )
    return [_Tag(*one) for one in found]


def _key(tag: _Tag) -> str:
    return f"{ids.to_ec2(tag.broker_id)} {tag.key}"


def _last(after: str | None) -> tuple[str, str, str] | None:
    """The noun, id and key of the tag that a token names."""
    if after is None:
        return None
    ec2_id, _, key = after.partition(" ")
    for broker_id in ids.known([ec2_id]):
        return ids.KINDS[ec2_id.partition("-")[0]].noun, broker_id, key
    raise invalid("NextToken", after, "It is no token of this broker.")


_TAGS: Described[_Tag, dict[str, str]] = Described(
    answer="Tags",
    fields={
        "key": lambda tag: (tag["Key"],),
        "resource-id": lambda tag: (tag["ResourceId"],),
        "resource-type": lambda tag: (tag["ResourceType"],),
        "value": lambda tag: (tag["Value"],),
    },
    # tag:KEY is a filter here as well, though tags have no tags.
    tags=lambda tag: {tag["Key"]: tag["Value"]},
    columns={
        "key": ("key", list),
        "resource-id": ("id", ids_of),
        "resource-type": ("noun", _nouns),
        "value": ("value", list),
    },
    find=_tags,
    items=lambda _call, rows: [
        {
            "ResourceId": ids.to_ec2(tag.broker_id),
            "ResourceType": _TYPES[tag.noun],
            "Key": tag.key,
            "Value": tag.value,
        }
        for tag in rows
    ],
    shown=lambda _call, tag: not tag.key.startswith("aws:"),
    key=_key,
)


def vms_of(call: Call, wanted: Sequence[str]) -> Sequence[VMRow]:
    """Those of the project's VMs, oldest first, that are shown: also when terminated in the last hour."""
    return vm.list_vms(call.broker, call.actor, ids=wanted, ended_after=shown_since(call), limit=len(wanted))


def _tagged(call: Call) -> list[tuple[str, str]]:
    """(noun, id) of the things that the request names. Raises Fault for what is not there, or can have no tags."""
    access.require(call.actor, "label.change", call.actor.project_id)
    things: dict[tuple[str, str], str] = {}
    for name in call.params["Resources"]:
        kind = ids.KINDS.get(name.partition("-")[0])
        if kind is None or not re.fullmatch(r"[a-z]+-[0-9a-f]+", name):
            raise Fault("InvalidID", f"The ID '{name}' is not valid")
        things[kind.noun, ids.to_broker(kind.prefix, name)] = name
    wanted = [broker_id for noun, broker_id in things if noun == "vm"]
    living = {row.id for row in vms_of(call, wanted)} if wanted else set()
    for (noun, broker_id), name in things.items():
        try:
            if noun == "vm" and broker_id not in living:
                raise NotFound(noun, broker_id)
            labelled.get(call.broker, call.actor, noun, broker_id)
        except NotFound:
            raise ids.KINDS[name.partition("-")[0]].not_found([name]) from None
    return list(things)


def _too_many() -> Fault:
    return Fault("TagLimitExceeded", f"A resource has at most {MOST} tags")
