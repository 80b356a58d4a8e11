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
