"""WireGuard keys as ``wg`` itself makes and reads them."""

from __future__ import annotations

import base64
import shutil
import subprocess

import pytest

from vpn import keys


def test_a_generated_private_key_is_clamped() -> None:
    private, _ = keys.generate(lambda count: b"\xff" * count)
    raw = base64.b64decode(private)
    assert raw[0] == 0xF8
    assert raw[31] == 0x7F


def test_randomness_is_what_was_injected() -> None:
    assert keys.generate(lambda count: b"\x01" * count) == keys.generate(lambda count: b"\x01" * count)
    assert keys.generate() != keys.generate()


@pytest.mark.skipif(shutil.which("wg") is None, reason="needs wireguard-tools")
def test_public_keys_are_those_that_wg_computes() -> None:
    for _ in range(5):
        private, public = keys.generate()
        told = subprocess.run(["wg", "pubkey"], input=private, text=True, capture_output=True, check=True)
        assert told.stdout.strip() == public


@pytest.mark.parametrize(
    "text",
    [
        "",
        "short",
        base64.b64encode(b"x" * 31).decode(),
        base64.b64encode(b"x" * 33).decode(),
        base64.b64encode(b"x" * 32).decode() + "\n",
        base64.b64encode(b"x" * 32).decode().rstrip("="),
        # the same 32 bytes, with bits set that base64 throws away: wg refuses it
        base64.b64encode(b"x" * 32).decode()[:-2] + "h=",
        "é" * 44,
    ],
)
def test_what_wg_would_refuse_is_no_key(text: str) -> None:
    assert not keys.is_key(text)
    with pytest.raises(ValueError, match="not a WireGuard key"):
        keys.public_of(text)
