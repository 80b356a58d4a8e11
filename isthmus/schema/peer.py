"""A burst VM's end of a tunnel."""

from __future__ import annotations

from datetime import datetime

from isthmus.schema._base import Answer


class Peer(Answer):
    """``state``: ``bootstrap`` (may still enrol), ``enrolled``, ``expired`` or ``removed``. ``vm`` is its id.

    A VM has one for each of its networks.
    """

    id: str
    gateway: str
    network: str = ""
    vm: str
    vm_name: str = ""
    state: str
    address: str
    public_key: str | None = None
    expires_at: datetime | None = None
    enrolled_at: datetime | None = None
    last_handshake_at: datetime | None = None
    rx_bytes: int = 0
    tx_bytes: int = 0
