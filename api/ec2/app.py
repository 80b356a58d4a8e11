"""The EC2 Query face: one ASGI application that answers at ``/`` and ``/services/...``, by GET and POST.

A request is authenticated (Signature Version 4 over its raw bytes), parsed by the action's shape in botocore's model,
done by one function of this package, and answered by shape.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any
from urllib.parse import parse_qsl

import structlog
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api.ec2 import flavor, image, keypair, network, protocol, sigv4, site, tag, vm
from api.ec2.call import Call
from api.ec2.fault import Fault, invalid, of_broker
from broker import accesskey
from broker.broker import Broker
from broker.dry_run import nothing_stays
from broker.errors import BrokerError, Unauthenticated

log = structlog.get_logger()

MOST_BYTES = 1_048_576
"""The largest body: user data and a thousand ids fit many times."""

_MOST_FIELDS = 10_000
_VERSION = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")

Action = Callable[[Call], Mapping[str, Any] | None]

ACTIONS: dict[str, Action] = {
    "CreateTags": tag.create_tags,
    "DeleteKeyPair": keypair.delete_key_pair,
    "DeleteTags": tag.delete_tags,
    "DescribeAddresses": network.describe_addresses,
    "DescribeAvailabilityZones": site.describe_availability_zones,
    "DescribeImages": image.describe_images,
    "DescribeInstanceStatus": vm.describe_instance_status,
    "DescribeInstanceTypeOfferings": flavor.describe_instance_type_offerings,
    "DescribeInstanceTypes": flavor.describe_instance_types,
    "DescribeInstances": vm.describe_instances,
    "DescribeKeyPairs": keypair.describe_key_pairs,
    "DescribeRegions": site.describe_regions,
    "DescribeSubnets": network.describe_subnets,
    "DescribeTags": tag.describe_tags,
    "DescribeVpcs": network.describe_vpcs,
    "GetConsoleOutput": vm.get_console_output,
    "ImportKeyPair": keypair.import_key_pair,
    "RebootInstances": vm.reboot_instances,
    "RunInstances": vm.run_instances,
    "StartInstances": vm.start_instances,
    "StopInstances": vm.stop_instances,
    "TerminateInstances": vm.terminate_instances,
}
"""What is served, by the names of the EC2 API Reference."""


def create_app(broker: Broker, *, new_request_id: Callable[[], str] = lambda: str(uuid.uuid4())) -> Starlette:
    """The face of one broker, to be mounted at the root of its own port.

    Every answer is EC2's XML, errors too; a mistake of ours is an InternalError without details, which are logged.
    """

    async def endpoint(request: Request) -> Response:
        request_id = new_request_id()
        action, code = "", ""
        try:
            signed = await _read(request)
            fields = _fields(request, signed)
            action = dict(fields).get("Action", "")
            status, body = 200, await run_in_threadpool(_answer, broker, signed, fields, request_id)
        except Fault as fault:
            code, status, body = fault.code, fault.status, protocol.serialise_fault(fault, request_id)
        except Exception:
            log.exception("ec2.failed", action=action, request_id=request_id)
            ours = Fault("InternalError", "An internal error has occurred")
            code, status, body = ours.code, ours.status, protocol.serialise_fault(ours, request_id)
        log.info("ec2.request", action=action[:64], status=status, code=code, request_id=request_id)
        return Response(
            body,
            status,
            {"x-amzn-requestid": request_id, "cache-control": "no-store"},
            "text/xml;charset=UTF-8",
        )

    methods = ["GET", "POST"]
    return Starlette(
        routes=[
            Route("/", endpoint, methods=methods),
            Route("/services/{rest:path}", endpoint, methods=methods),
        ]
    )


async def _read(request: Request) -> sigv4.Request:
    """The request's raw bytes. Raises Fault when the body is too large."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise Fault("RequestEntityTooLarge", f"The request's body is limited to {MOST_BYTES} bytes")
    raw_path: bytes = request.scope.get("raw_path") or request.url.path.encode()
    return sigv4.Request(
        method=request.method,
        path=raw_path.partition(b"?")[0].decode("latin-1"),
        query=request.scope["query_string"].decode("latin-1"),
        headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw],
        body=body,
    )


def _fields(request: Request, signed: sigv4.Request) -> list[tuple[str, str]]:
    """The pairs of the query string and of the form."""
    try:
        fields = parse_qsl(signed.query, keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS)
        if signed.body:
            fields += parse_qsl(
                signed.body.decode(), keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS
            )
    except ValueError:
        raise Fault(
            "MalformedQueryString", "The request is no form in UTF-8, or has too many fields"
        ) from None
    return fields


def _answer(broker: Broker, signed: sigv4.Request, fields: list[tuple[str, str]], request_id: str) -> bytes:
    """The XML of a success. Raises Fault."""
    region, now = broker.settings.ec2.region, broker.clock.now()
    claim = sigv4.read(signed)
    try:
        key = accesskey.open_key(broker, claim.access_key_id)
    except Unauthenticated:
        raise Fault("AuthFailure", "AWS was not able to validate the provided access credentials") from None
    sigv4.verify(signed, claim, key.secret, region=region, now=now)
    given = dict(fields)
    action, version = given.get("Action", ""), given.get("Version") or protocol.VERSION
    if not action:
        raise Fault("MissingAction", "The request is missing an action or a required parameter")
    if action not in ACTIONS:
        raise Fault("InvalidAction", f"The action {action} is not valid for this web service.")
    if not _VERSION.fullmatch(version):
        raise invalid("Version", version, "It is a date such as 2016-11-15.")
    operation = protocol.service_model().operation_model(action)
    call = Call(
        broker=broker,
        actor=key.actor,
        account=key.account,
        region=region,
        endpoint=signed.header("host"),
        params=protocol.parse(operation, fields),
        now=now,
    )
    dry = bool(call.params.get("DryRun"))
    try:
        with nothing_stays() if dry else nullcontext():
            result = ACTIONS[action](call)
    except BrokerError as error:
        raise of_broker(error) from error
    if dry:
        raise Fault("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
    return protocol.serialise(operation, result, version, request_id)
