"""Hosts and clouds in memory: the provider that tests, demonstrations and dry runs use.

It keeps the promises of ``providers/port.py`` and refuses what a real site would refuse; latencies and
failures come to order. ``World`` is the site itself, for tests that reach behind the provider's back.
"""

from providers.simulated.options import Failure
from providers.simulated.provider import SimulatedProvider
from providers.simulated.world import SimulatedVM, World

__all__ = ["Failure", "SimulatedProvider", "SimulatedVM", "World"]
