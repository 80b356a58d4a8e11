"""Instances through boto3, on a real broker with simulated hosts."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from broker import power, vm
from broker.actor import Actor
from broker.states import VMState
from broker.store import VMRow

if TYPE_CHECKING:
    from tests.api.ec2.conftest import Face

Run = Callable[..., Any]
"""Gives the id of the instance, or a list of them when more than one is asked for."""

GONE = "i-00000000000000000"


@pytest.fixture
def run(face: Face, ec2: Any, until: Callable[..., Any]) -> Iterator[Run]:
    """Launches, and terminates at the end whatever the test left."""

    def run(count: int = 1, wait: str = "running", **given: Any) -> Any:
        request = {
            "ImageId": face.ami,
            "InstanceType": "t3.nano",
            "MinCount": count,
            "MaxCount": count,
            **given,
        }
        instances = ec2.run_instances(**request)["Instances"]
        names = [instance["InstanceId"] for instance in instances]
        if wait:
            until(lambda: all(state(ec2, name) == wait for name in names))
        return names if count > 1 else names[0]

    yield run
    left = [
        i["InstanceId"]
        for i in instances_of(ec2)
        if i["State"]["Name"] not in ("terminated", "shutting-down")
    ]
    if left:
        ec2.terminate_instances(InstanceIds=left)
        until(lambda: all(state(ec2, name) == "terminated" for name in left))


def instances_of(ec2: Any, **given: Any) -> list[dict[str, Any]]:
    return [i for r in ec2.describe_instances(**given)["Reservations"] for i in r["Instances"]]


def get(ec2: Any, name: str) -> dict[str, Any]:
    (instance,) = instances_of(ec2, InstanceIds=[name])
    return instance


def state(ec2: Any, name: str) -> str:
    return str(get(ec2, name)["State"]["Name"])


def refusal(call: Callable[..., object], *args: Any, **given: Any) -> tuple[str, int, str]:
    with pytest.raises(ClientError) as caught:
        call(*args, **given)
    error = caught.value.response
    assert error["Error"]["Message"]
    assert error["ResponseMetadata"]["RequestId"]
    return error["Error"]["Code"], error["ResponseMetadata"]["HTTPStatusCode"], error["Error"]["Message"]


def values(**filters: Any) -> list[dict[str, Any]]:
    return [
        {"Name": name.replace("__", ":").replace("_", "-"), "Values": [value]}
        for name, value in filters.items()
    ]


# -- a life ----------------------------------------------------------------------------------------------------


def test_an_instance_is_run_stopped_started_rebooted_and_terminated(
    face: Face, ec2: Any, run: Run, until: Callable[..., Any]
) -> None:
    name = run(
        KeyName="me",
        UserData="#!/bin/sh\necho hello\n",
        Placement={"AvailabilityZone": "campus"},
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "web-1"}]}],
    )
    instance = get(ec2, name)
    assert instance["ImageId"] == face.ami
    assert instance["InstanceType"] == "t3.nano"
    assert instance["KeyName"] == "me"
    assert instance["Placement"]["AvailabilityZone"] == "campus"
    assert instance["PrivateIpAddress"].startswith("10.10.1.")
    assert instance["NetworkInterfaces"][0]["PrivateIpAddress"] == instance["PrivateIpAddress"]
    assert instance["NetworkInterfaces"][0]["SubnetId"] == instance["SubnetId"]
    assert "PublicIpAddress" not in instance
    assert instance["Tags"] == [{"Key": "Name", "Value": "web-1"}]
    row = vm.get(face.broker, face.actor, "web-1")
    assert row.id == name.replace("i-", "vm-")
    assert face.broker.sealer.open(row.sealed_user_data) == "#!/bin/sh\necho hello\n"

    (change,) = ec2.stop_instances(InstanceIds=[name])["StoppingInstances"]
    assert (change["PreviousState"], change["CurrentState"]) == (
        {"Code": 16, "Name": "running"},
        {"Code": 64, "Name": "stopping"},
    )
    until(lambda: state(ec2, name) == "stopped")
    stopped = get(ec2, name)
    assert stopped["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    assert stopped["StateTransitionReason"].startswith("User initiated (20")
    assert stopped["StateTransitionReason"].endswith(" GMT)")
    (change,) = ec2.stop_instances(InstanceIds=[name])["StoppingInstances"]
    assert change["CurrentState"]["Name"] == "stopped"

    (change,) = ec2.start_instances(InstanceIds=[name])["StartingInstances"]
    assert (change["PreviousState"]["Code"], change["CurrentState"]["Code"]) == (80, 0)
    until(lambda: state(ec2, name) == "running")
    (change,) = ec2.start_instances(InstanceIds=[name])["StartingInstances"]
    assert change["CurrentState"]["Name"] == "running"
    ec2.reboot_instances(InstanceIds=[name])

    (change,) = ec2.terminate_instances(InstanceIds=[name])["TerminatingInstances"]
    assert change["CurrentState"] == {"Code": 32, "Name": "shutting-down"}
    until(lambda: state(ec2, name) == "terminated")
    (change,) = ec2.terminate_instances(InstanceIds=[name])["TerminatingInstances"]
    assert change["CurrentState"]["Code"] == change["PreviousState"]["Code"] == 48
    assert "PrivateIpAddress" not in get(ec2, name)


def test_botocores_own_waiters_are_content(ec2: Any, run: Run) -> None:
    name = run(wait=None)
    pause = {"Delay": 1, "MaxAttempts": 20}
    ec2.get_waiter("instance_running").wait(InstanceIds=[name], WaiterConfig=pause)
    ec2.get_waiter("instance_status_ok").wait(InstanceIds=[name], WaiterConfig=pause)
    ec2.terminate_instances(InstanceIds=[name])
    ec2.get_waiter("instance_terminated").wait(InstanceIds=[name], WaiterConfig=pause)


def test_a_forced_stop_pulls_the_plug(ec2: Any, run: Run, until: Callable[..., Any]) -> None:
    name = run()
    ec2.stop_instances(InstanceIds=[name], Force=True)
    until(lambda: state(ec2, name) == "stopped")


def test_a_terminated_instance_is_shown_for_an_hour(
    face: Face, ec2: Any, run: Run, until: Callable[..., Any]
) -> None:
    name = run()
    ec2.terminate_instances(InstanceIds=[name])
    until(lambda: state(ec2, name) == "terminated")
    with face.broker.store.transaction() as session:
        row = session.get_one(VMRow, name.replace("i-", "vm-"))
        assert row.terminated_at is not None
        row.terminated_at -= timedelta(minutes=61)
    assert refusal(ec2.describe_instances, InstanceIds=[name])[0] == "InvalidInstanceID.NotFound"
    assert name not in [instance["InstanceId"] for instance in instances_of(ec2)]


def test_what_no_host_can_hold_stays_pending_and_says_why(
    ec2: Any, run: Run, until: Callable[..., Any]
) -> None:
    name = run(InstanceType="huge", wait="pending")
    until(lambda: get(ec2, name)["StateReason"]["Message"] != "pending")
    assert "Placement" in get(ec2, name)


def test_a_network_interface_is_there_before_it_has_an_address(face: Face, ec2: Any, run: Run) -> None:
    name = run(InstanceType="huge", wait="pending", Placement={"AvailabilityZone": "campus"})
    instance = get(ec2, name)
    (interface,) = instance["NetworkInterfaces"]
    (nic,) = vm.get(face.broker, face.actor, name.replace("i-", "vm-")).nics
    assert interface["NetworkInterfaceId"] == nic.id.replace("nic-", "eni-")
    assert interface["MacAddress"] == nic.mac
    assert (interface["VpcId"], interface["SubnetId"]) == (instance["VpcId"], instance["SubnetId"])
    assert (interface["Status"], interface["Attachment"]["Status"]) == ("attaching", "attaching")
    assert interface["PrivateIpAddresses"] == []
    assert "PrivateIpAddress" not in interface
    for key, value in (
        ("network-interface-id", interface["NetworkInterfaceId"]),
        ("mac-address", interface["MacAddress"]),
        ("subnet-id", interface["SubnetId"]),
    ):
        asked = [{"Name": f"network-interface.{key}", "Values": [value]}]
        assert [one["InstanceId"] for one in instances_of(ec2, Filters=asked)] == [name]


def test_a_network_interface_lasts_as_long_as_its_instance(
    ec2: Any, run: Run, until: Callable[..., Any]
) -> None:
    name = run()
    (first,) = get(ec2, name)["NetworkInterfaces"]
    assert (first["Status"], first["Attachment"]["Status"]) == ("in-use", "attached")
    assert first["PrivateIpAddresses"] == [{"Primary": True, "PrivateIpAddress": first["PrivateIpAddress"]}]
    ec2.stop_instances(InstanceIds=[name], Force=True)
    until(lambda: state(ec2, name) == "stopped")
    assert get(ec2, name)["NetworkInterfaces"] == [first]
    ec2.terminate_instances(InstanceIds=[name])
    until(lambda: state(ec2, name) == "terminated")
    assert get(ec2, name)["NetworkInterfaces"] == []


def test_a_failed_vm_is_stopped_with_an_internal_error(face: Face, ec2: Any, run: Run) -> None:
    name = run()
    with face.broker.store.transaction() as session:
        row = session.get_one(VMRow, name.replace("i-", "vm-"))
        row.state, row.status_reason = VMState.ERROR, "the guest panicked"
    instance = get(ec2, name)
    assert instance["State"]["Name"] == "stopped"
    assert instance["StateReason"] == {"Code": "Server.InternalError", "Message": "the guest panicked"}


def test_a_suspended_vm_is_stopped_and_goes_on_when_it_is_started(
    face: Face, ec2: Any, run: Run, until: Callable[..., Any]
) -> None:
    name = run()
    broker, row_id = face.broker, name.replace("i-", "vm-")
    with broker.store.reading() as session:
        owner = session.get_one(VMRow, row_id).project_id
    power.suspend(broker, Actor(owner, "member", "ada"), row_id)
    until(lambda: vm.get(broker, Actor(owner, "member", "ada"), row_id).state == "suspended")
    instance = get(ec2, name)
    assert instance["State"]["Name"] == "stopped"
    assert instance["StateReason"]["Code"] == "Client.UserInitiatedHibernate"
    assert ec2.stop_instances(InstanceIds=[name])["StoppingInstances"][0]["CurrentState"]["Name"] == "stopped"
    ec2.start_instances(InstanceIds=[name])
    until(lambda: state(ec2, name) == "running")


# -- launching -------------------------------------------------------------------------------------------------


def test_the_same_client_token_gives_the_same_reservation(face: Face, ec2: Any, run: Run) -> None:
    given = {
        "ImageId": face.ami,
        "InstanceType": "t3.nano",
        "MinCount": 2,
        "MaxCount": 2,
        "ClientToken": "once",
        "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "twin"}]}],
    }
    first = ec2.run_instances(**given)
    again = ec2.run_instances(**given)
    assert again["ReservationId"] == first["ReservationId"]
    assert [i["InstanceId"] for i in again["Instances"]] == [i["InstanceId"] for i in first["Instances"]]
    assert [i["AmiLaunchIndex"] for i in first["Instances"]] == [0, 1]
    assert len(instances_of(ec2, Filters=values(client_token="once"))) == 2
    code, status, _ = refusal(ec2.run_instances, **{**given, "InstanceType": "t3.small"})
    assert (code, status) == ("IdempotentParameterMismatch", 400)
    shown = [tag["Key"] for tag in first["Instances"][0]["Tags"]]
    assert shown == ["Name"]


def test_two_instances_may_have_the_same_name_tag(face: Face, ec2: Any, run: Run) -> None:
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "same"}]}]
    first, second = run(TagSpecifications=tags), run(TagSpecifications=tags, ClientToken="second")
    assert run(TagSpecifications=tags, ClientToken="second") == second
    assert len(instances_of(ec2, Filters=values(tag__Name="same"))) == 2
    assert vm.get(face.broker, face.actor, "same").id == first.replace("i-", "vm-")
    odd = run(
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "My Web Server!"}]}]
    )
    assert get(ec2, odd)["Tags"] == [{"Key": "Name", "Value": "My Web Server!"}]


def test_a_subnet_and_an_address_are_what_was_asked_for(ec2: Any, run: Run) -> None:
    subnet = next(s for s in ec2.describe_subnets()["Subnets"] if s["AvailabilityZone"] == "annex")
    name = run(SubnetId=subnet["SubnetId"], PrivateIpAddress="10.10.2.77")
    instance = get(ec2, name)
    assert instance["PrivateIpAddress"] == "10.10.2.77"
    assert (instance["SubnetId"], instance["VpcId"]) == (subnet["SubnetId"], subnet["VpcId"])
    assert instance["Placement"]["AvailabilityZone"] == "annex"


def test_a_network_interface_names_the_subnet_as_well(ec2: Any, run: Run) -> None:
    subnet = next(s for s in ec2.describe_subnets()["Subnets"] if s["AvailabilityZone"] == "campus")
    interface = {"DeviceIndex": 0, "SubnetId": subnet["SubnetId"], "PrivateIpAddress": "10.10.1.99"}
    assert get(ec2, run(NetworkInterfaces=[interface]))["PrivateIpAddress"] == "10.10.1.99"


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"ImageId": "ami-00000000000000000"}, "InvalidAMIID.NotFound"),
        ({"ImageId": "tiny"}, "InvalidAMIID.Malformed"),
        ({"ImageId": ""}, "MissingParameter"),
        ({"InstanceType": "x9.huge"}, "InvalidInstanceType"),
        ({"KeyName": "nobody"}, "InvalidKeyPair.NotFound"),
        ({"SubnetId": "subnet-00000000000000000"}, "InvalidSubnetID.NotFound"),
        ({"SubnetId": "lan"}, "InvalidSubnetID.Malformed"),
        ({"Placement": {"AvailabilityZone": "mars"}}, "InvalidParameterValue"),
        ({"Placement": {"Tenancy": "dedicated"}}, "UnsupportedOperation"),
        ({"PrivateIpAddress": "10.99.0.1"}, "InvalidParameterValue"),
        ({"PrivateIpAddress": "10.10.1.50", "MaxCount": 2}, "InvalidParameterCombination"),
        ({"MinCount": 3}, "InvalidParameterValue"),
        ({"MinCount": 0}, "InvalidParameterValue"),
        ({"ClientToken": "x" * 65}, "InvalidParameterValue"),
        ({"UserData": "x" * 16_385}, "InvalidParameterValue"),
        ({"SecurityGroupIds": ["sg-1"]}, "InvalidGroup.NotFound"),
        ({"SecurityGroups": ["default"]}, "InvalidGroup.NotFound"),
        ({"InstanceInitiatedShutdownBehavior": "terminate"}, "UnsupportedOperation"),
        ({"IamInstanceProfile": {"Name": "x"}}, "UnsupportedOperation"),
        ({"BlockDeviceMappings": [{"DeviceName": "/dev/vdb"}]}, "UnsupportedOperation"),
        ({"DisableApiTermination": True}, "UnsupportedOperation"),
        ({"NetworkInterfaces": [{"DeviceIndex": 1}]}, "InvalidParameterValue"),
        ({"NetworkInterfaces": [{"DeviceIndex": 0}]}, "MissingParameter"),
        ({"TagSpecifications": [{"ResourceType": "volume", "Tags": []}]}, "InvalidParameterValue"),
        (
            {"TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "aws:x"}]}]},
            "InvalidParameterValue",
        ),
    ],
)
def test_a_launch_that_cannot_be_is_refused_and_makes_nothing(
    face: Face,
    ec2: Any,
    given: dict[str, Any],
    code: str,
) -> None:
    before = len(instances_of(ec2))
    request = {"ImageId": face.ami, "InstanceType": "t3.nano", "MinCount": 1, "MaxCount": 1, **given}
    assert refusal(ec2.run_instances, **request)[:2] == (code, 400)
    assert refusal(ec2.run_instances, **request, DryRun=True) == refusal(ec2.run_instances, **request)
    assert len(instances_of(ec2)) == before


def test_a_dry_run_changes_nothing(face: Face, ec2: Any, run: Run) -> None:
    name = run()
    before = len(instances_of(ec2))
    launch = {"ImageId": face.ami, "InstanceType": "t3.nano", "MinCount": 1, "MaxCount": 1}
    calls: list[tuple[Callable[..., object], dict[str, Any]]] = [
        (ec2.run_instances, launch),
        (ec2.stop_instances, {"InstanceIds": [name]}),
        (ec2.reboot_instances, {"InstanceIds": [name]}),
        (ec2.terminate_instances, {"InstanceIds": [name]}),
        (ec2.describe_instances, {}),
    ]
    for call, given in calls:
        assert refusal(call, **given, DryRun=True)[:2] == ("DryRunOperation", 412)
    assert (
        refusal(ec2.terminate_instances, InstanceIds=[GONE], DryRun=True)[0] == "InvalidInstanceID.NotFound"
    )
    assert state(ec2, name) == "running"
    assert len(instances_of(ec2)) == before


def test_user_data_may_lack_its_padding(face: Face, ec2: Any, until: Callable[..., Any]) -> None:
    sent: dict[str, Any] = {}

    def strip(params: dict[str, Any], **kwargs: Any) -> None:
        params["body"]["UserData"] = base64.b64encode(b"#!/bin/sh\n:\n").decode().rstrip("=")
        sent.update(params["body"])

    client = face.client()
    client.meta.events.register("before-call.ec2.RunInstances", strip)
    answer = client.run_instances(
        ImageId=face.ami, InstanceType="t3.nano", MinCount=1, MaxCount=1, UserData="x"
    )
    name = answer["Instances"][0]["InstanceId"]
    row = vm.get(face.broker, face.actor, name.replace("i-", "vm-"))
    assert face.broker.sealer.open(row.sealed_user_data) == "#!/bin/sh\n:\n"
    client.terminate_instances(InstanceIds=[name])


# -- what is not there -----------------------------------------------------------------------------------------


def test_one_wrong_id_fails_the_whole_call(ec2: Any, run: Run) -> None:
    name = run()
    for call in (
        ec2.describe_instances,
        ec2.terminate_instances,
        ec2.stop_instances,
        ec2.start_instances,
        ec2.reboot_instances,
        ec2.describe_instance_status,
    ):
        code, status, words = refusal(call, InstanceIds=[name, GONE])
        assert (code, status) == ("InvalidInstanceID.NotFound", 400)
        assert GONE in words
        assert refusal(call, InstanceIds=[name, "web-1"])[:2] == ("InvalidInstanceID.Malformed", 400)
        assert refusal(call, InstanceIds=["i-xyz"])[:2] == ("InvalidInstanceID.Malformed", 400)
    assert refusal(ec2.describe_instances, InstanceIds=["i-01234567"])[0] == "InvalidInstanceID.NotFound"
    assert state(ec2, name) == "running"


def test_a_state_that_does_not_allow_it_is_said(ec2: Any, run: Run, until: Callable[..., Any]) -> None:
    running, stopped = run(2)
    ec2.stop_instances(InstanceIds=[stopped])
    until(lambda: state(ec2, stopped) == "stopped")
    assert refusal(ec2.reboot_instances, InstanceIds=[running, stopped])[:2] == (
        "IncorrectInstanceState",
        400,
    )
    ec2.terminate_instances(InstanceIds=[stopped])
    until(lambda: state(ec2, stopped) == "terminated")
    assert refusal(ec2.start_instances, InstanceIds=[stopped])[0] == "IncorrectInstanceState"


def test_another_projects_instances_do_not_exist(face: Face, ec2: Any, run: Run) -> None:
    from broker import accesskey, project
    from broker.actor import SYSTEM

    name = run()
    other = project.create(face.broker, SYSTEM, name="other")
    for role in ("member", "admin"):
        key, secret = accesskey.create(face.broker, SYSTEM, project_ref=other.id, role=role)
        stranger = face.client(key.id, secret)
        assert stranger.describe_instances()["Reservations"] == []
        assert stranger.describe_tags()["Tags"] == []
        for call in (stranger.describe_instances, stranger.terminate_instances):
            assert refusal(call, InstanceIds=[name])[0] == "InvalidInstanceID.NotFound"
        code, _, _ = refusal(stranger.create_tags, Resources=[name], Tags=[{"Key": "a", "Value": "b"}])
        assert code == "InvalidInstanceID.NotFound"


def test_a_reader_may_look_and_not_touch(face: Face, ec2: Any, run: Run) -> None:
    from broker import accesskey
    from broker.actor import SYSTEM

    name = run()
    key, secret = accesskey.create(face.broker, SYSTEM, project_ref=face.actor.project_id, role="reader")
    reader = face.client(key.id, secret)
    assert get(reader, name)
    launch = {"ImageId": face.ami, "InstanceType": "t3.nano", "MinCount": 1, "MaxCount": 1}
    for call, given in (
        (reader.terminate_instances, {"InstanceIds": [name]}),
        (reader.run_instances, launch),
        (reader.run_instances, {**launch, "DryRun": True}),
        (reader.create_tags, {"Resources": [name], "Tags": [{"Key": "a", "Value": "b"}]}),
    ):
        assert refusal(call, **given)[:2] == ("UnauthorizedOperation", 403)


def test_a_full_quota_is_an_instance_limit(face: Face) -> None:
    from broker import accesskey, project
    from broker.actor import SYSTEM

    small = project.create(face.broker, SYSTEM, name="small", quota={"vms": 0})
    key, secret = accesskey.create(face.broker, SYSTEM, project_ref=small.id)
    launch = {"ImageId": face.ami, "InstanceType": "t3.nano", "MinCount": 1, "MaxCount": 1}
    for dry in (False, True):
        assert (
            refusal(face.client(key.id, secret).run_instances, **launch, DryRun=dry)[0]
            == "InstanceLimitExceeded"
        )


# -- filters and pages -----------------------------------------------------------------------------------------


def test_filters_find_by_what_people_use(face: Face, ec2: Any, run: Run, until: Callable[..., Any]) -> None:
    tagged = [{"ResourceType": "instance", "Tags": [{"Key": "Env", "Value": "prod*"}]}]
    one = run(TagSpecifications=tagged, KeyName="me", Placement={"AvailabilityZone": "annex"})
    two = run(InstanceType="t3.small", Placement={"AvailabilityZone": "campus"})
    ec2.stop_instances(InstanceIds=[two])
    until(lambda: state(ec2, two) == "stopped")
    first = get(ec2, one)

    def found(*filters: dict[str, Any], **given: Any) -> set[str]:
        return {
            i["InstanceId"]
            for i in instances_of(ec2, Filters=[*filters, *values(**given)])
            if i["State"]["Name"] != "terminated"
        }

    assert found(instance_state_name="running") == {one}
    assert found(instance_state_code="80") == {two}
    assert found({"Name": "instance-state-name", "Values": ["running", "stopped"]}) == {one, two}
    assert found(tag__Env="prod\\*") == {one}
    assert found(tag__Env="p*") == {one}
    assert found(tag_key="Env") == {one}
    assert found(instance_type="t3.s*") == {two}
    assert found(key_name="me") == {one}
    assert found(availability_zone="annex") == {one}
    assert found(private_ip_address=first["PrivateIpAddress"]) == {one}
    assert found(subnet_id=first["SubnetId"]) == {one}
    assert found(vpc_id=first["VpcId"]) == {one, two}
    assert found(image_id=face.ami, owner_id=face.account) == {one, two}
    assert found(reservation_id="r-*", instance_id=two) == {two}
    assert found({"Name": "network-interface.addresses.private-ip-address", "Values": ["10.10.2.*"]}) == {one}
    assert found({"Name": "instance.group-name", "Values": ["*"]}) == set()
    code, _, words = refusal(ec2.describe_instances, Filters=values(colour="red"))
    assert code == "InvalidParameterValue"
    assert "The filter 'colour' is invalid" in words


def test_what_a_filter_says_exactly_is_looked_up(
    face: Face, ec2: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from broker import vm

    for _ in range(2):
        answer = ec2.run_instances(ImageId=face.ami, InstanceType="t3.nano", MinCount=3, MaxCount=3)
        assert [i["AmiLaunchIndex"] for i in answer["Instances"]] == [0, 1, 2]
    last = answer["Instances"][2]["InstanceId"]
    read = []
    plain = vm.list_vms

    def list_vms(*args: Any, **kwargs: Any) -> Sequence[VMRow]:
        rows = plain(*args, **kwargs)
        read.append(len(rows))
        return rows

    monkeypatch.setattr(vm, "list_vms", list_vms)
    for exact in (values(instance_id=last), values(reservation_id=answer["ReservationId"], launch_index="2")):
        read.clear()
        (found,) = ec2.describe_instances(Filters=exact)["Reservations"]
        assert [(i["InstanceId"], i["AmiLaunchIndex"]) for i in found["Instances"]] == [(last, 2)]
        assert sum(read) <= 3
    for nothing in (
        values(instance_id="nonsense"),
        values(tag__Name="none"),
        values(client_token="none"),
        values(key_name="none"),
    ):
        read.clear()
        assert ec2.describe_instances(Filters=nothing)["Reservations"] == []
        assert sum(read) == 0


def test_vms_of_one_moment_are_paged_without_loss(face: Face, ec2: Any, run: Run) -> None:
    from sqlalchemy import update

    from broker.store import VMRow

    names = {run(wait=None) for _ in range(13)}
    with face.broker.store.transaction() as session:
        session.execute(update(VMRow).values(created_at=face.broker.clock.now()))
    seen, token = [], None
    while True:
        page = ec2.describe_instances(MaxResults=5, **({"NextToken": token} if token else {}))
        seen += [i["InstanceId"] for r in page["Reservations"] for i in r["Instances"]]
        token = page.get("NextToken")
        if token is None:
            break
    assert len(seen) == len(set(seen))
    assert names <= set(seen)


def test_pages_are_followed_while_instances_come_and_go(
    ec2: Any, run: Run, until: Callable[..., Any]
) -> None:
    names = [run(wait=None) for _ in range(12)]
    until(lambda: all(state(ec2, name) == "running" for name in names))
    running = values(instance_state_name="running")
    first = ec2.describe_instances(MaxResults=5, Filters=running)
    seen = [i["InstanceId"] for r in first["Reservations"] for i in r["Instances"]]
    assert seen == names[:5]
    ec2.stop_instances(InstanceIds=seen[:1])  # it leaves the list between two pages
    until(lambda: state(ec2, names[0]) == "stopped")
    second = ec2.describe_instances(MaxResults=5, Filters=running, NextToken=first["NextToken"])
    assert [i["InstanceId"] for r in second["Reservations"] for i in r["Instances"]] == names[5:10]
    third = ec2.describe_instances(MaxResults=5, Filters=running, NextToken=second["NextToken"])
    assert [i["InstanceId"] for r in third["Reservations"] for i in r["Instances"]] == names[10:]
    assert "NextToken" not in third
    paginator = ec2.get_paginator("describe_instances")
    pages = list(paginator.paginate(PaginationConfig={"PageSize": 5}))
    assert {i["InstanceId"] for p in pages for r in p["Reservations"] for i in r["Instances"]} >= set(names)
    assert refusal(ec2.describe_instances, MaxResults=4)[0] == "InvalidParameterValue"
    assert refusal(ec2.describe_instances, MaxResults=5, NextToken="x")[0] == "InvalidParameterValue"
    assert (
        refusal(ec2.describe_instances, MaxResults=5, InstanceIds=names[:1])[0]
        == "InvalidParameterCombination"
    )


# -- the rest --------------------------------------------------------------------------------------------------


def test_the_status_of_running_instances_is_ok_and_of_others_shown_when_asked(
    ec2: Any, run: Run, until: Callable[..., Any]
) -> None:
    one, two = run(2)
    ec2.stop_instances(InstanceIds=[two])
    until(lambda: state(ec2, two) == "stopped")
    assert [
        s["InstanceId"] for s in ec2.describe_instance_status(InstanceIds=[one, two])["InstanceStatuses"]
    ] == [one]
    everything = ec2.describe_instance_status(InstanceIds=[one, two], IncludeAllInstances=True)[
        "InstanceStatuses"
    ]
    assert {s["InstanceId"]: s["InstanceStatus"]["Status"] for s in everything} == {
        one: "ok",
        two: "not-applicable",
    }


def test_the_console_is_base64_and_boto3_shows_its_text(ec2: Any, run: Run) -> None:
    answer = ec2.get_console_output(InstanceId=run())
    assert isinstance(answer["Output"], str)
    assert answer["Timestamp"]
    assert refusal(ec2.get_console_output, InstanceId=GONE)[0] == "InvalidInstanceID.NotFound"
