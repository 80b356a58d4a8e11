"""``Capability.CONSOLE``."""

from __future__ import annotations

import pytest

from providers import port
from providers.port import Capability, NotFound, Provider
from tests.providers.contract.rig import Rig

pytestmark = pytest.mark.needs(Capability.CONSOLE)


def test_console_is_the_newest_64_kib_in_bytes(rig: Rig, provider: Provider) -> None:
    site = port.require(provider, Capability.CONSOLE)
    spec = rig.spec()
    ref = rig.launch(provider, spec).ref
    shown = site.console_log(spec.host, ref)
    assert isinstance(shown, bytes)
    assert len(shown) <= 65536


def test_console_of_nothing_is_not_found(rig: Rig, provider: Provider) -> None:
    with pytest.raises(NotFound, match=rig.unknown_ref):
        port.require(provider, Capability.CONSOLE).console_log(rig.host, rig.unknown_ref)
