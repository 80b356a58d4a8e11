"""Usage: what projects used, and what it cost."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from isthmus import schema
from isthmus.client._resource import Collection


class Usages(Collection[schema.Usage]):
    """``client.usage``."""

    _path = "/v1/usage"
    _model = schema.Usage

    def list(self, since: datetime | None = None, until: datetime | None = None) -> Iterator[schema.Usage]:
        """By project and site: the caller's project, for admins all. Without times this month (UTC) until now."""
        return self._list(
            {
                "since": since.isoformat() if since else None,
                "until": until.isoformat() if until else None,
            }
        )
