"""AWS Signature Version 4: in the Authorization header, or in the query string (presigned).

Source: "Create a signed AWS API request" and "Authenticating Requests: Using Query Parameters" in the IAM User Guide.
The signature covers the raw body, so it is checked before the body is read as a form.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from posixpath import normpath
from urllib.parse import parse_qsl, quote

from api.ec2.fault import Fault

ALGORITHM = "AWS4-HMAC-SHA256"
SKEW = timedelta(minutes=5)
LONGEST_PRESIGNED_S = 604_800

_SECONDS = re.compile(r"[0-9]{1,6}")
_PART = re.compile(r"([A-Za-z]+)=([^,\s]+)")


@dataclass(frozen=True)
class Request:
    """An HTTP request as it came over the wire: undecoded path and query, headers in their order."""

    method: str
    path: str
    query: str
    headers: Sequence[tuple[str, str]]
    body: bytes

    def values(self, name: str) -> list[str]:
        """All values of a header."""
        return [value for key, value in self.headers if key.lower() == name]

    def header(self, name: str) -> str:
        """A header's value; empty when it is not there."""
        return ",".join(self.values(name))


@dataclass(frozen=True)
class Claim:
    """What a request says of its own signature: nothing of this is proved yet."""

    access_key_id: str
    date: str
    region: str
    service: str
    time: datetime
    expires: timedelta | None
    signed_headers: tuple[str, ...]
    signature: str
    presigned: bool

    @property
    def scope(self) -> str:
        """The credential scope."""
        return f"{self.date}/{self.region}/{self.service}/aws4_request"


def read(request: Request) -> Claim:
    """The request's claim. Raises Fault: MissingAuthenticationToken, IncompleteSignature, AuthFailure (Signature V2)."""
    query = dict(parse_qsl(request.query, keep_blank_values=True))
    authorization = request.header("authorization")
    if authorization:
        scheme, _, rest = authorization.strip().partition(" ")
        if scheme != ALGORITHM:
            raise _incomplete(f"the Authorization header must begin with {ALGORITHM}")
        given = dict(_PART.findall(rest))
        stamp, expires = request.header("x-amz-date") or request.header("date"), None
        fields = (given.get("Credential"), given.get("SignedHeaders"), given.get("Signature"))
    elif "X-Amz-Signature" in query or "X-Amz-Algorithm" in query:
        if query.get("X-Amz-Algorithm") != ALGORITHM:
            raise _incomplete(f"X-Amz-Algorithm must be {ALGORITHM}")
        stamp = query.get("X-Amz-Date", "")
        lifetime = query.get("X-Amz-Expires", "")
        if not _SECONDS.fullmatch(lifetime) or not 0 < int(lifetime) <= LONGEST_PRESIGNED_S:
            raise _incomplete(f"X-Amz-Expires must be 1 to {LONGEST_PRESIGNED_S} seconds")
        expires = timedelta(seconds=int(lifetime))
        fields = (
            query.get("X-Amz-Credential"),
            query.get("X-Amz-SignedHeaders"),
            query.get("X-Amz-Signature"),
        )
    elif "AWSAccessKeyId" in query or b"AWSAccessKeyId=" in request.body:
        raise Fault("AuthFailure", "Signature Version 2 is not supported: sign with Signature Version 4")
    else:
        raise Fault("MissingAuthenticationToken", "Request is missing Authentication Token")
    credential, signed, signature = fields
    if not (credential and signed and signature):
        raise _incomplete("it needs Credential, SignedHeaders and Signature")
    parts = credential.split("/")
    if len(parts) != 5 or parts[4] != "aws4_request":
        raise _incomplete("Credential must be KEY/YYYYMMDD/region/ec2/aws4_request")
    return Claim(
        access_key_id=parts[0],
        date=parts[1],
        region=parts[2],
        service=parts[3],
        time=_time(stamp),
        expires=expires,
        signed_headers=tuple(signed.split(";")),
        signature=signature,
        presigned=expires is not None,
    )


