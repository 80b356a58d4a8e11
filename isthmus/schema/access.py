"""Who may do what."""

from __future__ import annotations

from pydantic import Field

from isthmus.schema._base import Answer


class Permission(Answer):
    """``scope``: where a grant must be: in the thing's ``project``, in ``any``, in every one (``broker``), or one's own
    ``gateway``."""

    name: str
    scope: str
    roles: list[str] = Field(description="The roles that have it, the least first.")
    description: str


class Grant(Answer):
    """A role in a project; ``*`` is every project."""

    project: str
    role: str


class Can(Answer):
    """Whether somebody may do something, the grant that decides it, and what would be needed."""

    allowed: bool
    who: str
    action: str
    what: str
    project: str | None = Field(default=None, description="That the thing belongs to.")
    scope: str = Field(description="Where a grant must be: project, any, broker or gateway.")
    roles: list[str] = Field(description="The roles that would do, the least first.")
    grants: list[Grant] = Field(description="All grants of who is asked about.")
    grant: Grant | None = Field(
        default=None, description="The one that decides it; none when it is not allowed."
    )
    reason: str
