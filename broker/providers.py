"""The open providers: one per site."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path

import structlog
from sqlalchemy import inspect

from broker.errors import InvalidRequest
from broker.sealing import Sealer
from broker.signals import Signals
from broker.store import SITE_SETTINGS, SiteRow, Store
from providers.port import Capability, Factory, Provider, ProviderError, SiteContext, require, supports

log = structlog.get_logger()

Kinds = Mapping[str, Callable[[], Factory]]
"""Name of a kind of site -> what loads its provider."""


def installed_kinds() -> Kinds:
    """The kinds of site of all installed packages (entry-point group ``isthmus.providers``)."""
    return {point.name: point.load for point in entry_points(group="isthmus.providers")}


class Providers:
    """The open providers, one per site, made when first needed and made anew when the site's row changes."""

    def __init__(
        self,
        kinds: Kinds,
        *,
        broker_id: str,
        store: Store,
        sealer: Sealer,
        signals: Signals,
        data_dir: Path,
        call_timeout_s: float,
    ) -> None:
        self.kinds = kinds
        self._broker_id = broker_id
        self._store = store
        self._sealer = sealer
        self._signals = signals
        self._data_dir = data_dir
        self._call_timeout_s = call_timeout_s
        self._lock = threading.Lock()
        self._open: dict[str, tuple[str, Provider]] = {}
        self._watching = False
        self._news: set[tuple[str, str]] = set()

    def of(self, row: SiteRow) -> Provider:
        """The provider of a site. Raises SealError, InvalidRequest (kind not installed), ProviderError (options).

        A row that comes with its settings, as in each inventory, has the provider made anew when they changed.
        """
        bare = "options" in inspect(row).unloaded
        with self._lock:
            known = self._open.get(row.id)
        if known is not None and bare:
            return known[1]
        if bare:
            with self._store.reading() as session:
                row = session.get_one(SiteRow, row.id, options=[SITE_SETTINGS])
        mark = hashlib.sha256(
            json.dumps([row.kind, row.options, row.sealed_credentials], sort_keys=True).encode()
        ).hexdigest()
        with self._lock:
            known = self._open.get(row.id)
            if known is not None and known[0] == mark:
                return known[1]
            provider = self.make(row)
            self._open[row.id] = (mark, provider)
            watching = self._watching
        if known is not None:
            known[1].close()
        if watching:
            self._watch(provider)
        return provider

    def kind(self, name: str) -> Factory:
        """The provider of a kind of site. Raises InvalidRequest when it is not installed."""
        try:
            return self.kinds[name]()
        except KeyError:
            known = ", ".join(sorted(self.kinds))
            raise InvalidRequest(f"there is no kind of site {name!r}", hint=f"known kinds: {known}") from None
        except ImportError as error:
            raise InvalidRequest(
                f"sites of kind {name!r} need a package that is not installed: {error}",
                hint=f"pip install 'isthmus-server[{name}]'",
            ) from None

    def make(self, row: SiteRow) -> Provider:
        """A new provider for a row, not kept."""
        cache = self._cache(row.id)
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        credentials = json.loads(self._sealer.open(row.sealed_credentials))
        return self.kind(row.kind)(
            SiteContext(
                broker_id=self._broker_id,
                site_id=row.id,
                site_name=row.name,
                options=row.options,
                credentials=credentials,
                cache_dir=str(cache),
                call_timeout_s=self._call_timeout_s,
            )
        )

    def take_news(self) -> set[tuple[str, str]]:
        """(VM id, name of the host) of what sites told since the last time."""
        with self._lock:
            news, self._news = self._news, set()
        return news

    def watch(self) -> None:
        """From now on, news of every provider wakes the reconciler: of a VM (``take_news``), or of a whole site."""
        with self._lock:
            self._watching = True
            providers = [provider for _, provider in self._open.values()]
        for provider in providers:
            self._watch(provider)

    def drop(self, site_id: str) -> None:
        """Close the provider of a site that is gone, and remove what it kept: ssh wants its key in a file."""
        with self._lock:
            known = self._open.pop(site_id, None)
        if known is not None:
            known[1].close()
        shutil.rmtree(self._cache(site_id), ignore_errors=True)

    def close(self) -> None:
        """Close all."""
        with self._lock:
            providers = [provider for _, provider in self._open.values()]
            self._open.clear()
        for provider in providers:
            provider.close()

    def _cache(self, site_id: str) -> Path:
        return self._data_dir / "sites" / site_id

    def _watch(self, provider: Provider) -> None:
        if not supports(provider, Capability.EVENTS):
            return  # the reconciler's clock is all there is
        watched = require(provider, Capability.EVENTS)

        def notify(vm_id: str, host: str) -> None:
            if not vm_id:
                self._signals.set("reconcile")
                return
            with self._lock:
                self._news.add((vm_id, host))
            self._signals.set("news", tell=False)  # other brokers watch the sites themselves

        def run() -> None:
            try:
                watched.watch(notify)
            except ProviderError as error:
                log.warning("site.watch_failed", error=str(error))

        threading.Thread(target=run, name="isthmus-watch", daemon=True).start()