def verify(request: Request, claim: Claim, secret: str, *, region: str, now: datetime) -> None:
    """Hold the request to its claim. Raises Fault: SignatureDoesNotMatch, RequestExpired."""
    if claim.service != "ec2":
        raise _mismatch(f"Credential should be scoped to correct service: 'ec2', not {claim.service!r}.")
    if claim.region != region:
        raise _mismatch(f"Credential should be scoped to a valid region: {region!r}, not {claim.region!r}.")
    if claim.date != claim.time.strftime("%Y%m%d"):
        raise _mismatch("Date in Credential scope does not match the date of the request.")
    _check_signed_headers(request, claim)
    declared = request.header("x-amz-content-sha256")
    digest = hashlib.sha256(request.body).hexdigest()
    if declared and declared != digest:
        raise _mismatch("The body is not the one that X-Amz-Content-SHA256 says.")
    expected = sign(secret, claim, canonical_request(request, claim, digest))
    if not hmac.compare_digest(expected.encode(), claim.signature.encode()):
        raise _mismatch("Check your AWS Secret Access Key and signing method.")
    # After the signature, so that only the key's holder learns anything of the clock.
    latest = claim.time + (claim.expires if claim.expires is not None else SKEW)
    if not claim.time - SKEW <= now <= latest:
        raise Fault(
            "RequestExpired",
            f"Request has expired. It was made at {claim.time:%Y-%m-%dT%H:%M:%SZ}, and the broker's time is "
            f"{now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}; check both clocks.",
        )


def canonical_request(request: Request, claim: Claim, body_sha256: str) -> str:
    """The request in the form that is signed."""
    headers = "".join(
        f"{name}:{','.join(' '.join(value.split()) for value in request.values(name))}\n"
        for name in claim.signed_headers
    )
    return "\n".join(
        (
            request.method.upper(),
            _canonical_path(request.path),
            _canonical_query(request.query, claim.presigned),
            headers,
            ";".join(claim.signed_headers),
            body_sha256,
        )
    )


def sign(secret: str, claim: Claim, canonical: str) -> str:
    """The signature in hexadecimal."""
    key = f"AWS4{secret}".encode()
    for part in (claim.date, claim.region, claim.service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    text = "\n".join(
        (
            ALGORITHM,
            claim.time.strftime("%Y%m%dT%H%M%SZ"),
            claim.scope,
            hashlib.sha256(canonical.encode()).hexdigest(),
        )
    )
    return hmac.digest(key, text.encode(), "sha256").hex()


def _check_signed_headers(request: Request, claim: Claim) -> None:
    if "host" not in claim.signed_headers:
        raise _mismatch("The host header must be signed.")
    for name in claim.signed_headers:
        if not request.values(name):
            raise _mismatch(f"The signed header {name!r} is not in the request.")
    for name, _ in request.headers:
        if name.lower().startswith("x-amz-") and name.lower() not in claim.signed_headers:
            raise _mismatch(f"The header {name.lower()!r} must be signed.")


def _canonical_path(path: str) -> str:
    normal = normpath(path or "/").replace("//", "/")
    if path.endswith("/") and normal != "/":
        normal += "/"
    return quote(normal, safe="/~")


def _canonical_query(query: str, presigned: bool) -> str:
    pairs = [
        (quote(name, safe="-_.~"), quote(value, safe="-_.~"))
        for name, value in parse_qsl(query, keep_blank_values=True)
        if not (presigned and name == "X-Amz-Signature")
    ]
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def _time(stamp: str) -> datetime:
    """``20261120T225958Z``, or the Date header's form (RFC 9110, 5.6.7)."""
    try:
        return datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        pass
    try:
        return parsedate_to_datetime(stamp).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise _incomplete("the request needs a date, as X-Amz-Date: 20260102T030405Z") from None


def _incomplete(why: str) -> Fault:
    return Fault("IncompleteSignature", f"The request signature does not conform to AWS standards: {why}")


def _mismatch(why: str) -> Fault:
    return Fault(
        "SignatureDoesNotMatch",
        f"The request signature we calculated does not match the signature you provided. {why}",
    )
