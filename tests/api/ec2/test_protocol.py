"""The protocol against botocore's own serialiser and parser, over every operation of EC2's model."""

from __future__ import annotations

import base64
import random
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.parsers import EC2QueryParser
from botocore.serialize import EC2Serializer
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml.etree import fromstring

from api.ec2 import ACTIONS, protocol
from api.ec2.fault import Fault

MODEL = protocol.service_model()
OPERATIONS = MODEL.operation_names
TEXTS = ["", "a", "web-1", "<&>\"'", "ä ö € 𝄞", "line\nline", "tab\tcr\rlf", " spaced ", "a=b&c=d;e%41+"]


def make(shape: Any, rng: random.Random, depth: int = 0) -> Any:
    """A random value of a shape. Below some depth only scalars, because shapes recur."""
    kind = shape.type_name
    if kind == "structure":
        value = {}
        for name, inner in shape.members.items():
            needed = name in shape.required_members
            if not needed and (
                rng.random() < 0.4 or (depth > 3 and inner.type_name in ("structure", "list"))
            ):
                continue
            value[name] = make(inner, rng, depth + 1)
        return value
    if kind == "list":
        return [
            make(shape.member, rng, depth + 1)
            for _ in range(rng.choice([0, 1, 2, 11] if depth < 2 else [1, 2]))
        ]
    if kind == "boolean":
        return rng.random() < 0.5
    if kind == "integer":
        return rng.choice([0, 1, -1, 2**31 - 1, -(2**31), rng.randrange(10**6)])
    if kind == "long":
        return rng.choice([0, 2**63 - 1, -(2**63)])
    if kind in ("double", "float"):
        return rng.choice([0.0, 1.5, -2.25, 1e300 if kind == "double" else 1e30])
    if kind == "timestamp":
        return datetime(2026, 1, 2, 3, 4, rng.randrange(60), rng.choice([0, 5000]), tzinfo=UTC)
    if kind == "blob":
        return rng.randbytes(rng.randrange(40))
    assert kind == "string", kind
    return rng.choice(TEXTS)


def without_nothing(value: Any) -> Any:
    """The value without what has no form on the wire: empty lists and structures in requests."""
    if isinstance(value, dict):
        pruned = {key: without_nothing(inner) for key, inner in value.items()}
        return {key: inner for key, inner in pruned.items() if inner not in ([], {})}
    if isinstance(value, list):
        return [pruned for inner in value if (pruned := without_nothing(inner)) not in ([], {})]
    return value


def required_is_gone(shape: Any, value: Any) -> bool:
    """Whether a required member has vanished because it was empty."""
    if shape.type_name == "structure":
        return any(name not in value for name in shape.required_members) or any(
            required_is_gone(shape.members[name], inner) for name, inner in value.items()
        )
    if shape.type_name == "list":
        return any(required_is_gone(shape.member, inner) for inner in value)
    return False


def to_wire(name: str, params: dict[str, Any]) -> list[tuple[str, str]]:
    """What botocore sends."""
    body = EC2Serializer().serialize_to_request(params, MODEL.operation_model(name))["body"]
    return [(key, str(value)) for key, value in body.items()]


def parse(name: str, *fields: tuple[str, str]) -> dict[str, Any]:
    return protocol.parse(MODEL.operation_model(name), fields)


def refusal(name: str, *fields: tuple[str, str]) -> Fault:
    with pytest.raises(Fault) as caught:
        parse(name, *fields)
    return caught.value


def answer(name: str, result: Any, version: str = "2016-11-15") -> bytes:
    return protocol.serialise(MODEL.operation_model(name), result, version, "req-1")


def test_the_model_has_every_action_that_is_served() -> None:
    assert set(ACTIONS) <= set(OPERATIONS)
    assert len(OPERATIONS) > 800


@pytest.mark.parametrize("chunk", range(10))
def test_what_botocore_sends_is_what_is_read_for_every_operation(chunk: int) -> None:
    checked = 0
    for number, name in enumerate(OPERATIONS):
        operation = MODEL.operation_model(name)
        if number % 10 != chunk or operation.input_shape is None:
            continue
        rng = random.Random(number)  # noqa: S311
        for _ in range(20 if name in ACTIONS else 2):
            params = make(operation.input_shape, rng)
            wire = to_wire(name, params)
            rng.shuffle(wire)
            expected = without_nothing(params)
            if required_is_gone(operation.input_shape, expected):
                assert refusal(name, *wire).code == "MissingParameter"
                continue
            assert protocol.parse(operation, wire) == expected, name
            checked += 1
    assert checked > 80


