"""Which engine a broker runs on."""

from __future__ import annotations

from broker.broker import Broker
from broker.engine.lease import LeaseEngine
from broker.engine_port import Engine


def engine_for(broker: Broker) -> Engine:
    """Leases on rows where the store is ours alone (SQLite), DBOS where several brokers share one (PostgreSQL)."""
    if broker.store.is_sqlite:
        return LeaseEngine(broker)
    from broker.engine.dbos import DbosEngine  # which needs seconds to import, and is of no use otherwise

    return DbosEngine(broker)
