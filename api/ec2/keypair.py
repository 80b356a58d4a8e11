"""Key pairs: public keys that were imported. Private keys are made by who keeps them, never here."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from api.ec2 import ids
from api.ec2.call import Call, tag_list
from api.ec2.describe import Described, Named, describe
from api.ec2.fault import Fault, missing
from api.ec2.tag import of_specifications, tags_in
from broker import access, keypair
from broker.errors import InvalidRequest, NotFound
from broker.store import KeyPairRow


def describe_key_pairs(call: Call) -> dict[str, Any]:
    """DescribeKeyPairs."""
    return describe(call, _KEY_PAIRS)


def import_key_pair(call: Call) -> dict[str, Any]:
    """ImportKeyPair: an OpenSSH public key of any type that OpenSSH reads."""
    material = call.params["PublicKeyMaterial"]
    if not material:
        raise missing("PublicKeyMaterial")
    try:
        text = material.decode()
    except UnicodeDecodeError:
        raise Fault("InvalidKey.Format", "Key is not in valid OpenSSH public key format") from None
    tags = of_specifications(call.params.get("TagSpecifications", ()), "key-pair")
    access.require(call.actor, "keypair.create", call.actor.project_id)
    try:
        row = keypair.create(
            call.broker, call.actor, name=call.params["KeyName"], public_key=text, labels=tags
        )
    except InvalidRequest as error:
        raise Fault(
            "InvalidKey.Format", f"Key is not in valid OpenSSH public key format: {error.hint}"
        ) from error
    return {
        "KeyFingerprint": _fingerprint(row),
        "KeyName": row.name,
        "KeyPairId": row.id,
        "Tags": tag_list(tags),
    }


def delete_key_pair(call: Call) -> dict[str, Any]:
    """DeleteKeyPair; deleting what is not there succeeds."""
    name = call.params.get("KeyName") or call.params.get("KeyPairId")
    if not name:
        raise missing("KeyName")
    access.require(call.actor, "keypair.delete", call.actor.project_id)
    with suppress(NotFound):
        keypair.delete(call.broker, call.actor, name)
    return {"Return": True}


def _key_pair(row: KeyPairRow, with_key: bool) -> dict[str, Any]:
    kind = row.public_key.split(" ", 1)[0]
    return {
        "KeyType": {"ssh-ed25519": "ed25519", "ssh-rsa": "rsa"}.get(kind, kind),
        "KeyPairId": row.id,
        "Tags": tag_list(row.labels),
        "PublicKey": row.public_key if with_key else None,
        "CreateTime": row.created_at,
        "KeyName": row.name,
        "KeyFingerprint": _fingerprint(row),
    }


def _fingerprint(row: KeyPairRow) -> str:
    """EC2 writes the SHA-256 of a key in base64, without the scheme that OpenSSH puts before it."""
    return row.fingerprint.removeprefix("SHA256:")


_KEY_PAIRS: Described[KeyPairRow, dict[str, Any]] = Described(
    answer="KeyPairs",
    named=[
        Named(
            "KeyNames",
            "names",
            lambda _call, absent: Fault(
                "InvalidKeyPair.NotFound", f"The key pair '{absent[0]}' does not exist"
            ),
        ),
        # Whatever is no id is not there: EC2 has no other word for it.
        Named("KeyPairIds", "ids", lambda _call, absent: ids.KINDS["key"].not_found(absent)),
    ],
    fields={
        "fingerprint": lambda item: (item["KeyFingerprint"],),
        "key-name": lambda item: (item["KeyName"],),
        "key-pair-id": lambda item: (item["KeyPairId"],),
    },
    tags=tags_in,
    columns={"key-name": ("name", list), "key-pair-id": ("id", list)},
    find=lambda call, which: keypair.list_key_pairs(call.broker, call.actor, **which),
    items=lambda call, rows: [_key_pair(row, bool(call.params.get("IncludePublicKey"))) for row in rows],
    key=lambda row: row.name,
)