@pytest.mark.parametrize("chunk", range(10))
def test_what_is_answered_is_what_botocore_reads_for_every_operation(chunk: int) -> None:
    checked = 0
    for number, name in enumerate(OPERATIONS):
        shape = MODEL.operation_model(name).output_shape
        if number % 10 != chunk or shape is None:
            continue
        rng = random.Random(number)  # noqa: S311
        for _ in range(20 if name in ACTIONS else 2):
            result = make(shape, rng)
            body = answer(name, result)
            parsed = EC2QueryParser().parse({"body": body, "headers": {}, "status_code": 200}, shape)
            assert parsed.pop("ResponseMetadata")["RequestId"] == "req-1"
            assert parsed == result, name
            checked += 1
    assert checked > 80


def test_lists_may_begin_anywhere_have_holes_and_are_sorted_by_number() -> None:
    fields = [(f"InstanceId.{n}", f"i-{n}") for n in (10, 2, 0, 7)]
    assert parse("DescribeInstances", *fields) == {"InstanceIds": ["i-0", "i-2", "i-7", "i-10"]}
    given = parse(
        "DescribeInstances",
        ("Filter.3.Name", "tag:a"),
        ("Filter.3.Value.2", "y"),
        ("Filter.3.Value.1", "x"),
        ("Filter.1.Name", "vpc-id"),
        ("Filter.1.Value.0", "vpc-1"),
        ("Filter.11.Name", "image-id"),
        ("Filter.11.Value.1", "ami-1"),
    )
    assert [(f["Name"], f["Values"]) for f in given["Filters"]] == [
        ("vpc-id", ["vpc-1"]),
        ("tag:a", ["x", "y"]),
        ("image-id", ["ami-1"]),
    ]


def test_an_empty_value_is_no_list_and_no_number_but_is_a_text() -> None:
    assert parse("DescribeInstances", ("InstanceId", ""), ("MaxResults", ""), ("NextToken", "")) == {
        "NextToken": ""
    }


def test_what_is_around_the_parameters_is_not_taken_for_one() -> None:
    fields = [(name, "x") for name in ("Action", "Version", "Timestamp", "X-Amz-Date", "X-Amz-Signature")]
    assert parse("DescribeVpcs", *fields) == {}


@pytest.mark.parametrize(
    ("name", "field", "value", "code"),
    [
        ("DescribeInstances", "Instance.1", "i-1", "UnknownParameter"),
        ("DescribeInstances", "InstanceId.x", "i-1", "UnknownParameter"),
        ("DescribeInstances", "InstanceId.1.x", "i-1", "UnknownParameter"),
        ("DescribeInstances", "NextToken.1", "t", "UnknownParameter"),
        ("DescribeInstances", "Filter.1.Nam", "t", "UnknownParameter"),
        ("DescribeInstances", "", "t", "UnknownParameter"),
        ("DescribeInstances", "InstanceId", "i-1", "InvalidParameterValue"),
        ("DescribeInstances", "MaxResults", "ten", "InvalidParameterValue"),
        ("DescribeInstances", "MaxResults", "1.5", "InvalidParameterValue"),
        ("DescribeInstances", "MaxResults", "99999999999", "InvalidParameterValue"),
        ("DescribeInstances", "DryRun", "yes", "InvalidParameterValue"),
        ("DescribeInstances", "Filter.1", "x", "InvalidParameterValue"),
        ("DescribeInstances", "Filter.1.Value.1", "a\x00", "InvalidParameterValue"),
        ("TerminateInstances", "DryRun", "true", "MissingParameter"),
        ("CreateTags", "ResourceId.1", "i-1", "MissingParameter"),
        ("ImportKeyPair", "PublicKeyMaterial", "***", "InvalidParameterValue"),
    ],
)
def test_a_wrong_parameter_is_refused_by_name(name: str, field: str, value: str, code: str) -> None:
    fault = refusal(name, (field, value))
    assert fault.code == code
    assert fault.status == 400
    if code == "UnknownParameter":
        named = fault.message.removeprefix("The parameter ").removesuffix(" is not recognized")
        assert field == named or field.startswith(named + ".")


def test_a_parameter_that_comes_twice_with_two_values_is_refused() -> None:
    assert (
        refusal("DescribeInstances", ("MaxResults", "5"), ("MaxResults", "6")).code == "InvalidParameterValue"
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("True", True), ("1", True), ("false", False), ("False", False), ("0", False)],
)
def test_booleans_are_read_as_people_write_them(text: str, value: bool) -> None:
    assert parse("DescribeVpcs", ("DryRun", text)) == {"DryRun": value}


