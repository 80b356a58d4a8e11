"""A broker at work: its engine, with the duties that run beside the operations."""

from __future__ import annotations

from broker import burst, queue, reconcile, reservation, retention
from broker.broker import Broker
from broker.engine_port import Engine

_PLACE_S = 10.0
"""How often the queue is looked at without a signal: another broker on the same database signals in its own process."""


def start(broker: Broker, engine: Engine) -> None:
    """Upgrade nothing, serve no face: take up operations, watch the sites, evaluate the policy."""
    timing = broker.settings.timing
    engine.schedule("reconcile", timing.reconcile_s, lambda: reconcile.reconcile(broker, patience_s=5.0))
    engine.schedule("policy", timing.policy_s, lambda: burst.tick(broker))
    engine.schedule("reservation", _PLACE_S, lambda: reservation.tick(broker))
    engine.schedule("place", _PLACE_S, lambda: queue.place_pending(broker))
    engine.schedule(retention.DUTY, 3600.0, lambda: retention.tick(broker))
    engine.start()
    broker.providers.watch()


def stop(broker: Broker, engine: Engine) -> None:
    """Stop in the order that loses nothing: the engine first, then providers and the store."""
    engine.stop()
    broker.close()
