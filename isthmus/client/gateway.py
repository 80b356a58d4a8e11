"""Gateways: where a site's private network meets the tunnels."""

from __future__ import annotations

from collections.abc import Mapping

from isthmus import schema
from isthmus.client._resource import Resource, Resources, ask


class Gateway(Resource, schema.Gateway):
    """A site's gateway."""


class GatewayCreated(schema.GatewayCreated):
    """The gateway, and its agent's token: shown this once."""

    gateway: Gateway


class Gateways(Resources[Gateway]):
    """``client.gateways``. ``ref`` is a gateway's id or name. Deleting one is refused while VMs are reached through it."""

    _path = "/v1/gateways"
    _model = Gateway

    def create(
        self, name: str, *, site: str, network: str, endpoint: str, labels: Mapping[str, str] | None = None
    ) -> GatewayCreated:
        """Add a gateway. ``endpoint`` is the public address and UDP port burst VMs dial (``203.0.113.7:51820``).

        The answer's ``token`` is for ``isthmus agent`` on that machine.
        """
        body = ask(
            schema.GatewayCreate, name=name, site=site, network=network, endpoint=endpoint, labels=labels
        )
        return self._http.post(GatewayCreated, self._path, body)

    def renew_token(self, ref: str) -> GatewayCreated:
        """A new token for a gateway's agent, shown this once; the one before is dead at once."""
        return self._http.post(GatewayCreated, f"{self._url(ref)}/token")
