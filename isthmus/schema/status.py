"""The broker itself."""

from __future__ import annotations

from isthmus.schema._base import Answer


class Status(Answer):
    """``burst``: ``open``, ``closed`` or ``off``; ``queue`` counts VMs that wait for a host."""

    version: str
    broker_id: str
    project: str
    role: str
    sites: int
    hosts: int
    vms: int
    queue: int
    burst: str
