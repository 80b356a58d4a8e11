"""Hosts: machines of a site, or a cloud's zones and instance types."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from isthmus import schema
from isthmus.client._resource import Bound, Collection


class Host(Bound, schema.Host):
    """A host, with the attributes that requirements and ranks may name."""

    def refresh(self) -> Self:
        """Read it again."""
        return self._take(self._client.hosts.get(self.id))

    def maintenance(self, on: bool = True) -> Self:
        """Take no new VM here (``on``), or take them again. What runs there goes on."""
        return self._take(self._client.hosts.maintenance(self.id, on))

    def drain(self, *, dry_run: bool = False) -> schema.MigrationPlan:
        """Put it into maintenance and begin to move what runs here elsewhere; with ``dry_run`` only say what would move."""
        return self._client.migrations.drain(self.id, dry_run=dry_run)


class Hosts(Collection[Host]):
    """``client.hosts``. ``ref`` is a host's id, or its name where only one site has it."""

    _path = "/v1/hosts"
    _model = Host

    def get(self, ref: str) -> Host:
        """One host."""
        return self._get(ref)

    def list(self, site: str | None = None) -> Iterator[Host]:
        """All hosts, or one site's."""
        return self._list({"site": site})

    def maintenance(self, ref: str, on: bool = True) -> Host:
        """Take no new VM on a host (``on``), or take them again."""
        return self._http.patch(Host, self._url(ref), schema.HostUpdate(maintenance=on))
