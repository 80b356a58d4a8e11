"""Labels: keys and values on anything that has an id. Everything that writes or seeks them goes through here.

They are EC2's tags, too, and as long: "Tag restrictions" in the EC2 User Guide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import Select, delete, insert, select
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from broker import event
from broker.actor import Actor
from broker.broker import Broker
from broker.errors import InvalidRequest
from broker.store import Labelled, LabelRow

MOST = 50
"""Labels of one thing."""
LONGEST_KEY, LONGEST_VALUE = 128, 256
"""In characters."""
RESERVED = "aws:"
"""Keys that begin so belong to EC2 itself; capitals change nothing."""

Change = Callable[[Mapping[str, str]], Mapping[str, str]]
Wanted = Mapping[str, str | Sequence[str] | None]
"""Key -> the value that is sought, or several of which one must be it, or None for any."""
S = TypeVar("S", bound=Select[Any])


def check(labels: Mapping[str, str], before: Mapping[str, str] | None = None) -> None:
    """Raise InvalidRequest for labels that nothing may have. What a thing had ``before`` it may keep."""
    if len(labels) > MOST:
        raise InvalidRequest(f"{len(labels)} labels are too many", hint=f"a thing has at most {MOST}")
    for key, value in labels.items():
        if before is not None and before.get(key) == value:
            continue
        if not 0 < len(key) <= LONGEST_KEY:
            raise InvalidRequest(
                f"the label key {key!r} has {len(key)} characters", hint=f"keys have 1 to {LONGEST_KEY}"
            )
        if len(value) > LONGEST_VALUE:
            raise InvalidRequest(
                f"the value of label {key!r} has {len(value)} characters",
                hint=f"values have at most {LONGEST_VALUE}",
            )
        if key.lower().startswith(RESERVED):
            raise InvalidRequest(
                f"the label key {key!r} is reserved", hint=f"keys may not begin with {RESERVED!r}"
            )


def give(session: Session, row: Labelled, labels: Mapping[str, str] | None) -> None:
    """Label what is being made, in the caller's transaction. Raises InvalidRequest."""
    wanted = dict(sorted((labels or {}).items()))
    check(wanted)
    _write(session, row, wanted)
    set_committed_value(row, "labels", wanted)


def change(
    broker: Broker, session: Session, actor: Actor, row: Labelled, make: Change, *, project_id: str | None
) -> None:
    """Make a thing's labels from those it has, so that two changes at once both count. Raises InvalidRequest."""
    resource, noun = _name(row)
    kind = type(row)
    # Locked, and read by a statement of its own: what somebody wrote while this one waited is seen.
    session.execute(select(kind.id).where(kind.id == resource).with_for_update())  # type: ignore[attr-defined]
    before = of(session, [resource]).get(resource, {})
    wanted = dict(sorted(make(before).items()))
    check(wanted, before)
    set_committed_value(row, "labels", wanted)
    if wanted == before:
        return
    stale = [key for key, value in before.items() if wanted.get(key) != value]
    if stale:
        session.execute(delete(LabelRow).where(LabelRow.resource == resource, LabelRow.key.in_(stale)))
    _write(session, row, {key: value for key, value in wanted.items() if before.get(key) != value})
    name = getattr(row, "name", resource)
    event.record(
        broker,
        session,
        f"{noun}.labelled",
        resource,
        f"{name} labelled by {actor.name}",
        project_id=project_id,
    )


def of(session: Session, resources: Sequence[str]) -> dict[str, dict[str, str]]:
    """Id -> labels, of many things at once; what has none is not in it."""
    found: dict[str, dict[str, str]] = {}
    for at in range(0, len(resources), _AT_ONCE):
        query = select(LabelRow.resource, LabelRow.key, LabelRow.value).where(
            LabelRow.resource.in_(resources[at : at + _AT_ONCE])
        )
        for resource, key, value in session.execute(query.order_by(LabelRow.resource, LabelRow.key)):
            found.setdefault(resource, {})[key] = value
    return found


_AT_ONCE = 500
"""Ids in one statement; SQLite takes some thousands of parameters."""


def filter(query: S, kind: type[Labelled], labels: Wanted | None) -> S:
    """The query, of what carries all of these labels; by index."""
    for key, value in (labels or {}).items():
        carriers = select(LabelRow.resource).where(LabelRow.key == key)
        if isinstance(value, str):
            carriers = carriers.where(LabelRow.value == value)
        elif value is not None:
            carriers = carriers.where(LabelRow.value.in_(value))
        query = query.where(kind.id.in_(carriers))  # type: ignore[attr-defined]
    return query


def remove(session: Session, resources: Sequence[str]) -> None:
    """Drop the labels of things whose rows go without the session seeing it (by cascade, or many at once)."""
    for at in range(0, len(resources), _AT_ONCE):
        session.execute(delete(LabelRow).where(LabelRow.resource.in_(resources[at : at + _AT_ONCE])))


def merged(more: Mapping[str, str | None]) -> Change:
    """A change as a merge patch says it (RFC 7396): None takes a label away, anything else sets it."""

    def make(labels: Mapping[str, str]) -> Mapping[str, str]:
        kept = {key: value for key, value in labels.items() if key not in more}
        return kept | {key: value for key, value in more.items() if value is not None}

    return make


def _write(session: Session, row: Labelled, labels: Mapping[str, str]) -> None:
    if labels:
        resource, noun = _name(row)
        session.execute(
            insert(LabelRow),
            [
                {"resource": resource, "key": key, "value": value, "noun": noun}
                for key, value in labels.items()
            ],
        )


def _name(row: Any) -> tuple[str, str]:
    """(id, noun) of a row."""
    noun = row.__tablename__
    return str(row.id), {"key_pair": "keypair"}.get(noun, noun)
