"""The EC2 Query protocol, driven by botocore's service model: requests to Python values, and answers to XML.

Source: "ec2Query protocol" of the Smithy specification, "Making requests" in the EC2 API Reference, and botocore's
``EC2Serializer`` and ``EC2QueryParser``, which the tests hold this module to. Its conventions:

- In: names are capitalised (``queryName``, or ``locationName`` with its first letter raised), lists are flat
  (``InstanceId.1``) and may begin at any number and have holes.
- Out: names are ``locationName``; a list is a wrapper of ``<item>``; an empty list is written, an absent member is not.
- The namespace ends with a slash and holds the version that the client asked for; errors have no namespace.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any
from xml.sax.saxutils import escape

from botocore.loaders import Loader
from botocore.model import ListShape, OperationModel, ServiceModel, Shape, StructureShape

from api.ec2.fault import Fault, invalid, missing, unknown

VERSION = "2016-11-15"
USER_DATA_LIMIT = 16_384
"""Bytes of user data, after base64 ("Instance metadata and user data", EC2 User Guide)."""

# What is around the parameters and not one of them (Signature Versions 2 and 4).
_ENVELOPE = frozenset(
    {
        "Action",
        "AUTHPARAMS",
        "AWSAccessKeyId",
        "Expires",
        "SecurityToken",
        "Signature",
        "SignatureMethod",
        "SignatureVersion",
        "Timestamp",
        "Version",
    }
)
_INDEX = re.compile(r"[0-9]{1,9}")
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_BOOLEANS = {"true": True, "True": True, "1": True, "false": False, "False": False, "0": False}
# Characters that XML 1.0 cannot hold, even escaped (section 2.2).
_NOT_XML = re.compile("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")


@cache
def service_model() -> ServiceModel:
    """EC2's model as botocore ships it: 830 operations (read once, 0.1 s)."""
    return ServiceModel(Loader().load_service_model("ec2", "service-2", VERSION), "ec2")


# -- requests --------------------------------------------------------------------------------------------------


class _Node:
    """One name between the dots of the parameters' names: its own value, and what hangs below it."""

    __slots__ = ("below", "value")

    def __init__(self) -> None:
        self.value: str | None = None
        self.below: dict[str, _Node] = {}


def parse(operation: OperationModel, fields: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The parameters of a request by their names in the model, as boto3 would take them.

    ``fields`` are the decoded pairs of the query string or form. Raises Fault: UnknownParameter, MissingParameter,
    InvalidParameterValue (a number, boolean or time that is none, or a name that comes twice).
    """
    root = _Node()
    for name, value in fields:
        if name in _ENVELOPE or name.startswith("X-Amz-"):
            continue
        node = root
        for part in name.split("."):
            node = node.below.setdefault(part, _Node())
        if node.value is not None and node.value != value:
            raise invalid(name, value, "The parameter is given twice.")
        node.value = value
    shape = operation.input_shape
    if shape is None:
        for name in root.below:
            raise unknown(name)
        return {}
    return _parse_structure(shape, root, "")


def request_name(member: str, shape: Shape) -> str:
    """A member's name in requests."""
    name: str | None = shape.serialization.get("queryName")
    if name:
        return name
    name = shape.serialization.get("name", member)
    return name[0].upper() + name[1:]


def _parse_structure(shape: StructureShape, node: _Node, path: str) -> dict[str, Any]:
    names = {request_name(member, inner): (member, inner) for member, inner in shape.members.items()}
    parsed: dict[str, Any] = {}
    for name, below in node.below.items():
        full = f"{path}.{name}" if path else name
        if name not in names:
            raise unknown(full)
        member, inner = names[name]
        value = _parse_value(inner, below, full)
        if value is not None:
            parsed[member] = value
    for member in shape.required_members:
        if member not in parsed:
            name = request_name(member, shape.members[member])
            raise missing(f"{path}.{name}" if path else name)
    return parsed


def _parse_value(shape: Shape, node: _Node, path: str) -> Any:
    if isinstance(shape, StructureShape):
        if node.value and not node.below:
            raise invalid(path, node.value, "It has members: write them as " + path + ".Member.")
        return _parse_structure(shape, node, path) if node.below else None
    if isinstance(shape, ListShape):
        return _parse_list(shape, node, path)
    for name in node.below:
        raise unknown(f"{path}.{name}")
    return _parse_scalar(shape, node.value or "", path)


def _parse_list(shape: ListShape, node: _Node, path: str) -> list[Any] | None:
    if node.value:
        raise invalid(path, node.value, f"It is a list: write {path}.1, {path}.2, ...")
    for name in node.below:
        if not _INDEX.fullmatch(name):
            raise unknown(f"{path}.{name}")
    items = [
        _parse_value(shape.member, node.below[name], f"{path}.{name}") for name in sorted(node.below, key=int)
    ]
    return [item for item in items if item is not None] or None


def _parse_scalar(shape: Shape, text: str, path: str) -> Any:
    kind = shape.type_name
    if kind == "string":
        if "\x00" in text:  # neither XML nor every database has it
            raise invalid(path, text.replace("\x00", " "), "It must not contain the character NUL.")
        return text
    if not text and kind != "blob":
        return None  # `Name=` of a hand-written request says nothing
    if kind == "boolean":
        if text not in _BOOLEANS:
            raise invalid(path, text, "It must be true or false.")
        return _BOOLEANS[text]
    if kind in ("integer", "long"):
        bits = 31 if kind == "integer" else 63
        if not _INTEGER.fullmatch(text) or not -(2**bits) <= int(text) < 2**bits:
            raise invalid(path, text, "It must be a whole number.")
        return int(text)
    if kind in ("double", "float"):
        try:
            return float(text)
        except ValueError:
            raise invalid(path, text, "It must be a number.") from None
    if kind == "timestamp":
        return _parse_time(text, path)
    if kind == "blob":
        return decode_base64(text, path)
    raise NotImplementedError(f"EC2's model has no {kind} in requests")


def _parse_time(text: str, path: str) -> datetime:
    """ISO 8601, or seconds since the epoch; UTC where no zone is given."""
    try:
        if re.fullmatch(r"[0-9]{1,12}(\.[0-9]+)?", text):
            return datetime.fromtimestamp(float(text), UTC)
        time = datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError):
        raise invalid(path, text, "It must be a time such as 2026-01-02T03:04:05Z.") from None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time


