"""``Capability.EVENTS``."""

from __future__ import annotations

import threading

import pytest

from providers import port
from providers.port import Capability, Provider
from tests.providers.contract.rig import Rig

pytestmark = pytest.mark.needs(Capability.EVENTS)


def test_watcher_hears_of_each_change_until_the_provider_is_closed(rig: Rig, provider: Provider) -> None:
    watched = rig.make()
    told: list[str] = []
    hosts: set[str] = set()

    def notify(vm_id: str, host: str) -> None:
        told.append(vm_id)
        assert host or not vm_id
        hosts.add(host)

    site = port.require(watched, Capability.EVENTS)
    thread = threading.Thread(target=site.watch, args=(notify,), daemon=True)
    thread.start()
    spec = rig.spec()

    def heard_first() -> list[str]:
        """It begins to listen at some moment: until then things happen unheard."""
        ref = rig.launch(provider, spec).ref
        provider.delete_vm(spec.host, spec.id, ref)
        return told

    another = iter(range(1000))

    def heard() -> list[str]:
        nonlocal spec
        spec = rig.spec(name=f"try-{next(another)}")
        return heard_first()

    rig.until(heard, "the first news")
    assert thread.is_alive(), "watch blocks until the provider is closed"
    told.clear()
    last = rig.spec()
    ref = rig.launch(watched, last).ref
    rig.until(lambda: {last.id, ""} & set(told), "news of a launch")
    told.clear()
    watched.delete_vm(last.host, last.id, ref)
    rig.until(lambda: {last.id, ""} & set(told), "news of a deletion")
    assert hosts <= {last.host, ""}
    watched.close()
    thread.join(rig.patience_s)
    assert not thread.is_alive(), "close ends watch"
