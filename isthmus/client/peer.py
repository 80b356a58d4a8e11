"""Peers: burst VMs' ends of the tunnels."""

from __future__ import annotations

from collections.abc import Iterator

from isthmus import schema
from isthmus.client._resource import Collection


class Peers(Collection[schema.Peer]):
    """``client.peers``. The broker makes and removes them; they are only looked at."""

    _path = "/v1/peers"
    _model = schema.Peer

    def list(self, gateway: str | None = None, vm: str | None = None) -> Iterator[schema.Peer]:
        """All peers; of one gateway, or of one VM."""
        return self._list({"gateway": gateway, "vm": vm})
