"""A broker at work: its engine, with the duties that run beside the operations."""

from __future__ import annotations

import gc

from broker import burst, claim, queue, reconcile, reservation, retention
from broker.broker import Broker
from broker.bus import Bus
from broker.clock import DatabaseClock
from broker.engine_port import Engine

_PLACE_S = 10.0
"""How often the queue is looked at without a signal: another broker on the same database signals in its own process."""
_REST_S = 1.0
"""How long the policy rests, however often it is signalled: each request for a VM does."""
_COLLECT_AFTER = (5_000, 20, 100)
"""See gc.set_threshold(): a search of everything once in ten million objects, not in seventy thousand."""


def start(broker: Broker, engine: Engine) -> None:
    """Upgrade nothing, serve no face: take up operations, watch the sites, evaluate the policy."""
    timing = broker.settings.timing
    engine.schedule(
        "reconcile",
        timing.reconcile_s,
        lambda: reconcile.reconcile(broker, 5.0, engine.turns, 0.8 * timing.reconcile_s),
        shared=True,
    )
    engine.schedule("news", _PLACE_S, lambda: reconcile.hear(broker), shared=True)
    engine.schedule("policy", timing.policy_s, lambda: burst.tick(broker), rest_s=_REST_S)
    engine.schedule("reservation", _PLACE_S, lambda: reservation.tick(broker))
    engine.schedule("place", _PLACE_S, lambda: queue.place_pending(broker))
    engine.schedule("claims", 3600.0, lambda: claim.mend(broker))
    engine.schedule(retention.DUTY, 3600.0, lambda: retention.tick(broker))
    if not broker.store.is_sqlite:
        clock = broker.clock if isinstance(broker.clock, DatabaseClock) else None
        broker.bus = Bus(broker.store, broker.signals, clock)
        broker.bus.start()
    engine.start()
    broker.providers.watch()


def freeze() -> None:
    """Leave what this process has loaded so far out of the searches for garbage.

    Code, models and hosts are there to stay, and a search through all of them stops every thread: with 3,200 hosts for a
    quarter of a second, every few seconds. Most garbage is freed without such searches, by reference counts.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)


def stop(broker: Broker, engine: Engine) -> None:
    """Stop in the order that loses nothing: the engine first, then providers and the store."""
    engine.stop()
    if broker.bus is not None:
        broker.bus.stop()
    broker.close()
