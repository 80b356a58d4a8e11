"""What is remembered of a host's KVM, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from providers.kvm import driver
from providers.kvm.acceleration import ProbeCache, boot_sector, kvm_boots


class Refusal(driver.LibvirtError):
    def __init__(self, text: str, code: int) -> None:
        Exception.__init__(self, text)
        self._code = code

    def get_error_code(self) -> int:
        return self._code


class RefusingPool:
    """A pool in which no volume can be made."""

    def __init__(self, refusal: Refusal) -> None:
        self._refusal = refusal

    def createXML(self, _xml: str, _flags: int) -> None:
        raise self._refusal

    def storageVolLookupByName(self, _name: str) -> None:
        raise Refusal("no volume", driver.api.VIR_ERR_NO_STORAGE_VOL)


def test_boot_sector_is_one_that_a_bios_boots() -> None:
    assert len(boot_sector()) == 512
    assert boot_sector().endswith(b"\x55\xaa")


def test_qemu_that_gives_up_is_a_verdict() -> None:
    refusal = Refusal("qemu unexpectedly closed the monitor", driver.api.VIR_ERR_INTERNAL_ERROR)
    assert kvm_boots(None, RefusingPool(refusal), "/pool", cpu_mode="host-model") == (False, str(refusal))


@pytest.mark.parametrize("text", ["Cannot recv data: Connection reset by peer", "Cannot allocate memory"])
def test_host_out_of_reach_or_memory_is_no_verdict(text: str) -> None:
    refusal = Refusal(text, driver.api.VIR_ERR_SYSTEM_ERROR)
    with pytest.raises(Refusal, match=text):
        kvm_boots(None, RefusingPool(refusal), "/pool", cpu_mode="host-model")


def test_kvm_that_was_refused_is_tried_again_after_a_day(tmp_path: Path) -> None:
    now = [0.0]
    cache = ProbeCache(str(tmp_path), clock=lambda: now[0])
    assert cache.get("host") is None
    cache.put("host", False, "hangs")
    assert ProbeCache(str(tmp_path), clock=lambda: now[0]).get("host") is False
    now[0] = 25 * 3600.0
    assert cache.get("host") is None
    cache.put("host", True, "boots")
    now[0] = 1e9
    assert cache.get("host") is True
