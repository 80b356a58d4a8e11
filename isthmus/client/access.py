"""Who may do what: the table of permissions, and what it says of somebody."""

from __future__ import annotations

from collections.abc import Iterator

from isthmus import schema
from isthmus.client._resource import Collection


class Access(Collection[schema.Permission]):
    """``client.auth``."""

    _path = "/v1/auth"
    _model = schema.Permission

    def can(self, action: str, what: str | None = None, *, who: str | None = None) -> schema.Can:
        """Whether the caller, or ``who`` (a token's name or id, an access key's id), may do something, and why.

        ``what`` is a thing as ``vm:web``, a name or id of the action's own noun, or a project; by default the current
        project of ``who``. Others than admins ask about themselves, members also about those of their project.
        Raises NotFound for who or what they may not see, InvalidRequest for a permission that there is not.
        """
        return self._http.get(schema.Can, f"{self._path}/can", {"action": action, "what": what, "who": who})

    def permissions(self, role: schema.Role | str | None = None) -> Iterator[schema.Permission]:
        """The table of permissions, by name; with ``role`` what that role has."""
        return self._list({"role": str(role) if role else None}, f"{self._path}/permissions")