def decode_base64(text: str, path: str, limit: int | None = None) -> bytes:
    """Base64 with or without its padding, as people and old tools send it; at most ``limit`` bytes. Raises Fault."""
    packed = "".join(text.split())
    try:
        decoded = base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise Fault("InvalidParameterValue", f"Invalid BASE64 encoding of {path}") from None
    if limit is not None and len(decoded) > limit:
        raise Fault(
            "InvalidParameterValue", f"{path} is limited to {limit} bytes, and this is {len(decoded)}"
        )
    return decoded


def decode_user_data(text: str) -> str:
    """The user data of RunInstances: base64, at most 16 KiB, text. Raises Fault."""
    try:
        return decode_base64(text, "UserData", USER_DATA_LIMIT).decode()
    except UnicodeDecodeError:
        raise Fault(
            "InvalidParameterValue", "UserData must be text in UTF-8: binary user data is not supported"
        ) from None


# -- answers ---------------------------------------------------------------------------------------------------


def serialise(
    operation: OperationModel, result: Mapping[str, Any] | None, version: str, request_id: str
) -> bytes:
    """The XML of a success. ``result`` has the output's members; None in it stands for absent."""
    parts = [
        '<?xml version="1.0" encoding="UTF-8"?>\n',
        f'<{operation.name}Response xmlns="http://ec2.amazonaws.com/doc/{escape(version)}/">',
        f"<requestId>{escape(request_id)}</requestId>",
    ]
    if operation.output_shape is None:
        # EC2 says so, though the model does not; libcloud takes its absence for a failure.
        parts.append("<return>true</return>")
    else:
        _write_members(parts, operation.output_shape, result or {})
    parts.append(f"</{operation.name}Response>")
    return "".join(parts).encode()


def serialise_fault(fault: Fault, request_id: str) -> bytes:
    """The XML of an error: without a namespace, or libcloud would lose the code."""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<Response><Errors><Error>'
        f"<Code>{_text(fault.code)}</Code><Message>{_text(fault.message)}</Message>"
        f"</Error></Errors><RequestID>{_text(request_id)}</RequestID></Response>"
    ).encode()


def _write_members(parts: list[str], shape: StructureShape, value: Mapping[str, Any]) -> None:
    for member, inner in value.items():
        if inner is not None:
            member_shape = shape.members[member]
            _write(parts, member_shape.serialization.get("name", member), member_shape, inner)


def _write(parts: list[str], name: str, shape: Shape, value: Any) -> None:
    if isinstance(shape, StructureShape):
        parts.append(f"<{name}>")
        _write_members(parts, shape, value)
        parts.append(f"</{name}>")
    elif isinstance(shape, ListShape):
        item = shape.member.serialization.get("name", "item")
        parts.append(f"<{name}>")
        for inner in value:
            _write(parts, item, shape.member, inner)
        parts.append(f"</{name}>")
    else:
        parts.append(f"<{name}>{_scalar(shape, value)}</{name}>")


def _scalar(shape: Shape, value: Any) -> str:
    if shape.type_name == "boolean":
        return "true" if value else "false"
    if shape.type_name == "timestamp":
        return format_time(value)
    if shape.type_name == "blob":
        return base64.b64encode(value).decode()
    return _text(str(value))


def format_time(time: datetime) -> str:
    """ISO 8601 in UTC with milliseconds and Z, as EC2 writes times."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.microsecond // 1000:03d}Z"


def _text(text: str) -> str:
    # A carriage return would come back as a line feed (XML 1.0, 2.11).
    return escape(_NOT_XML.sub("\ufffd", text), {"\r": "&#13;"})
