"""The client: one broker, and a collection of calls for each noun."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Mapping
from functools import cached_property
from random import random as _random
from typing import TYPE_CHECKING, Self

from isthmus.client._settings import load_settings

if TYPE_CHECKING:
    from isthmus.client._http import Connection, Transport
    from isthmus.client.accesskey import AccessKeys
    from isthmus.client.event import Events
    from isthmus.client.expression import Expressions
    from isthmus.client.flavor import Flavors
    from isthmus.client.gateway import Gateways
    from isthmus.client.host import Hosts
    from isthmus.client.image import Images
    from isthmus.client.keypair import KeyPairs
    from isthmus.client.migration import Migrations
    from isthmus.client.network import Networks
    from isthmus.client.operation import Operations
    from isthmus.client.peer import Peers
    from isthmus.client.policy import Policies
    from isthmus.client.project import Projects
    from isthmus.client.reservation import Reservations
    from isthmus.client.site import Sites
    from isthmus.client.token import Tokens
    from isthmus.client.usage import Usages
    from isthmus.client.vm import VMs
    from isthmus.schema import Status


class Client:
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

    # One collection for each noun, loaded when first used: a command needs one or two of them.

    @cached_property
    def vms(self) -> VMs:
        """Virtual machines."""
        from isthmus.client.vm import VMs

        return VMs(self)

    @cached_property
    def sites(self) -> Sites:
        """Sites: KVM hosts, or a cloud's region, behind one provider."""
        from isthmus.client.site import Sites

        return Sites(self)

    @cached_property
    def hosts(self) -> Hosts:
        """Hosts of the sites."""
        from isthmus.client.host import Hosts

        return Hosts(self)

    @cached_property
    def flavors(self) -> Flavors:
        """Sizes of VMs."""
        from isthmus.client.flavor import Flavors

        return Flavors(self)

    @cached_property
    def images(self) -> Images:
        """Disk images."""
        from isthmus.client.image import Images

        return Images(self)

    @cached_property
    def keypairs(self) -> KeyPairs:
        """SSH public keys."""
        from isthmus.client.keypair import KeyPairs

        return KeyPairs(self)

    @cached_property
    def usage(self) -> Usages:
        """What projects used, and what it cost."""
        from isthmus.client.usage import Usages

        return Usages(self)

    @cached_property
    def expressions(self) -> Expressions:
        """Requirements and ranks, looked at before they are used."""
        from isthmus.client.expression import Expressions

        return Expressions(self)

    @cached_property
    def reservations(self) -> Reservations:
        """Room that is kept for a time."""
        from isthmus.client.reservation import Reservations

        return Reservations(self)

    @cached_property
    def migrations(self) -> Migrations:
        """Live migrations that pack, balance or drain hosts."""
        from isthmus.client.migration import Migrations

        return Migrations(self)

    @cached_property
    def networks(self) -> Networks:
        """Private networks and their subnets."""
        from isthmus.client.network import Networks

        return Networks(self)

    @cached_property
    def gateways(self) -> Gateways:
        """The sites' WireGuard gateways."""
        from isthmus.client.gateway import Gateways

        return Gateways(self)

    @cached_property
    def peers(self) -> Peers:
        """Burst VMs' ends of the tunnels."""
        from isthmus.client.peer import Peers

        return Peers(self)

    @cached_property
    def policy(self) -> Policies:
        """The burst policy."""
        from isthmus.client.policy import Policies

        return Policies(self)

    @cached_property
    def operations(self) -> Operations:
        """Long-running changes."""
        from isthmus.client.operation import Operations

        return Operations(self)

    @cached_property
    def events(self) -> Events:
        """What happened, and what the broker decided."""
        from isthmus.client.event import Events

        return Events(self)

    @cached_property
    def projects(self) -> Projects:
        """Projects and their quotas."""
        from isthmus.client.project import Projects

        return Projects(self)

    @cached_property
    def tokens(self) -> Tokens:
        """Bearer tokens of this API."""
        from isthmus.client.token import Tokens

        return Tokens(self)

    @cached_property
    def accesskeys(self) -> AccessKeys:
        """Access keys of the EC2 face."""
        from isthmus.client.accesskey import AccessKeys

        return AccessKeys(self)
