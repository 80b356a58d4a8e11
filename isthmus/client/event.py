"""Events: what happened, and what the broker decided."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice

from isthmus import schema
from isthmus.client._http import Query
from isthmus.client._resource import Collection
from isthmus.client.operation import patiently

_HOLD_S = 25.0


class Events(Collection[schema.Event]):
    """``client.events``. ``target`` is the id of what they are about, ``kind`` a name such as ``vm.placed``."""

    _path = "/v1/events"
    _model = schema.Event

    def list(
        self, after: int | None = None, target: str | None = None, kind: str | None = None, limit: int = 50
    ) -> Iterator[schema.Event]:
        """At most ``limit`` events, oldest first: those after that ``seq``, or else the newest ones."""
        query = {"after": after, "target": target, "kind": kind, "limit": min(limit, 1000)}
        if after is None:
            return iter(self._page(query).items)
        return islice(self._list(query), limit)

    def follow(
        self, after: int | None = None, target: str | None = None, kind: str | None = None
    ) -> Iterator[schema.Event]:
        """Events as they come, for ever: those after that ``seq``, or else from now on. None is lost when the broker
        restarts meanwhile."""
        if after is None:
            newest = self._page({"limit": 1}).items
            after = newest[-1].seq if newest else 0
        while True:
            query = {"after": after, "target": target, "kind": kind, "wait": _HOLD_S}
            page = patiently(self._client, partial(self._page, query, wait=_HOLD_S), None)
            for event in page.items:
                after = event.seq
                yield event

    def _page(self, query: Query, wait: float = 0) -> schema.Page[schema.Event]:
        return self._http.get(schema.Page[schema.Event], self._path, query, wait=wait)
