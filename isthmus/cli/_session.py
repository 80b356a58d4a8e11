"""What the root command hands to every other: the client, made when first asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from isthmus.client._client import Client
    from isthmus.client._http import Transport


@dataclass
class Session:
    """The root command's options; ``transport`` and ``environ`` are for tests."""

    url: str | None = None
    token: str | None = None
    ca: str | None = None
    transport: Transport | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)

    @cached_property
    def client(self) -> Client:
        """The client. Raises ConfigurationError."""
        from isthmus.client._client import Client

        return Client(self.url, self.token, self.ca, transport=self.transport, environ=self.environ)


def client_of(ctx: typer.Context) -> Client:
    """The client of the running command."""
    session = ctx.find_object(Session)
    assert session is not None, "main() gives every command its session"  # noqa: S101
    return session.client
