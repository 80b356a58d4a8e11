"""Resource ids: a prefix and 17 hexadecimal digits, the form EC2 uses, so that faces map ids without a table."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable

Ids = Callable[[str], str]
"""Makes a new id for a prefix."""


def random_id(prefix: str) -> str:
    """A new id such as ``vm-0123456789abcdef0``."""
    return f"{prefix}-{secrets.token_hex(9)[:17]}"


def vm_uuid(broker_id: str, vm_id: str) -> str:
    """The VM's UUID at every provider: derived, so that a repeated launch makes the same machine (RFC 9562, v5)."""
    return str(uuid.uuid5(uuid.uuid5(uuid.NAMESPACE_URL, f"isthmus:{broker_id}"), vm_id))


def mac_of(nic_id: str) -> str:
    """The MAC of a NIC, made of the last digits of its id: it is there before the NIC is anywhere, and never changes.

    Locally administered and unicast (IEEE 802, bits 1 and 0 of the first octet). The first octet is never ``fe``, which libvirt
    keeps for the host's end.
    """
    first, *others = bytes.fromhex(nic_id[-12:])
    return ":".join(f"{octet:02x}" for octet in (first & 0x7C | 0x02, *others))
