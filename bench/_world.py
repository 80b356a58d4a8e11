"""Simulated sites that several brokers share: they run in a process of their own, as real sites do."""

from __future__ import annotations

import functools
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.managers import BaseManager
from pathlib import Path
from typing import Any

from bench._filled import populate_world
from broker.broker import Broker
from broker.providers import Kinds
from broker.settings import Settings
from broker.store import Store
from providers.port import SiteContext
from providers.simulated import SimulatedProvider
from providers.simulated.options import METHODS

_POLL_S = 0.5


class _Sites:
    """What is in the process of the sites."""

    def __init__(self) -> None:
        self._providers: dict[str, SimulatedProvider] = {}

    def fill(self, settings: Settings) -> None:
        """Have the sites run what the database says."""
        broker = Broker(settings, store=Store(settings.database_url), kinds=IN_PROCESS)
        populate_world(broker)
        broker.close()

    def open(self, context: SiteContext) -> None:
        """Have a provider of a site, for ``call``: its options, which name thousands of hosts, come here once."""
        self._providers[context.site_id] = SimulatedProvider(context)

    def call(self, site_id: str, method: str, *given: Any, **named: Any) -> Any:
        """Call a method of a site's provider. Raises what that raises."""
        return getattr(self._providers[site_id], method)(*given, **named)

    def news(self, site_id: str, position: int) -> tuple[int, list[tuple[str, str]]]:
        """As ``World.wait_for_news``."""
        return SimulatedProvider.world(site_id).wait_for_news(position, _POLL_S)


class _Manager(BaseManager):
    """The process of the sites, and the way to it."""


@functools.cache
def _sites() -> _Sites:
    return _Sites()


_Manager.register("sites", callable=_sites, exposed=("fill", "open", "call", "news"))


class SharedProvider(SimulatedProvider):
    """A simulated site in the process of the sites: every call goes there, and nobody is told how far it is."""

    def __init__(self, address: str, authkey: bytes, context: SiteContext) -> None:
        super().__init__(context)
        manager = _Manager(address, authkey)
        manager.connect()
        self._there = manager.sites()  # type: ignore[attr-defined]
        self._there.open(context)

    def watch(self, notify: Callable[[str, str], None]) -> None:
        position = -1
        while not self._closed.is_set():
            position, news = self._there.news(self._context.site_id, position)
            for vm_id, host in news:
                notify(vm_id, host)


def _distant(method: str) -> Callable[..., Any]:
    def call(self: SharedProvider, *given: Any, **named: Any) -> Any:
        given = tuple(one for one in given if not callable(one))
        named = {name: one for name, one in named.items() if not callable(one)}
        return self._there.call(self._context.site_id, method, *given, **named)

    return call


for _method in METHODS:
    setattr(SharedProvider, _method, _distant(_method))

IN_PROCESS: Kinds = {"simulated": lambda: SimulatedProvider}
"""The sites are in the process of the only broker."""


def shared(address: str, authkey: bytes) -> Kinds:
    """Kinds of site for a broker beside others. Both are what ``process_of_sites`` yields."""
    return {"simulated": lambda: functools.partial(SharedProvider, address, authkey)}


@contextmanager
def process_of_sites(folder: Path, settings: Settings) -> Iterator[tuple[str, bytes]]:
    """Run the sites as the database says; (address, key) for ``shared``. The process ends with the block."""
    address, authkey = str(folder / "sites.sock"), os.urandom(16)
    manager = _Manager(address, authkey, ctx=multiprocessing.get_context("spawn"))
    manager.start()
    try:
        manager.sites().fill(settings)  # type: ignore[attr-defined]
        yield address, authkey
    finally:
        manager.shutdown()
