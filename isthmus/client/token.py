"""Bearer tokens of the native API."""

from __future__ import annotations

from collections.abc import Iterator

from isthmus import schema
from isthmus.client._resource import Bound, Collection, ask


class Token(Bound, schema.Token):
    """A token without its secret."""

    def delete(self) -> None:
        """Revoke it."""
        self._client.tokens.delete(self.id)


class TokenCreated(schema.TokenCreated):
    """The token, and its secret: shown this once."""

    token: Token


class Tokens(Collection[Token]):
    """``client.tokens``."""

    _path = "/v1/tokens"
    _model = Token

    def create(
        self,
        name: str,
        *,
        project: str | None = None,
        role: schema.Role | str | None = None,
        expires_in_s: int | None = None,
    ) -> TokenCreated:
        """Make a token for a project (the caller's own by default). ``role``: ``admin``, ``member``, ``reader``."""
        body = ask(schema.TokenCreate, name=name, project=project, role=role, expires_in_s=expires_in_s)
        return self._http.post(TokenCreated, self._path, body)

    def list(self) -> Iterator[Token]:
        """The project's tokens, without secrets."""
        return self._list()

    def delete(self, id: str) -> None:
        """Revoke a token."""
        self._http.delete(self._url(id))
