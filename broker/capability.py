"""What a site can do, asked before it is used: a site that cannot is refused in words, before anything is written."""

from __future__ import annotations

from contextlib import suppress

from broker.broker import Broker
from broker.errors import BrokerError, WrongState
from broker.store import SiteRow
from providers.port import SUPPORT, Capability, ProviderError, Unsupported, require, supports

_HINTS = {
    Capability.STOP: "shut it down from inside, or delete it",
    Capability.REBOOT: "reboot it from inside",
    Capability.SUSPEND: "`isthmus vm stop` gives its room back where it can be stopped",
    Capability.MIGRATE: "delete it and create it anew where it shall be",
    Capability.CONSOLE: "log in over SSH",
}


def check(broker: Broker, at: SiteRow | None, capability: Capability, name: str, *, verb: str = "") -> None:
    """Raises WrongState when the site of the VM ``name`` cannot do that. A VM that has no site yet has no such limit.

    ``verb``: what is refused, where it is not what the capability is called after (``start``, which ``STOP`` brings).
    """
    if at is None:
        return
    try:
        require(broker.providers.of(at), capability)
    except Unsupported:
        words = f"{verb} {name}" if verb else SUPPORT[capability].words.format(name)
        raise WrongState(
            f"cannot {words}: site {at.name}, of kind {at.kind}, does not do that",
            hint=_HINTS.get(capability, ""),
        ) from None


def has(broker: Broker, at: SiteRow, capability: Capability) -> bool:
    """Whether a site can do that. One whose provider cannot be made does nothing, and holds up nobody."""
    with suppress(BrokerError, ProviderError):
        return supports(broker.providers.of(at), capability)
    return False
