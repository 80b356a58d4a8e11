"""The burst policy: one file in force, and its earlier versions."""

from __future__ import annotations

from collections.abc import Iterator

from isthmus import schema
from isthmus.client._resource import Collection, ask


class Policies(Collection[schema.Policy]):
    """``client.policy``. ``text`` is the content of a policy file, ``name`` its name for the positions in errors."""

    _path = "/v1/policy"
    _model = schema.Policy

    def get(self) -> schema.Policy:
        """What is in force, with the value of each condition now. Raises NotFound before the first is applied."""
        return self._http.get(schema.Policy, self._path)

    def check(self, text: str, name: str | None = None) -> schema.PolicyCheck:
        """The mistakes of a policy file, with positions and mends; changes nothing."""
        return self._http.post(
            schema.PolicyCheck, f"{self._path}/check", ask(schema.PolicyText, text=text, name=name)
        )

    def apply(self, text: str, name: str | None = None) -> schema.Policy:
        """Put a policy file in force. Raises InvalidRequest (``invalid_policy``) with its mistakes."""
        return self._http.put(schema.Policy, self._path, ask(schema.PolicyText, text=text, name=name))

    def rehearse(self, text: str, name: str | None = None) -> schema.Rehearsal:
        """What a policy would do if it were in force now; changes nothing. Admins only. Raises as ``apply``."""
        return self._http.post(
            schema.Rehearsal, f"{self._path}/rehearse", ask(schema.PolicyText, text=text, name=name)
        )

    def versions(self) -> Iterator[schema.Policy]:
        """All that were ever in force, newest first."""
        return self._list(path=f"{self._path}/versions")
