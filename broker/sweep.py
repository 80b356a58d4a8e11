"""Subnets that hosts still have and no network has any more: taken away, since another may have their prefix next.

It is looked for when a process begins, and when a subnet was removed, until every host of the site has answered and
has none left.
"""

from __future__ import annotations

import structlog
from sqlalchemy import select

from broker.broker import Broker
from broker.store import SiteRow, SubnetRow
from providers.port import Capability, Conflict, Listing, ProviderError, require, supports

NEWS = "subnets"
"""The signal that one was removed."""

log = structlog.get_logger()


class Swept:
    """Which sites of a process have nothing left."""

    def __init__(self, _broker: Broker) -> None:
        self.at: dict[str, int] = {}
        """Site id -> the count of ``NEWS`` at which it had nothing left."""


def sweep(broker: Broker, at: SiteRow, listing: Listing) -> None:
    """Take from a site's hosts the subnets that no row has; ``listing`` says which hosts answer.

    One that a machine is on is left alone, until the next time. Raises ProviderError.
    """
    swept, news = broker.part(Swept), broker.signals.count(NEWS)
    provider = broker.providers.of(at)
    if swept.at.get(at.id) == news or not supports(provider, Capability.SUBNETS):
        return
    hosts = require(provider, Capability.SUBNETS)
    found = hosts.list_networks()
    # Read after what hosts have: a subnet is in its row before it is on a host.
    with broker.store.reading() as session:
        known = set(session.scalars(select(SubnetRow.id).where(SubnetRow.site_id == at.id)))
    clean = not listing.unreachable and listing.complete <= found.keys()
    for host, networks in found.items():
        for network_id in sorted(set(networks) - known):
            try:
                hosts.remove_network(host, network_id)
            except Conflict as error:
                log.warning("subnet.stays", site=at.name, host=host, subnet=network_id, error=str(error))
                clean = False
            except ProviderError as error:
                log.warning("subnet.unreachable", site=at.name, host=host, error=str(error))
                clean = False
            else:
                log.info("subnet.removed", site=at.name, host=host, subnet=network_id)
    if clean:
        swept.at[at.id] = news
