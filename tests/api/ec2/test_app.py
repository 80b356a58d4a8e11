"""The face as HTTP: who is let in, what is answered to nonsense, GET and POST."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

import httpx2
import pytest
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from httpx2 import Response
from lxml.etree import fromstring

from api.ec2 import create_app
from api.ec2.call import Call

if TYPE_CHECKING:
    from tests.api.ec2.conftest import Face


def send(
    face: Face,
    fields: dict[str, str],
    method: str = "POST",
    path: str = "/",
    query: bool = False,
    key: str = "",
    secret: str = "",
    region: str = "lab-1",
) -> Response:
    """A hand-written Query request, signed by botocore."""
    url, body = face.endpoint + path, ""
    if method == "GET" or query:
        url += "?" + urlencode(fields).replace("+", "%20")
    else:
        body = urlencode(fields)
    request = AWSRequest(method=method, url=url, data=body)
    credentials = Credentials(key or face.key, secret or face.secret)
    auth = (SigV4QueryAuth if query else SigV4Auth)(credentials, "ec2", region)
    auth.add_auth(request)
    prepared = request.prepare()
    headers = {k: v for k, v in prepared.headers.items() if k.lower() != "content-length"}
    assert isinstance(prepared.body, str | bytes | None)
    return httpx2.request(method, prepared.url, content=prepared.body, headers=headers, timeout=20)


def error(response: Response) -> tuple[int, str | None]:
    """(status, code) of an error, whose form is checked."""
    root = fromstring(response.content)
    assert root.tag == "Response"
    assert root.findtext("RequestID")
    assert root.findtext("Errors/Error/Message")
    return response.status_code, root.findtext("Errors/Error/Code")


@pytest.mark.parametrize("path", ["/", "/services/Cloud"])
@pytest.mark.parametrize(("method", "query"), [("GET", False), ("POST", False), ("GET", True)])
def test_get_post_and_presigned_say_the_same(face: Face, method: str, query: bool, path: str) -> None:
    fields = {
        "Action": "DescribeRegions",
        "Version": "2014-06-15",
        "Filter.1.Name": "region-name",
        "Filter.1.Value.1": "lab*",
    }
    response = send(face, fields, method, path, query)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/xml;charset=UTF-8"
    root = fromstring(response.content)
    assert root.tag == "{http://ec2.amazonaws.com/doc/2014-06-15/}DescribeRegionsResponse"
    assert root[0].text == response.headers["x-amzn-requestid"]


def test_a_wrong_secret_does_not_match_and_an_unknown_key_fails(face: Face) -> None:
    for client, code, status in (
        (face.client(secret="wrong"), "SignatureDoesNotMatch", 403),
        (face.client(key="AKISAAAAAAAAAAAAAAAA"), "AuthFailure", 401),
        (face.client(region="us-east-1"), "SignatureDoesNotMatch", 403),
    ):
        with pytest.raises(ClientError) as caught:
            client.describe_regions()
        response = caught.value.response
        assert (response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]) == (code, status)
        assert face.secret not in str(response)


def test_a_revoked_key_is_refused_at_once(face: Face) -> None:
    from broker import accesskey
    from broker.actor import SYSTEM

    key, secret = accesskey.create(face.broker, SYSTEM, project_ref=face.actor.project_id)
    fields = {"Action": "DescribeRegions"}
    assert send(face, fields, key=key.id, secret=secret).status_code == 200
    accesskey.delete(face.broker, SYSTEM, key.id)
    assert error(send(face, fields, key=key.id, secret=secret)) == (401, "AuthFailure")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, "MissingAction"),
        ({"Action": "Dance"}, "InvalidAction"),
        ({"Action": "CreateVolume"}, "InvalidAction"),
        ({"Action": "DescribeRegions", "Colour": "red"}, "UnknownParameter"),
        ({"Action": "DescribeRegions", "Version": "new"}, "InvalidParameterValue"),
        ({"Action": "TerminateInstances"}, "MissingParameter"),
        ({"Action": "RunInstances", "MinCount": "one", "MaxCount": "1"}, "InvalidParameterValue"),
    ],
)
def test_nonsense_is_answered_with_400_and_a_code(face: Face, fields: dict[str, str], code: str) -> None:
    assert error(send(face, fields)) == (400, code)


def test_what_is_not_signed_is_not_even_parsed(face: Face) -> None:
    response = httpx2.post(face.endpoint, content="Action=Dance", timeout=20)
    assert error(response) == (403, "MissingAuthenticationToken")
    assert error(httpx2.post(face.endpoint, content=b"\xff=\xff", timeout=20)) == (
        400,
        "MalformedQueryString",
    )
    assert error(httpx2.post(face.endpoint, content=b"a" * 1_048_577, timeout=20)) == (
        413,
        "RequestEntityTooLarge",
    )
    many = "&".join(f"a{n}=" for n in range(10_001))
    assert error(httpx2.post(face.endpoint, content=many, timeout=20)) == (400, "MalformedQueryString")


def test_a_mistake_of_ours_is_a_500_without_details(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    from api.ec2 import app

    def broken(call: Call) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setitem(app.ACTIONS, "DescribeRegions", broken)
    response = send(face, {"Action": "DescribeRegions"})
    assert error(response) == (500, "InternalError")
    assert "secret detail" not in response.text


def test_the_app_is_made_for_one_broker(face: Face) -> None:
    assert create_app(face.broker, new_request_id=lambda: "r") is not create_app(face.broker)
