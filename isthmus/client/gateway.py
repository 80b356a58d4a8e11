"""Gateways: where a site's private network meets the tunnels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from isthmus import schema
from isthmus.client._resource import Bound, Collection, ask


class Gateway(Bound, schema.Gateway):
    """A site's gateway."""

    def refresh(self) -> Self:
        """Read it again."""
        return self._take(self._client.gateways.get(self.id))

    def delete(self) -> None:
        """Remove it. Refused while VMs are reached through it."""
        self._client.gateways.delete(self.id)


class GatewayCreated(schema.GatewayCreated):
    """The gateway, and its agent's token: shown this once."""

    gateway: Gateway


class Gateways(Collection[Gateway]):
    """``client.gateways``. ``ref`` is a gateway's id or name."""

    _path = "/v1/gateways"
    _model = Gateway

    def create(self, name: str, *, site: str, network: str, endpoint: str) -> GatewayCreated:
        """Add a gateway. ``endpoint`` is the public address and UDP port burst VMs dial (``203.0.113.7:51820``).

        The answer's ``token`` is for ``isthmus agent`` on that machine.
        """
        body = ask(schema.GatewayCreate, name=name, site=site, network=network, endpoint=endpoint)
        return self._http.post(GatewayCreated, self._path, body, repeat=False)

    def get(self, ref: str) -> Gateway:
        """One gateway."""
        return self._get(ref)

    def list(self) -> Iterator[Gateway]:
        """All gateways."""
        return self._list()

    def renew_token(self, ref: str) -> GatewayCreated:
        """A new token for a gateway's agent, shown this once; the one before is dead at once."""
        return self._http.post(GatewayCreated, f"{self._url(ref)}/token", repeat=False)

    def delete(self, ref: str) -> None:
        """Remove a gateway. Refused while VMs are reached through it."""
        self._http.delete(self._url(ref))
