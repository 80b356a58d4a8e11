"""The client: one broker, and a collection of calls for each noun of the table, loaded when first used."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Mapping
from functools import cached_property
from random import random as _random
from typing import TYPE_CHECKING, Self

from isthmus.client._settings import load_settings
from isthmus.nouns import Nouns

if TYPE_CHECKING:
    from isthmus.client._http import Connection, Transport
    from isthmus.schema import Status


class Client(Nouns):
    """A broker's native API::

        client = isthmus.Client()
        vm = client.vms.create(name="web", image="debian", flavor="small")
        vm.wait_until("running")

    ``url``, ``token`` and ``ca`` (a file of PEM certificates) default to ``ISTHMUS_URL``, ``ISTHMUS_TOKEN``,
    ``ISTHMUS_CA``, then to ``~/.config/isthmus/client.toml``. ``timeout`` is in seconds, for each request.
    Nothing is sent before the first call. May be used from several threads, and as a context manager.

    ``transport`` (an httpx2 transport), ``environ``, ``sleep``, ``clock`` (seconds, monotonic), ``random`` (0 to 1)
    and ``new_key`` are for tests. Raises ConfigurationError.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        ca: str | None = None,
        timeout: float = 30.0,
        transport: Transport | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = _random,
        new_key: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        self._settings = load_settings(url, token, ca, os.environ if environ is None else environ)
        self._timeout = timeout
        self._transport = transport
        self._sleep = sleep
        self._clock = clock
        self._random = random
        self._new_key = new_key

    @property
    def url(self) -> str:
        """The broker's address."""
        return self._settings.url

    @cached_property
    def _http(self) -> Connection:
        from isthmus import __version__
        from isthmus.client._http import Connection

        return Connection(
            self._settings,
            timeout=self._timeout,
            transport=self._transport,
            user_agent=f"isthmus/{__version__}",
            context=self,
            sleep=self._sleep,
            random=self._random,
            new_key=self._new_key,
        )

    def close(self) -> None:
        """Drop the connections."""
        if "_http" in self.__dict__:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client(url={self.url!r})"

    def status(self) -> Status:
        """The broker itself: its version, counts, and whether bursts are open. Also shows who the caller is."""
        from isthmus.schema import Status

        return self._http.get(Status, "/v1/status")
