"""Access keys of the EC2 face."""

from __future__ import annotations

from collections.abc import Iterator

from isthmus import schema
from isthmus.client._resource import Bound, Collection, ask


class AccessKey(Bound, schema.AccessKey):
    """An access key without its secret."""

    def delete(self) -> None:
        """Revoke it."""
        self._client.accesskeys.delete(self.id)


class AccessKeyCreated(schema.AccessKeyCreated):
    """The access key, and its secret: shown this once."""

    access_key: AccessKey


class AccessKeys(Collection[AccessKey]):
    """``client.accesskeys``."""

    _path = "/v1/accesskeys"
    _model = AccessKey

    def create(
        self, *, project: str | None = None, role: schema.Role | str | None = None
    ) -> AccessKeyCreated:
        """Make an access key for boto3 and awscli."""
        body = ask(schema.AccessKeyCreate, project=project, role=role)
        return self._http.post(AccessKeyCreated, self._path, body)

    def list(self) -> Iterator[AccessKey]:
        """The project's access keys, without secrets."""
        return self._list()

    def delete(self, id: str) -> None:
        """Revoke an access key."""
        self._http.delete(self._url(id))
