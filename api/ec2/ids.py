"""EC2's ids and the broker's: the same hexadecimal digits under another prefix."""

from __future__ import annotations

import re

from api.ec2.fault import Fault

_DIGITS = re.compile(r"[0-9a-f]{17}|[0-9a-f]{8}")

# EC2 prefix -> (the broker's, what a malformed id is called)
_KINDS = {
    "i": ("vm", "InvalidInstanceID.Malformed"),
    "ami": ("img", "InvalidAMIID.Malformed"),
    "subnet": ("sub", "InvalidSubnetID.Malformed"),
    "vpc": ("net", "InvalidVpcID.Malformed"),
}


def to_ec2(broker_id: str) -> str:
    """``vm-...`` as ``i-...``, ``img-`` as ``ami-``, ``sub-`` as ``subnet-``, ``net-`` as ``vpc-``."""
    prefix, _, digits = broker_id.partition("-")
    ours = next(ec2 for ec2, (broker, _) in _KINDS.items() if broker == prefix)
    return f"{ours}-{digits}"


def to_broker(prefix: str, ec2_id: str) -> str:
    """The broker's id for an EC2 id that must have the given prefix. Raises Fault (``....Malformed``)."""
    broker, malformed = _KINDS[prefix]
    given, dash, digits = ec2_id.partition("-")
    if given != prefix or not dash or not _DIGITS.fullmatch(digits):
        raise Fault(malformed, f'Invalid id: "{ec2_id}" (expecting "{prefix}-...")')
    return f"{broker}-{digits}"


def is_broker_id(text: str) -> bool:
    """Whether a name looks like one of the broker's ids, and so must not be given to anything else."""
    prefix, _, digits = text.partition("-")
    return any(prefix == broker for broker, _ in _KINDS.values()) and bool(_DIGITS.fullmatch(digits))
