"""Key pairs: SSH public keys that VMs let in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from isthmus import schema
from isthmus.client._resource import Collection, Resource, ask, label_texts


class KeyPair(Resource, schema.KeyPair):
    """An SSH public key; the private half never reaches the broker."""


class KeyPairs(Collection[KeyPair]):
    """``client.keypairs``."""

    _path = "/v1/keypairs"
    _model = KeyPair

    def create(self, name: str, public_key: str, *, labels: Mapping[str, str] | None = None) -> KeyPair:
        """Add a public key in OpenSSH's one-line form (``ssh-ed25519 AAAA... comment``)."""
        body = ask(schema.KeyPairCreate, name=name, public_key=public_key, labels=labels)
        return self._http.post(KeyPair, self._path, body)

    def get(self, name: str) -> KeyPair:
        """One key pair."""
        return self._get(name)

    def list(self, *, labels: Mapping[str, str] | None = None) -> Iterator[KeyPair]:
        """The project's key pairs; with ``labels``, those that carry all of them."""
        return self._list({"label": label_texts(labels)})

    def delete(self, name: str) -> None:
        """Remove a key pair. VMs that have it keep it."""
        self._http.delete(self._url(name))
