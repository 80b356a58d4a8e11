"""Signatures made by botocore are accepted, and nothing else is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch
from urllib.parse import parse_qsl, urlsplit

import pytest
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from api.ec2 import sigv4
from api.ec2.fault import Fault
from api.ec2.sigv4 import Request

NOW = datetime(2026, 11, 20, 22, 0, 0, tzinfo=UTC)
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
REGION = "isthmus-1"


def signed(
    method: str = "POST",
    url: str = "http://127.0.0.1:8773/",
    body: str = "Action=DescribeInstances&Version=2016-11-15",
    headers: dict[str, str] | None = None,
    query: bool = False,
    secret: str = SECRET,
    region: str = REGION,
    service: str = "ec2",
    at: datetime = NOW,
    expires: int = 300,
    token: str | None = None,
) -> sigv4.Request:
    """A request as it comes over the wire, signed by botocore, which moves the form of a presigned one to the query."""
    data = dict(parse_qsl(body, keep_blank_values=True)) if query and body else body
    request = AWSRequest(method=method, url=url, data=data, headers=headers or {})
    request.headers["Host"] = urlsplit(url).netloc
    credentials = Credentials("AKIS1", secret, token)
    auth = (
        SigV4QueryAuth(credentials, service, region, expires=expires)
        if query
        else SigV4Auth(credentials, service, region)
    )
    with patch("botocore.auth.get_current_datetime", lambda remove_tzinfo=True: at.replace(tzinfo=None)):
        auth.add_auth(request)
    prepared = request.prepare()
    parts = urlsplit(prepared.url)
    sent = prepared.body or b""
    assert isinstance(sent, str | bytes)
    lines = [(str(k), v.decode() if isinstance(v, bytes) else str(v)) for k, v in prepared.headers.items()]
    if not any(name.lower() == "host" for name, _ in lines):
        lines.append(("host", parts.netloc))
    return sigv4.Request(
        method, parts.path, parts.query, lines, sent.encode() if isinstance(sent, str) else sent
    )


def verify(request: sigv4.Request, secret: str = SECRET, now: datetime = NOW, region: str = REGION) -> None:
    claim = sigv4.read(request)
    assert claim.access_key_id == "AKIS1"
    sigv4.verify(request, claim, secret, region=region, now=now)


def refusal(request: sigv4.Request, **given: Any) -> Fault:
    with pytest.raises(Fault) as caught:
        verify(request, **given)
    return caught.value


def changed(request: sigv4.Request, **fields: Any) -> sigv4.Request:
    return dataclasses.replace(request, **fields)


def test_the_published_example_of_the_algorithm_comes_out() -> None:
    """The example of "Create a signed AWS API request": IAM ListUsers at 2015-08-30."""
    request = sigv4.Request(
        "GET",
        "/",
        "Action=ListUsers&Version=2010-05-08",
        [
            ("Content-Type", "application/x-www-form-urlencoded; charset=utf-8"),
            ("Host", "iam.amazonaws.com"),
            ("X-Amz-Date", "20150830T123600Z"),
            (
                "Authorization",
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, "
                "SignedHeaders=content-type;host;x-amz-date, "
                "Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7",
            ),
        ],
        b"",
    )
    claim = sigv4.read(request)
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    canonical = sigv4.canonical_request(request, claim, empty)
    assert sigv4.sign("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", claim, canonical) == claim.signature


@pytest.mark.parametrize("query", [False, True])
@pytest.mark.parametrize(
    ("method", "url", "body"),
    [
        (
            "POST",
            "http://127.0.0.1:8773/",
            "Action=DescribeInstances&Filter.1.Name=tag%3Aa&Filter.1.Value.1=b+c",
        ),
        ("GET", "http://127.0.0.1:8773/?Action=DescribeInstances&Version=2016-11-15", ""),
        ("GET", "http://cloud.example:8773/services/Cloud/?Zed=1&Action=a%20b&Empty=&B=%2B%2F~%2A", ""),
    ],
)
def test_what_botocore_signs_is_accepted(method: str, url: str, body: str, query: bool) -> None:
    verify(signed(method=method, url=url, body=body, query=query))


def test_a_session_token_and_untidy_headers_do_not_disturb() -> None:
    verify(signed(token="session"))
    verify(signed(headers={"X-Amz-Meta": "  a   b "}))


def test_a_wrong_secret_does_not_match() -> None:
    fault = refusal(signed(), secret="other")
    assert (fault.code, fault.status) == ("SignatureDoesNotMatch", 403)
    assert SECRET not in fault.message
    assert refusal(signed(query=True), secret="other").code == "SignatureDoesNotMatch"


@pytest.mark.parametrize(
    "change",
    [
        lambda r: changed(r, body=r.body + b"&DryRun=false"),
        lambda r: changed(r, query="DryRun=true"),
        lambda r: changed(r, method="GET"),
        lambda r: changed(r, path="/services/"),
        lambda r: changed(r, headers=[(k, "evil" if k.lower() == "host" else v) for k, v in r.headers]),
        lambda r: changed(r, headers=[(k, v) for k, v in r.headers if k.lower() != "host"]),
        lambda r: changed(r, headers=[*r.headers, ("X-Amz-Target", "unsigned")]),
        lambda r: changed(r, headers=[*r.headers, ("X-Amz-Content-SHA256", "UNSIGNED-PAYLOAD")]),
    ],
)
def test_whatever_is_changed_after_signing_is_noticed(
    change: Callable[[sigv4.Request], sigv4.Request],
) -> None:
    assert refusal(change(signed())).code == "SignatureDoesNotMatch"


def test_a_presigned_request_is_bound_to_its_query() -> None:
    request = signed(method="GET", url="http://h:1/?Action=DescribeInstances", body="", query=True)
    assert refusal(changed(request, query=request.query + "&DryRun=true")).code == "SignatureDoesNotMatch"
    verify(request, now=NOW + timedelta(seconds=299))
    assert refusal(request, now=NOW + timedelta(seconds=301)).code == "RequestExpired"
    assert refusal(request, now=NOW - timedelta(seconds=301)).code == "RequestExpired"


def test_five_minutes_of_skew_are_let_pass_and_no_more() -> None:
    for seconds in (299, -299):
        verify(signed(), now=NOW + timedelta(seconds=seconds))
    for seconds in (301, -301):
        fault = refusal(signed(), now=NOW + timedelta(seconds=seconds))
        assert (fault.code, fault.status) == ("RequestExpired", 400)


def test_the_scope_must_be_ours() -> None:
    assert "isthmus-1" in refusal(signed(region="us-east-1")).message
    assert refusal(signed(service="s3")).code == "SignatureDoesNotMatch"
    request = signed()
    headers = [(k, v.replace("/20261120/", "/20261119/")) for k, v in request.headers]
    assert "Credential scope" in refusal(changed(request, headers=headers)).message


@pytest.mark.parametrize(
    ("headers", "query", "body", "code"),
    [
        ([], "", b"", "MissingAuthenticationToken"),
        ([("Authorization", "Basic eDp5")], "", b"", "IncompleteSignature"),
        ([("Authorization", "AWS4-HMAC-SHA256 nonsense")], "", b"", "IncompleteSignature"),
        (
            [
                ("Authorization", "AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host, Signature=00"),
                ("X-Amz-Date", "x"),
            ],
            "",
            b"",
            "IncompleteSignature",
        ),
        (
            [
                (
                    "Authorization",
                    "AWS4-HMAC-SHA256 Credential=a/b/c/ec2/aws4_request, SignedHeaders=host, Signature=00",
                )
            ],
            "",
            b"",
            "IncompleteSignature",
        ),
        ([], "X-Amz-Algorithm=AWS4-HMAC-SHA256", b"", "IncompleteSignature"),
        ([], "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Expires=999999999", b"", "IncompleteSignature"),
        ([], "AWSAccessKeyId=x&Signature=y&SignatureVersion=2", b"", "AuthFailure"),
        ([], "", b"AWSAccessKeyId=x&Signature=y&SignatureVersion=2", "AuthFailure"),
    ],
)
def test_a_request_that_is_not_signed_properly_is_refused_in_words(
    headers: list[tuple[str, str]], query: str, body: bytes, code: str
) -> None:
    with pytest.raises(Fault) as caught:
        sigv4.read(sigv4.Request("POST", "/", query, headers, body))
    assert caught.value.code == code
    assert caught.value.message


def test_a_signature_that_is_no_ascii_is_just_wrong() -> None:
    request = signed()
    headers = [(k, v[:-1] + "é") if k.lower() == "authorization" else (k, v) for k, v in request.headers]
    assert refusal(changed(request, headers=headers)).code == "SignatureDoesNotMatch"


@pytest.mark.parametrize(
    "request_",
    [
        sigv4.Request("GET", "/", f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Expires={'9' * 5000}", [], b""),
        sigv4.Request("GET", "/", "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Expires=%D9%A3", [], b""),
        sigv4.Request(
            "GET",
            "/",
            "",
            [
                (
                    "authorization",
                    "AWS4-HMAC-SHA256 Credential=a/b/c/ec2/aws4_request,SignedHeaders=host,Signature=x",
                ),
                ("date", "Fri, 31 Dec 9999 23:59:59 -2359"),
            ],
            b"",
        ),
    ],
    ids=["long number", "foreign digits", "year 10000"],
)
def test_what_nobody_signed_is_a_fault_and_no_failure_of_ours(request_: Request) -> None:
    with pytest.raises(Fault) as caught:
        sigv4.read(request_)
    assert caught.value.code == "IncompleteSignature"
