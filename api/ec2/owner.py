"""Owners: the account of the project that has a thing. What is the broker's own, each project is told is its own."""

from __future__ import annotations

from collections.abc import Sequence

from api.ec2 import filters
from api.ec2.call import Call
from broker.store import ProjectRow


def account_of(call: Call, project: ProjectRow | None) -> str:
    """The owner's account."""
    return project.account if project is not None else call.account


def owners(call: Call, named: Sequence[str] | None = None) -> list[str | None] | None:
    """Whose things the call asks for, as ``listing.Which`` says it: of the accounts that it names, of which ``self`` is the
    caller's, or else of the filter ``owner-id``. None when it asks for everybody's, or does not say exactly whose."""
    accounts = named or filters.exact(call.params.get("Filters", ()), "owner-id")
    if accounts is None:
        return None
    wanted: list[str | None] = [call.account if named and one == "self" else one for one in accounts]
    return [*wanted, None] if call.account in wanted else wanted
