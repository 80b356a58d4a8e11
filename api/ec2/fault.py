"""What EC2 refuses: a code, words and an HTTP status ("Error codes for the Amazon EC2 API", EC2 Developer Guide)."""

from __future__ import annotations

from broker.errors import BrokerError

_STATUS = {
    "AuthFailure": 401,
    "DryRunOperation": 412,
    "InternalError": 500,
    "MissingAuthenticationToken": 403,
    "RequestEntityTooLarge": 413,
    "SignatureDoesNotMatch": 403,
    "Unavailable": 503,
    "UnauthorizedOperation": 403,
}

# The broker's stable codes in EC2's. What is not here is an InvalidParameterValue, or an InternalError for "internal".
_CODES = {
    "conflict": "IncorrectState",
    "flavor_not_found": "InvalidInstanceType",
    "forbidden": "UnauthorizedOperation",
    "idempotency_mismatch": "IdempotentParameterMismatch",
    "image_not_found": "InvalidAMIID.NotFound",
    "in_use": "DependencyViolation",
    "internal": "InternalError",
    "keypair_exists": "InvalidKeyPair.Duplicate",
    "keypair_not_found": "InvalidKeyPair.NotFound",
    "network_not_found": "InvalidVpcID.NotFound",
    "quota_exceeded": "InstanceLimitExceeded",
    "subnet_not_found": "InvalidSubnetID.NotFound",
    "unauthenticated": "AuthFailure",
    "unavailable": "Unavailable",
    "vm_not_found": "InvalidInstanceID.NotFound",
    "wrong_state": "IncorrectInstanceState",
}

_SHOWN = 200
"""Characters of a client's own text that a message repeats."""


class Fault(Exception):
    """An EC2 error. ``status`` follows from the code: 400 unless EC2 has another for it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def status(self) -> int:
        """The HTTP status."""
        return _STATUS.get(self.code, 400)


def of_broker(error: BrokerError) -> Fault:
    """The broker's refusal as EC2 says it, with the hint in the words."""
    words = error.message if error.message[:1].isupper() else error.message[:1].upper() + error.message[1:]
    if error.hint:
        words = f"{words}. Hint: {error.hint}"
    return Fault(_CODES.get(error.code, "InvalidParameterValue"), words)


def invalid(name: str, value: object, why: str = "") -> Fault:
    """InvalidParameterValue in EC2's own words."""
    return Fault(
        "InvalidParameterValue",
        f"Value ({str(value)[:_SHOWN]}) for parameter {name[:_SHOWN]} is invalid."
        + (f" {why}" if why else ""),
    )


def missing(name: str) -> Fault:
    """MissingParameter in EC2's own words."""
    return Fault("MissingParameter", f"The request must contain the parameter {name}")


def unknown(name: str) -> Fault:
    """UnknownParameter in EC2's own words."""
    return Fault("UnknownParameter", f"The parameter {name[:_SHOWN]} is not recognized")
