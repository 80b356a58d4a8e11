"""What a provider sees of a VM that is certainly there."""

from __future__ import annotations

from providers.port import Provider, VMReport


def observed(provider: Provider, host: str, vm_id: str, ref: str = "") -> VMReport:
    report = provider.observe_vm(host, vm_id, ref)
    assert report is not None, f"{vm_id} is not on {host}"
    return report
