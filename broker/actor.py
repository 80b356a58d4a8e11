"""Who asks: an actor has grants, each a role in a project, and a name for the audit trail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ADMIN = "admin"
MEMBER = "member"
READER = "reader"
GATEWAY = "gateway"
"""The role of a gateway's agent: its own document and its own peers, nothing else."""

EVERY_PROJECT = "*"
"""In place of a project's id in a grant: all projects, and what belongs to the whole broker."""


@dataclass(frozen=True)
class Actor:
    """An authenticated caller: ``Actor(project_id, role, name)`` has the one grant that a token or an access key carries.

    ``project_id`` is its current project: what it creates goes there, and names are looked up there. ``role`` is its
    role in it; an ``admin`` has that role in every project. ``grants`` maps project ids to roles; those that are handed
    in are had besides. What a role may is said in ``broker/access.py`` alone. ``gateway_id`` is set for a gateway's agent.
    """

    project_id: str
    role: str
    name: str
    gateway_id: str | None = None
    grants: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        first = EVERY_PROJECT if self.role == ADMIN else self.project_id
        object.__setattr__(self, "grants", {first: self.role} | dict(self.grants))


SYSTEM = Actor(project_id="", role=ADMIN, name="system")
"""The broker itself: reconciler, policy and operations."""
