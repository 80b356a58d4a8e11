"""Tags: labels of anything. Any key and value that EC2 takes survives the way there and back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from api.ec2 import filters, ids
from api.ec2.call import Call
from api.ec2.fault import Fault
from api.ec2.paging import page
from broker import access, label, labelled, vm
from broker.errors import NotFound
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
    call.proceed()
    labelled.change(call.broker, call.actor, things, make)


def describe_tags(call: Call) -> dict[str, Any]:
    """DescribeTags: of all that may have any."""
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
        {"ResourceId": ids.to_ec2(broker_id), "ResourceType": _TYPES[noun], "Key": key, "Value": value}
        for noun, broker_id, key, value in _all_tags(call, given)
    ]
    tags.sort(key=_order)
    some, token = page(filter(admits, tags), _order, call.params)
    call.proceed()
    return {"Tags": some, "NextToken": token}


_TYPES = {kind.noun: kind.resource_type for kind in ids.KINDS.values()}


def _all_tags(call: Call, given: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, str, str]]:
    """(noun, id, key, value) of the tags that filters may admit; what they say exactly, the query looks up."""
    keys, values = filters.exact(given, "key"), filters.exact(given, "value")
    resources = filters.exact(given, "resource-id")
    wanted = None if resources is None else list(ids.known(resources))
    rows = labelled.list_labels(
        call.broker,
        call.actor,
        [kind.noun for kind in ids.KINDS.values()],
        ids=wanted,
        keys=None if keys is None else [*keys, "Name"],
        values=values,
    )
    names = vm.names(call.broker, call.actor, ids=wanted, ended_after=shown_since(call))
    titled: set[str] = set()
    for noun, broker_id, key, value in rows:
        if not key.startswith("aws:") and (noun != "vm" or broker_id in names):
            yield noun, broker_id, key, value
            if key == "Name":
                titled.add(broker_id)
    if values is not None:
        # A label Name that the query left out hides the name all the same.
        every = labelled.list_labels(call.broker, call.actor, ["vm"], ids=wanted, keys=["Name"])
        titled = {broker_id for _, broker_id, _, _ in every}
    for vm_id, name in names.items():
        if name != vm_id and vm_id not in titled:
            yield "vm", vm_id, "Name", name


def all_vms(call: Call, wanted: Sequence[str] | None = None) -> list[VMRow]:
    """The project's VMs, those terminated in the last hour included, oldest first; ``wanted``: only these ids."""
    return list(each_vm(call, wanted))


def each_vm(
    call: Call,
    wanted: Sequence[str] | None = None,
    *,
    given: Sequence[Mapping[str, Any]] = (),
    only: Mapping[str, Sequence[str]] | None = None,
    created_from: datetime | None = None,
    at_once: int = 1000,
) -> Iterator[VMRow]:
    """The same, read as they are gone through, ``at_once`` in a query.

    Of the tags in filters that are ``given`` the query looks up what it can; the rest is left to ``filters.matcher``.
    """
    last: str | None = None
    while True:
        some = vm.list_vms(
            call.broker,
            call.actor,
            ids=wanted,
            labels=filters.labels(given),
            titles=filters.exact(given, "tag:Name"),
            only=only,
            created_from=created_from,
            ended_after=shown_since(call),
            after=last,
            limit=at_once,
        )
        yield from some
        if len(some) < at_once:
            return
        last = some[-1].id


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
    living = {row.id for row in all_vms(call, wanted)} if wanted else set()
    for (noun, broker_id), name in things.items():
        try:
            if noun == "vm" and broker_id not in living:
                raise NotFound(noun, broker_id)
            labelled.get(call.broker, call.actor, noun, broker_id)
        except NotFound:
            raise ids.KINDS[name.partition("-")[0]].not_found([name]) from None
    return list(things)


def _order(tag: Mapping[str, str]) -> str:
    return f"{tag['ResourceId']} {tag['Key']}"


def _too_many() -> Fault:
    return Fault("TagLimitExceeded", f"A resource has at most {MOST} tags")
