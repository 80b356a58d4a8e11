"""The process that serves all faces."""

from __future__ import annotations

import socket

from api import server


def test_faces_listen_without_nagles_algorithm() -> None:
    """asyncio turns it off where the socket's protocol is named, and nowhere else."""
    bound = server._bind("127.0.0.1", 0)
    try:
        assert bound.proto == socket.IPPROTO_TCP
    finally:
        bound.close()
