"""EC2's ids and the broker's: the same hexadecimal digits under another prefix."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from api.ec2.fault import Fault

_DIGITS = re.compile(r"[0-9a-f]{17}|[0-9a-f]{8}")


@dataclass(frozen=True)
class Kind:
    """One kind of thing with an id. ``prefix`` is EC2's and ``broker_prefix`` the broker's; ``resource_type`` is EC2's word
    for it in tags and ``noun`` the broker's; ``code`` begins its error codes, and ``title`` its messages."""

    prefix: str
    broker_prefix: str
    resource_type: str
    noun: str
    code: str
    title: str

    def not_found(self, ec2_ids: Sequence[str]) -> Fault:
        """None of these is there."""
        names = ", ".join(ec2_ids)
        many = len(ec2_ids) != 1
        return Fault(
            f"{self.code}.NotFound",
            f"The {self.title} ID{'s' if many else ''} '{names}' do{'' if many else 'es'} not exist",
        )


KINDS = {
    kind.prefix: kind
    for kind in (
        Kind("i", "vm", "instance", "vm", "InvalidInstanceID", "instance"),
        Kind("ami", "img", "image", "image", "InvalidAMIID", "image"),
        Kind("key", "key", "key-pair", "keypair", "InvalidKeyPair", "key pair"),
        Kind("subnet", "sub", "subnet", "subnet", "InvalidSubnetID", "subnet"),
        Kind("vpc", "net", "vpc", "network", "InvalidVpcID", "vpc"),
    )
}
"""By EC2's prefix."""
_BROKERS = {kind.broker_prefix: kind for kind in KINDS.values()}


def to_ec2(broker_id: str) -> str:
    """``vm-...`` as ``i-...``, ``img-`` as ``ami-``, ``sub-`` as ``subnet-``, ``net-`` as ``vpc-``."""
    prefix, _, digits = broker_id.partition("-")
    return f"{_BROKERS[prefix].prefix}-{digits}"


def interface(nic_id: str) -> str:
    """``nic-...`` as ``eni-...``. A network interface is shown with its instance alone, and is no kind of its own yet."""
    return f"eni-{nic_id.partition('-')[2]}"


def to_broker(prefix: str, ec2_id: str) -> str:
    """The broker's id for an EC2 id that must have the given prefix. Raises Fault (``....Malformed``)."""
    kind = KINDS[prefix]
    given, dash, digits = ec2_id.partition("-")
    if given != prefix or not dash or not _DIGITS.fullmatch(digits):
        raise Fault(f"{kind.code}.Malformed", f'Invalid id: "{ec2_id}" (expecting "{prefix}-...")')
    return f"{kind.broker_prefix}-{digits}"


def known(ec2_ids: Sequence[str]) -> Iterator[str]:
    """The broker's ids of those that look like any."""
    for ec2_id in ec2_ids:
        prefix = ec2_id.partition("-")[0]
        if prefix in KINDS:
            with suppress(Fault):
                yield to_broker(prefix, ec2_id)


def is_broker_id(text: str) -> bool:
    """Whether a name looks like one of the broker's ids, and so must not be given to anything else."""
    prefix, _, digits = text.partition("-")
    return prefix in _BROKERS and bool(_DIGITS.fullmatch(digits))
