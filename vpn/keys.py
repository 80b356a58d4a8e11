"""WireGuard keys: X25519 scalars and points, 32 bytes in base64 (RFC 7748; ``wg(8)``)."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

KEY_BYTES = 32


def generate(random: Callable[[int], bytes] = os.urandom) -> tuple[str, str]:
    """A fresh (private, public) pair in base64. The private key is clamped, as ``wg genkey`` does."""
    scalar = bytearray(random(KEY_BYTES))
    scalar[0] &= 248
    scalar[31] = (scalar[31] & 127) | 64
    private = base64.b64encode(bytes(scalar)).decode("ascii")
    return private, public_of(private)


def public_of(private: str) -> str:
    """The public key of a private one, both base64. Raises ValueError when the text is not a key."""
    if not is_key(private):
        raise ValueError("not a WireGuard key: 32 bytes in base64 are expected")
    key = X25519PrivateKey.from_private_bytes(base64.b64decode(private))
    public = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return base64.b64encode(public).decode("ascii")


def is_key(text: str) -> bool:
    """Whether the text is the canonical base64 of 32 bytes: the only form that ``wg`` accepts and shows."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return len(raw) == KEY_BYTES and base64.b64encode(raw).decode("ascii") == text
