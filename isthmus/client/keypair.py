"""Key pairs: SSH public keys that VMs let in."""

from __future__ import annotations

from collections.abc import Iterator

from isthmus import schema
from isthmus.client._resource import Collection, Resource, ask


class KeyPair(Resource, schema.KeyPair):
    """An SSH public key; the private half never reaches the broker."""


class KeyPairs(Collection[KeyPair]):
    """``client.keypairs``."""

    _path = "/v1/keypairs"
    _model = KeyPair

    def create(self, name: str, public_key: str) -> KeyPair:
        """Add a public key in OpenSSH's one-line form (``ssh-ed25519 AAAA... comment``)."""
        return self._http.post(
            KeyPair, self._path, ask(schema.KeyPairCreate, name=name, public_key=public_key)
        )

    def get(self, name: str) -> KeyPair:
        """One key pair."""
        return self._get(name)

    def list(self) -> Iterator[KeyPair]:
        """The project's key pairs."""
        return self._list()

    def delete(self, name: str) -> None:
        """Remove a key pair. VMs that have it keep it."""
        self._http.delete(self._url(name))