@pytest.mark.parametrize(
    "text", ["2026-01-02T03:04:05Z", "2026-01-02T03:04:05.000Z", "2026-01-02T04:04:05+01:00", "1767323045"]
)
def test_times_are_read_as_iso_8601_and_as_seconds(text: str) -> None:
    name = "DescribeSpotPriceHistory"
    assert parse(name, ("StartTime", text)) == {"StartTime": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)}
    assert refusal(name, ("StartTime", "yesterday")).code == "InvalidParameterValue"


def test_user_data_is_base64_with_or_without_padding_and_has_a_limit() -> None:
    text = "#!/bin/sh\necho ä\n"
    packed = base64.b64encode(text.encode()).decode()
    assert protocol.decode_user_data(packed) == text
    assert protocol.decode_user_data(packed.rstrip("=")) == text
    assert protocol.decode_user_data(packed[:10] + "\n" + packed[10:]) == text
    assert protocol.decode_user_data("") == ""
    assert len(protocol.decode_user_data(base64.b64encode(b"x" * 16_384).decode())) == 16_384
    for bad in (
        base64.b64encode(b"x" * 16_385).decode(),
        "#!/bin/sh",
        base64.b64encode(b"\xff\xfe").decode(),
    ):
        with pytest.raises(Fault) as caught:
            protocol.decode_user_data(bad)
        assert caught.value.code == "InvalidParameterValue"


def test_the_namespace_ends_with_a_slash_and_has_the_clients_version() -> None:
    root = fromstring(answer("DescribeInstances", {"Reservations": []}, "2013-10-15"))
    namespace = "{http://ec2.amazonaws.com/doc/2013-10-15/}"
    assert root.tag == f"{namespace}DescribeInstancesResponse"
    assert [child.tag for child in root] == [f"{namespace}requestId", f"{namespace}reservationSet"]


def test_an_operation_without_an_output_answers_true() -> None:
    assert b"<return>true</return>" in answer("CreateTags", None)


def test_empty_lists_are_written_and_absent_members_are_not() -> None:
    body = answer(
        "DescribeInstances", {"Reservations": [{"Instances": [], "OwnerId": None, "ReservationId": ""}]}
    )
    assert (
        b"<reservationSet><item><instancesSet></instancesSet><reservationId></reservationId></item>" in body
    )


def test_a_member_that_the_model_does_not_know_is_our_mistake() -> None:
    with pytest.raises(KeyError):
        answer("DescribeInstances", {"Reservation": []})


def test_times_have_milliseconds_and_a_z() -> None:
    body = answer("GetConsoleOutput", {"Timestamp": datetime(2026, 1, 2, 3, 4, 5, 6999, tzinfo=UTC)})
    assert b"<timestamp>2026-01-02T03:04:05.006Z</timestamp>" in body


def test_an_error_has_no_namespace_and_no_markup_of_others() -> None:
    body = protocol.serialise_fault(Fault("InvalidAction", "<b>\x00&"), "req-1")
    root = fromstring(body)
    assert [element.tag for element in root.iter()] == [
        "Response",
        "Errors",
        "Error",
        "Code",
        "Message",
        "RequestID",
    ]
    assert root.findtext("Errors/Error/Message") == "<b>\ufffd&"
    shape = MODEL.operation_model("DescribeTags").output_shape
    assert shape is not None
    parsed = EC2QueryParser().parse({"body": body, "headers": {}, "status_code": 400}, shape)
    assert parsed["Error"]["Code"] == "InvalidAction"
    assert parsed["ResponseMetadata"]["RequestId"] == "req-1"


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), max_size=6))
@settings(max_examples=200, deadline=None)
def test_no_form_makes_the_parser_fail_other_than_by_a_fault(fields: list[tuple[str, str]]) -> None:
    with suppress(Fault):
        protocol.parse(MODEL.operation_model("RunInstances"), fields)


def test_a_name_of_very_many_parts_is_just_not_known() -> None:
    assert refusal("RunInstances", ("MinCount" + ".x" * 200_000, "1")).code == "UnknownParameter"
    assert refusal("RunInstances", ("." * 200_000, "1")).code == "UnknownParameter"


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_text_makes_well_formed_xml(text: str) -> None:
    result = {"Tags": [{"Key": text, "Value": text}]}
    shape = MODEL.operation_model("DescribeTags").output_shape
    assert shape is not None
    parsed = EC2QueryParser().parse(
        {"body": answer("DescribeTags", result), "headers": {}, "status_code": 200}, shape
    )
    clean = "".join(
        c if c in "\t\n\r" or " " <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd" or c > "\uffff" else "\ufffd"
        for c in text
    )
    assert parsed["Tags"][0]["Value"] == clean
