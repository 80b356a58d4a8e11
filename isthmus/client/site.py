"""Sites: KVM hosts, or a cloud's region, behind one provider."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from isthmus import schema
from isthmus.client._resource import Resource, Resources, ask

SLOW_S = 90.0
"""How long a broker may wait for a site's hosts before it answers, on top of the client's timeout."""


class Site(Resource, schema.Site):
    """A site. Its credentials are never answered."""

    def look(self) -> Self:
        """Have the broker look at the site now: its hosts, and whether it answers."""
        return self._take(self._client.sites.look(self.id))


class Sites(Resources[Site]):
    """``client.sites``. ``ref`` is a site's id or name. Deleting one is refused while VMs of ours are on it."""

    _path = "/v1/sites"
    _model = Site

    def create(
        self,
        name: str,
        kind: str,
        *,
        options: Mapping[str, Any] | None = None,
        attributes: Mapping[str, Any] | None = None,
        host_attributes: Mapping[str, Mapping[str, Any]] | None = None,
        credentials: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Site:
        """Add a site. ``kind``: ``kvm``, ``ec2`` or ``simulated``; ``options`` are the kind's own.

        ``attributes`` are added to each of its hosts, ``host_attributes`` to single ones by name.
        """
        body = ask(
            schema.SiteCreate,
            name=name,
            kind=kind,
            options=options,
            attributes=attributes,
            host_attributes=host_attributes,
            credentials=credentials,
            labels=labels,
        )
        # Not sent again: while it waits, the broker waits for the site.
        return self._http.post(Site, self._path, body, repeat=False, wait=SLOW_S)

    def look(self, ref: str) -> Site:
        """Have the broker look at a site now."""
        return self._http.post(Site, self._url(ref, "refresh"), repeat=False, wait=SLOW_S)
