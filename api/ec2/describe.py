"""The Describe call of a kind that is listed whole: named ids, filters, tags and pages, alike for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from api.ec2 import filters, ids
from api.ec2.call import Call
from api.ec2.paging import page
from api.ec2.tag import tags_in

Item = dict[str, Any]


class Row(Protocol):
    """What has one of the broker's ids."""

    id: Any


R = TypeVar("R", bound=Row)


@dataclass(frozen=True)
class Listed(Generic[R]):
    """How a kind is described. ``ids_param`` names the ids that are asked for, ``answer`` the list that comes back and
    ``id_member`` the id in each of its items. ``rows`` are all that the caller may see, and ``items`` makes an item of each.
    ``shown``: whether the call's other parameters leave one of them.
    """

    kind: ids.Kind
    ids_param: str
    answer: str
    id_member: str
    fields: filters.Fields[Item]
    rows: Callable[[Call], Sequence[R]]
    items: Callable[[Call, Sequence[R]], Callable[[R], Item]]
    shown: Callable[[Call, R], bool] = lambda _call, _row: True


def describe(call: Call, listed: Listed[R]) -> dict[str, Any]:
    """The answer. One id that is not there fails the whole call. Raises Fault."""
    rows = sorted(listed.rows(call), key=lambda row: str(row.id))
    wanted = [ids.to_broker(listed.kind.prefix, given) for given in call.params.get(listed.ids_param, ())]
    if unknown := sorted(set(wanted) - {row.id for row in rows}):
        raise listed.kind.not_found([ids.to_ec2(name) for name in unknown])
    admits = filters.matcher(call.params.get("Filters", ()), listed.fields, tags_in)
    item = listed.items(call, rows)
    shown = [row for row in rows if (not wanted or row.id in wanted) and listed.shown(call, row)]
    found = [item(row) for row in shown]
    some, token = page(
        filter(admits, found), lambda one: str(one[listed.id_member]), call.params, ids=listed.ids_param
    )
    call.proceed()
    return {listed.answer: some, "NextToken": token}
