"""Who asks: a project, a role in it, and a name for the audit trail."""

from __future__ import annotations

from dataclasses import dataclass

from broker.errors import Forbidden, InvalidRequest

ADMIN = "admin"
MEMBER = "member"
READER = "reader"
GATEWAY = "gateway"
"""The role of a gateway's agent: its own document and its own peers, nothing else."""

_RANKS = {READER: 1, MEMBER: 2, ADMIN: 3}


@dataclass(frozen=True)
class Actor:
    """An authenticated caller. ``gateway_id`` is set for a gateway's agent only."""

    project_id: str
    role: str
    name: str
    gateway_id: str | None = None

    @property
    def is_admin(self) -> bool:
        """Whether the caller may see and change everything."""
        return self.role == ADMIN

    def require(self, role: str) -> None:
        """Raise Forbidden unless the caller's role is at least ``role``."""
        if role not in _RANKS:
            raise InvalidRequest(f"there is no role {role!r}", hint=f"roles are {', '.join(_RANKS)}")
        if _RANKS.get(self.role, 0) < _RANKS[role]:
            raise Forbidden(
                f"this needs the role {str(role)!r}, and {self.name!r} has {self.role!r}",
                hint=f"use a token with the role {str(role)!r}",
            )


SYSTEM = Actor(project_id="", role=ADMIN, name="system")
"""The broker itself: reconciler, policy and operations."""
