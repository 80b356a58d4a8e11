"""Sites: KVM hosts, or a cloud's region, behind one provider."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

from isthmus import schema
from isthmus.client._resource import Bound, Collection, ask

SLOW_S = 90.0
"""How long a broker may wait for a site's hosts before it answers, on top of the client's timeout."""


class Site(Bound, schema.Site):
    """A site. Its credentials are never answered."""

    def refresh(self) -> Self:
        """Read it again. (``look()`` has the broker itself look at the site again.)"""
        return self._take(self._client.sites.get(self.id))

    def look(self) -> Self:
        """Have the broker look at the site now: its hosts, and whether it answers."""
        return self._take(self._client.sites.look(self.id))

    def delete(self) -> None:
        """Remove it from the broker. Refused while VMs of ours are on it."""
        self._client.sites.delete(self.id)


class Sites(Collection[Site]):
    """``client.sites``. ``ref`` is a site's id or name."""

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
        )
        # Not sent again: while it waits, the broker waits for the site.
        return self._http.post(Site, self._path, body, repeat=False, wait=SLOW_S)

    def get(self, ref: str) -> Site:
        """One site."""
        return self._get(ref)

    def list(self) -> Iterator[Site]:
        """All sites."""
        return self._list()

    def look(self, ref: str) -> Site:
        """Have the broker look at a site now."""
        return self._http.post(Site, self._url(ref, "refresh"), repeat=False, wait=SLOW_S)

    def delete(self, ref: str) -> None:
        """Remove a site from the broker. Refused while VMs of ours are on it."""
        self._http.delete(self._url(ref))
