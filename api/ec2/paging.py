"""Pages of Describe calls: keyset tokens, so that nothing is skipped when something goes between two pages."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any, TypeVar

from api.ec2.fault import Fault, invalid

T = TypeVar("T")

LEAST, MOST = 5, 1000


def page(
    items: Iterable[T],
    key: Callable[[T], str],
    params: Mapping[str, Any],
    *,
    ids: Iterable[str] = (),
    most: int = MOST,
) -> tuple[list[T], str | None]:
    """The page that ``MaxResults`` asks for, and the token of the next; None on the last page.

    ``items`` are those after ``position``, in the order of their keys, which are unique texts; no more is taken of them
    than is needed. ``ids`` are parameters that name what is asked for, which cannot be paged. Raises Fault.
    """
    limit = params.get("MaxResults")
    if limit is not None:
        if not LEAST <= limit <= most:
            raise invalid("MaxResults", limit, f"Expecting a value from {LEAST} to {most}.")
        for name in filter(params.get, ids):
            raise Fault(
                "InvalidParameterCombination",
                f"The parameter {name} cannot be used with the parameter MaxResults",
            )
    # No more than shows whether there is another page.
    some = list(items if limit is None else islice(items, limit + 1))
    if limit is None or len(some) <= limit:
        return some, None
    return some[:limit], _write(key(some[limit - 1]), _query(params))


def position(params: Mapping[str, Any]) -> str | None:
    """The key of the last item before the page that is asked for. Raises Fault for a token of another request."""
    token = params.get("NextToken")
    return _read(token, _query(params)) if token else None


def _query(params: Mapping[str, Any]) -> str:
    return _digest({name: value for name, value in params.items() if name not in ("MaxResults", "NextToken")})


def _digest(query: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(query, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _write(after: str, query: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([after, query]).encode()).decode()


def _read(token: str, query: str) -> str:
    try:
        after, made_for = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, TypeError, RecursionError):
        raise invalid("NextToken", token, "It is no token of this broker.") from None
    if made_for != query or not isinstance(after, str) or not _is_text(after):
        raise invalid(
            "NextToken", token, "It belongs to another request: repeat the filters it was made for."
        )
    return after


def _is_text(after: str) -> bool:
    """Whether a database takes it: a token that somebody made up may hold anything."""
    return "\x00" not in after and not any("\ud800" <= character <= "\udfff" for character in after)
