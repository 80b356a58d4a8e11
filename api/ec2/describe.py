"""The Describe call of every kind: what it names, filters, tags and pages, alike for all of them.

A kind is a table (``Described``). What the call says exactly is looked up by the database, a batch at a time and no
further than the page goes; ``filters.matcher`` judges whatever was read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from api.ec2 import filters, ids
from api.ec2.call import Call
from api.ec2.fault import Fault
from api.ec2.paging import MOST, page, position
from broker.listing import Which

R = TypeVar("R")
Item = TypeVar("Item")
Values = Callable[[Sequence[str]], Sequence[Any]]
"""EC2's values of a filter -> those of a column, of which more may fit than the filter admits, and none less."""

_AT_ONCE = MOST + 1
"""Rows in a query: those of the largest page, and the one that shows that there is another."""


@dataclass(frozen=True)
class Named:
    """A parameter that names what is asked for, by its ``ids`` or ``names``. What it names must all be there.

    ``absent`` makes the Fault of those that are not, and ``ours`` what the broker calls one; it raises Fault for what cannot
    be the name of any.
    """

    param: str
    by: Literal["ids", "names"]
    absent: Callable[[Call, Sequence[str]], Fault]
    ours: Callable[[str], str] = str

    def of(self, row: Any) -> str:
        """What it would name the row."""
        return str(row.id if self.by == "ids" else row.name)


def named_by_id(param: str, prefix: str) -> Named:
    """The parameter of EC2 ids with that prefix."""
    kind = ids.KINDS[prefix]
    return Named(
        param, "ids", lambda _call, absent: kind.not_found(absent), lambda given: ids.to_broker(prefix, given)
    )


def ids_of(values: Sequence[str]) -> list[str]:
    """Values of a filter as the broker's ids; what is no id is none of anything."""
    return list(ids.known(values))


@dataclass(frozen=True)
class Described(Generic[R, Item]):
    """How a kind is described: the list ``answer`` of the ``items`` that ``find`` has rows for.

    ``find``: what the caller may see, in the order of ``key``; it may know more than is asked for, but no less.
    ``named``: the parameters that name things. ``fields`` and ``tags``: what filters ask of an item, and ``columns``: filter
    -> the column that says the same, with its values. ``also``: what the call's other parameters say exactly, and
    ``shown``: whether they leave a row. ``most``: items of a page.
    """

    answer: str
    fields: filters.Fields[Item]
    find: Callable[[Call, Which], Sequence[R]]
    items: Callable[[Call, Sequence[R]], Sequence[Item]]
    named: Sequence[Named] = ()
    columns: Mapping[str, tuple[str, Values]] = field(default_factory=dict)
    tags: Callable[[Item], Mapping[str, str]] | None = None
    also: Callable[[Call], Which] = lambda _call: {}
    shown: Callable[[Call, R], bool] = lambda _call, _row: True
    key: Callable[[R], str] = lambda row: str(row.id)  # type: ignore[attr-defined]  # most rows have one
    most: int = MOST

    def matcher(self, call: Call) -> Callable[[Item], bool]:
        """Whether the call's filters admit an item. Raises Fault."""
        return filters.matcher(call.params.get("Filters", ()), self.fields, self.tags)


def describe(call: Call, kind: Described[R, Item]) -> dict[str, Any]:
    """The answer. One thing that is named and not there fails the whole call. Raises Fault."""
    admits, limit = kind.matcher(call), call.params.get("MaxResults")
    read = looked_up(call, kind, after=position(call.params), at_first=(limit or MOST) + 1)
    found = ((kind.key(row), item) for row, item in read if admits(item))
    params = [named.param for named in kind.named]
    some, token = page(found, lambda one: one[0], call.params, ids=params, most=kind.most)
    return {kind.answer: [item for _, item in some], "NextToken": token}


def looked_up(
    call: Call, kind: Described[R, Item], *, after: str | None, at_first: int
) -> Iterator[tuple[R, Item]]:
    """The rows that the call may mean, with their items: those that are named, or else those after the key ``after`` that are
    as filters say exactly. They are read as they are gone through, ``at_first`` so many. Raises Fault.
    """
    named = _named(call, kind)
    which = _exactly(call, kind)
    if after is not None:
        which["after"] = after
    for rows in [named] if named is not None else _batches(call, kind, which, at_first):
        if shown := [row for row in rows if kind.shown(call, row)]:
            yield from zip(shown, kind.items(call, shown), strict=True)


def _named(call: Call, kind: Described[R, Item]) -> Sequence[R] | None:
    """Those that every parameter which names any does name; None without such a parameter."""
    found: Sequence[R] | None = None
    for named in kind.named:
        given = call.params.get(named.param)
        if given:
            ours = {each: named.ours(each) for each in given}
            which = Which(ids=[*ours.values()]) if named.by == "ids" else Which(names=[*ours.values()])
            rows = {named.of(row): row for batch in _batches(call, kind, which, _AT_ONCE) for row in batch}
            absent = sorted(each for each, our in ours.items() if our not in rows)
            if absent:
                raise named.absent(call, absent)
            keys = {kind.key(rows[our]) for our in ours.values()}
            found = [row for row in (rows.values() if found is None else found) if kind.key(row) in keys]
    return found


def _exactly(call: Call, kind: Described[R, Item]) -> Which:
    given = call.params.get("Filters", ())
    only = {
        column: ours(values)
        for name, (column, ours) in kind.columns.items()
        if (values := filters.exact(given, name)) is not None
    }
    which = kind.also(call)
    which["only"] = {**(which.get("only") or {}), **only}
    if kind.tags is not None:
        which["labels"], which["titles"] = filters.labels(given), filters.exact(given, "tag:Name")
    return which


def _batches(call: Call, kind: Described[R, Item], which: Which, at_first: int) -> Iterator[Sequence[R]]:
    """First so many; then, when filters left out too many, what follows: ever more at once, for they may leave out all."""
    at_once = at_first
    while True:
        which["limit"] = at_once
        rows = kind.find(call, which)
        yield rows
        if len(rows) < at_once:
            return
        which["after"], at_once = kind.key(rows[-1]), min(2 * at_once, _AT_ONCE)
