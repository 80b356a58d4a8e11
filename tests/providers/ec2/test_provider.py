"""The EC2 provider against moto over loopback HTTP."""

from __future__ import annotations

import base64
import dataclasses
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from providers.ec2 import Ec2Provider
from providers.port import (
    AuthenticationFailed,
    Capability,
    Conflict,
    ImageSpec,
    InvalidSpec,
    NotFound,
    OutOfCapacity,
    Provider,
    ProviderError,
    QuotaExceeded,
    Unreachable,
    Unsupported,
    VMSpec,
    VMState,
    split_strangers,
)

if TYPE_CHECKING:
    from tests.providers.ec2.conftest import ManualClock, Wire

VM = "vm-00000000000000001"
HOST = "eu-central-1a/t3.small"


def live(ec2: Any) -> list[dict[str, Any]]:
    return [
        instance
        for reservation in ec2.describe_instances()["Reservations"]
        for instance in reservation["Instances"]
        if instance["State"]["Name"] not in ("terminated", "shutting-down")
    ]


def test_it_is_a_provider_and_makes_no_call_before_it_is_asked_to(
    make: Callable[..., Ec2Provider], wire: Wire
) -> None:
    provider = make()
    assert isinstance(provider, Provider)
    assert Capability.ELASTIC in provider.capabilities
    assert wire.seen == []


# -- the site --------------------------------------------------------------------------------------------------


def test_each_zone_and_instance_type_is_an_elastic_host_with_its_price(
    make: Callable[..., Ec2Provider],
) -> None:
    provider = make(quota_vcpus=64)
    provider.check()
    hosts = {host.name: host for host in provider.inventory()}
    assert sorted(hosts) == [f"eu-central-1{z}/t3.{s}" for z in "abc" for s in ("medium", "small")]
    small = hosts[HOST]
    assert small.elastic
    assert small.reachable
    assert small.attributes["cpu_total"] == 2
    assert small.attributes["mem_total_mb"] == 2048
    assert small.attributes["arch"] == "x86_64"
    assert small.attributes["zone"] == "eu-central-1a"
    assert small.attributes["instance_type"] == "t3.small"
    assert small.attributes["elastic"] == 1.0
    assert small.attributes["quota_vcpus"] == 64
    price, higher = (hosts[name].attributes["price_hour"] for name in (HOST, "eu-central-1a/t3.medium"))
    assert isinstance(price, float)
    assert isinstance(higher, float)
    assert 0 < price < higher


def test_zones_prices_and_globs_narrow_and_override_what_is_offered(make: Callable[..., Ec2Provider]) -> None:
    provider = make(
        zones="eu-central-1b", instance_types="t3.n*", prices={"t3.nano": 0.5}, price_region="us-east-1"
    )
    (host,) = provider.inventory()
    assert host.name == "eu-central-1b/t3.nano"
    assert host.attributes["price_hour"] == 0.5


def test_a_price_that_the_table_does_not_know_is_undefined_and_not_free(
    make: Callable[..., Ec2Provider],
) -> None:
    (host,) = make(zones="eu-central-1b", instance_types="t3.nano", price_region="lab").inventory()
    assert host.attributes["price_hour"] is None
    # libcloud's table says 0.0 for what it does not know
    (host,) = make(zones="eu-central-1b", instance_types="t3.small", price_region="ca-central-1").inventory()
    assert host.attributes["price_hour"] is None


def test_without_instance_types_the_defaults_that_are_offered_count(make: Callable[..., Ec2Provider]) -> None:
    names = {host.attributes["instance_type"] for host in make(instance_types=None).inventory()}
    assert {"t3.small", "m7i.large"} <= names
    assert len(names) <= 10


def test_types_are_asked_for_at_most_every_ten_minutes(
    make: Callable[..., Ec2Provider], wire: Wire, clock: ManualClock
) -> None:
    provider = make()
    provider.inventory()
    clock.now += 599
    provider.inventory()
    assert wire.seen.count("DescribeInstanceTypes") == 1
    clock.now += 2
    provider.inventory()
    assert wire.seen.count("DescribeInstanceTypes") == 2


def test_paged_lists_are_read_to_the_end(
    make: Callable[..., Ec2Provider], spec: Callable[..., VMSpec], ec2: Any, clock: ManualClock, wire: Wire
) -> None:
    provider = make()
    for _ in range(7):  # a page holds reservations, and each of these calls makes one
        ec2.run_instances(ImageId=spec().image.remote_id, MinCount=1, MaxCount=1, InstanceType="t3.small")
    pages = list(provider._client.pages("describe_instances", clock, size=5))
    assert [len(page["Reservations"]) for page in pages] == [5, 2]
    assert wire.seen.count("DescribeInstances") == 2


def test_pages_without_end_are_given_up_at_the_deadline(
    make: Callable[..., Ec2Provider], spec: Callable[..., VMSpec], ec2: Any, clock: ManualClock
) -> None:
    for _ in range(7):
        ec2.run_instances(ImageId=spec().image.remote_id, MinCount=1, MaxCount=1, InstanceType="t3.small")
    pages = make()._client.pages("describe_instances", clock, size=5)
    next(pages)
    clock.now += 13
    with pytest.raises(Unreachable, match="took more than 12 s"):
        next(pages)


def test_a_cloud_that_stops_answering_leaves_its_hosts_known_but_unreachable(
    make: Callable[..., Ec2Provider], wire: Wire
) -> None:
    provider = make()
    assert all(host.reachable for host in provider.inventory())
    wire.plan["DescribeAvailabilityZones"] = ["refuse"] * 2
    hosts = provider.inventory()
    assert hosts
    assert not any(host.reachable for host in hosts)
    assert "DescribeAvailabilityZones" in hosts[0].reason or "describe_availability_zones" in hosts[0].reason


def test_a_dead_endpoint_is_unreachable_in_words(make: Callable[..., Ec2Provider]) -> None:
    provider = make(endpoint="http://127.0.0.1:1")
    for call in (provider.check, provider.inventory, provider.list_vms):
        with pytest.raises(Unreachable, match="aws: no answer to"):
            call()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"region": None}, "option region is missing"),
        ({"regoin": "x"}, "unknown option 'regoin'"),
        ({"endpoint": "ec2.example.org"}, "must be a URL"),
        ({"quota_vcpus": "many"}, "option quota_vcpus must be a number"),
        ({"prices": {"t3.small": -1}}, "option prices.t3.small must be a number"),
        ({"prices": [1]}, "option prices must be a mapping"),
        ({"instance_types": 7}, "option instance_types must be a list"),
        ({"subnets": {"a": 1}}, "option subnets"),
        ({"ca_pem": "no"}, "holds no certificate"),
        ({"ca_file": "/nowhere/ca.pem"}, "there is no file"),
        ({"zones": "eu-central-1q"}, "has no zone 'eu-central-1q'"),
        ({"instance_types": "z9.*"}, "offers none of the instance types"),
    ],
)
def test_a_wrong_option_is_named_by_check(
    make: Callable[..., Ec2Provider],
    options: dict[str, Any],
    words: str,
) -> None:
    with pytest.raises(InvalidSpec, match=words):
        make(**options).check()


def test_a_missing_credential_is_named_and_a_secret_never_shown(make: Callable[..., Ec2Provider]) -> None:
    with pytest.raises(InvalidSpec, match="credential secret_access_key is missing"):
        make(credentials={"access_key_id": "AKIA1"}).check()
    provider = make()
    provider.check()
    assert "hush" not in repr(provider._client._credentials)


# -- launches --------------------------------------------------------------------------------------------------


def test_a_vm_is_launched_with_marks_user_data_and_imdsv2(
    make: Callable[..., Ec2Provider], ec2: Any, spec: Callable[..., VMSpec], wire: Wire
) -> None:
    provider = make()
    report = provider.ensure_vm(
        spec(user_data="#!/bin/sh\necho hello\n", labels={"tier": "web", "aws:x": "no"})
    )
    assert (report.vm_id, report.broker_id, report.name, report.host) == (VM, "b-1", "web-1", HOST)
    assert report.state in (VMState.PENDING, VMState.RUNNING)
    assert (report.vcpus, report.mem_mb) == (2, 2048)
    (instance,) = live(ec2)
    assert instance["InstanceId"] == report.ref
    assert instance["Placement"]["AvailabilityZone"] == "eu-central-1a"
    assert {tag["Key"]: tag["Value"] for tag in instance["Tags"]} == {
        "isthmus:broker": "b-1",
        "isthmus:vm": VM,
        "Name": "web-1",
        "tier": "web",
    }
    data = ec2.describe_instance_attribute(InstanceId=report.ref, Attribute="userData")["UserData"]["Value"]
    assert base64.b64decode(data) == b"#!/bin/sh\necho hello\n"
    form = next(form for form in wire.forms if form["Action"] == ["RunInstances"])
    assert form["MetadataOptions.HttpTokens"] == ["required"]
    assert form["MetadataOptions.HttpPutResponseHopLimit"] == ["1"]
    assert form["ClientToken"] == [f"op-{VM}"]


def test_ensuring_a_vm_twice_launches_one_instance(
    make: Callable[..., Ec2Provider], ec2: Any, spec: Callable[..., VMSpec]
) -> None:
    provider = make()
    assert provider.ensure_vm(spec()).ref == provider.ensure_vm(spec()).ref
    assert make().ensure_vm(spec()).ref == live(ec2)[0]["InstanceId"]
    assert len(live(ec2)) == 1


def test_an_instance_whose_answer_was_lost_is_adopted(
    make: Callable[..., Ec2Provider], ec2: Any, spec: Callable[..., VMSpec], wire: Wire
) -> None:
    provider = make()
    wire.plan["RunInstances"] = ["lose", "refuse"]
    with pytest.raises(Unreachable):
        provider.ensure_vm(spec())
    (lost,) = live(ec2)
    assert provider.ensure_vm(spec()).ref == lost["InstanceId"]
    assert len(live(ec2)) == 1


def test_a_launch_repeated_with_other_parameters_adopts_what_the_token_made(
    make: Callable[..., Ec2Provider],
    ec2: Any,
    spec: Callable[..., VMSpec],
    wire: Wire,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    provider = make()
    first = provider.ensure_vm(spec())
    wire.plan["RunInstances"] = [(400, "IdempotentParameterMismatch")]
    # The list does not show the instance yet, and moto has no client-token filter.
    monkeypatch.setattr(provider, "_marked", lambda vm_id: [])
    monkeypatch.setattr(provider, "_by_token", lambda token: provider._by_ref(first.ref))
    assert provider.ensure_vm(spec(host="eu-central-1a/t3.medium", instance_type="")).ref == first.ref
    wire.plan["RunInstances"] = [(400, "IdempotentParameterMismatch")]
    with pytest.raises(Conflict):
        provider.ensure_vm(spec("vm-00000000000000002"))


def test_a_subnet_is_taken_for_its_zone_and_security_groups_are_given(
    make: Callable[..., Ec2Provider], ec2: Any, spec: Callable[..., VMSpec]
) -> None:
    subnet = next(s for s in ec2.describe_subnets()["Subnets"] if s["AvailabilityZone"] == "eu-central-1a")
    group = ec2.create_security_group(GroupName="burst", Description="burst", VpcId=subnet["VpcId"])[
        "GroupId"
    ]
    provider = make(subnets={"eu-central-1a": subnet["SubnetId"]}, security_group_ids=group)
    provider.ensure_vm(spec())
    (instance,) = live(ec2)
    assert instance["SubnetId"] == subnet["SubnetId"]
    assert [g["GroupId"] for g in instance["SecurityGroups"]] == [group]


def test_a_subnet_of_another_zone_is_found_before_the_first_launch(
    make: Callable[..., Ec2Provider], ec2: Any
) -> None:
    subnet = next(s for s in ec2.describe_subnets()["Subnets"] if s["AvailabilityZone"] == "eu-central-1a")
    make(subnet_id=subnet["SubnetId"], zones="eu-central-1a").check()
    make(subnets={"eu-central-1a": subnet["SubnetId"]}).check()
    with pytest.raises(
        InvalidSpec, match=r"is in the zone eu-central-1a and cannot serve eu-central-1b.*option zones"
    ):
        make(subnet_id=subnet["SubnetId"]).check()
    with pytest.raises(InvalidSpec, match=r"options subnet_id and subnets.*InvalidSubnetID\.NotFound"):
        make(subnet_id="subnet-00000000000000000").check()


def test_a_disk_larger_than_the_image_enlarges_the_root_device(
    make: Callable[..., Ec2Provider], ec2: Any, spec: Callable[..., VMSpec], wire: Wire
) -> None:
    provider = make()
    root = provider._images.find(spec().image)
    assert root.root_gb > 0
    provider.ensure_vm(spec(disk_gb=root.root_gb))
    assert "BlockDeviceMapping.1.DeviceName" not in wire.forms[-1]
    provider.ensure_vm(spec("vm-00000000000000002", disk_gb=root.root_gb + 7))
    assert wire.forms[-1]["BlockDeviceMapping.1.Ebs.VolumeSize"] == [str(root.root_gb + 7)]


def test_ssh_keys_join_a_script_in_a_multipart_archive_that_is_the_same_each_time(
    make: Callable[..., Ec2Provider], ec2: Any, spec: Callable[..., VMSpec]
) -> None:
    from email import message_from_string

    from providers.ec2.userdata import compose

    given = spec(user_data="#!/bin/sh\ntrue\n", ssh_keys=("ssh-ed25519 AAAA me",))
    text = compose(given)
    assert text == compose(given)
    parts = [part for part in message_from_string(text).walk() if not part.is_multipart()]
    assert [part.get_content_type() for part in parts] == ["text/cloud-config", "text/x-shellscript"]
    assert "ssh-ed25519 AAAA me" in parts[0].get_payload()
    assert parts[1].get_payload(decode=True) == b"#!/bin/sh\ntrue\n"
    again = compose(dataclasses.replace(given, user_data=text, ssh_keys=("ssh-rsa BBBB you",)))
    assert len([part for part in message_from_string(again).walk() if not part.is_multipart()]) == 3
    assert compose(spec(ssh_keys=("ssh-rsa CCCC she",))).startswith("#cloud-config\n")


def test_what_cannot_be_launched_is_refused_before_the_cloud_is_asked(
    make: Callable[..., Ec2Provider], spec: Callable[..., VMSpec], wire: Wire
) -> None:
    provider = make()
    with pytest.raises(InvalidSpec, match="16384"):
        provider.ensure_vm(spec(user_data="#!" + "x" * 16_384))
    with pytest.raises(InvalidSpec, match="zone/type"):
        provider.ensure_vm(spec(host="kvm-1"))
    with pytest.raises(InvalidSpec, match="was asked for on host"):
        provider.ensure_vm(spec(instance_type="t3.large"))
    with pytest.raises(InvalidSpec, match="has no token"):
        provider.ensure_vm(spec(token=""))
    assert "RunInstances" not in wire.seen


def test_the_quota_holds_even_for_launches_at_the_same_time(
    make: Callable[..., Ec2Provider], ec2: Any, spec: Callable[..., VMSpec]
) -> None:
    provider = make(quota_vcpus=4)
    refused = []

    def launch(number: int) -> None:
        try:
            provider.ensure_vm(spec(f"vm-0000000000000000{number}"))
        except QuotaExceeded as error:
            refused.append(str(error))

    threads = [threading.Thread(target=launch, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(live(ec2)) == 2
    assert len(refused) == 2
    assert "4 of quota_vcpus 4 are in use" in refused[0]


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "InstanceLimitExceeded", QuotaExceeded),
        (400, "VcpuLimitExceeded", QuotaExceeded),
        (403, "UnauthorizedOperation", AuthenticationFailed),
        (401, "AuthFailure", AuthenticationFailed),
        (403, "SignatureDoesNotMatch", AuthenticationFailed),
        (400, "InvalidParameterValue", InvalidSpec),
        (400, "InvalidParameterCombination", InvalidSpec),
        (400, "InvalidAMIID.NotFound", NotFound),
        (400, "InvalidSubnetID.NotFound", NotFound),
        (400, "InvalidAction", Unsupported),
        (400, "SomethingNew", ProviderError),
    ],
)
def test_refusals_come_back_in_the_ports_words_with_the_clouds_code(
    make: Callable[..., Ec2Provider],
    spec: Callable[..., VMSpec],
    wire: Wire,
    status: int,
    code: str,
    kind: type[ProviderError],
) -> None:
    provider = make()
    wire.plan["RunInstances"] = [(status, code)]
    with pytest.raises(kind, match="run_instances") as caught:
        provider.ensure_vm(spec())
    assert type(caught.value) is kind
    assert caught.value.code == code
    assert code in str(caught.value)


def test_a_full_zone_is_out_of_capacity_after_the_retries(
    make: Callable[..., Ec2Provider], spec: Callable[..., VMSpec], wire: Wire
) -> None:
    provider = make()
    wire.plan["RunInstances"] = [(500, "InsufficientInstanceCapacity")] * 2
    with pytest.raises(OutOfCapacity, match="InsufficientInstanceCapacity"):
        provider.ensure_vm(spec())
    assert wire.plan["RunInstances"] == []


def test_one_lost_answer_is_asked_again_by_itself(make: Callable[..., Ec2Provider], wire: Wire) -> None:
    wire.plan["DescribeAvailabilityZones"] = ["lose"]
    make().check()


# -- images ----------------------------------------------------------------------------------------------------


def test_an_image_is_there_when_its_ami_is(
    make: Callable[..., Ec2Provider], spec: Callable[..., VMSpec], wire: Wire
) -> None:
    provider = make()
    provider.ensure_image(HOST, spec().image)
    provider.ensure_image(HOST, spec().image)
    assert wire.seen.count("DescribeImages") == 1


def test_an_image_that_is_not_mapped_or_gone_is_not_found_with_the_mend(
    make: Callable[..., Ec2Provider],
) -> None:
    provider = make()
    with pytest.raises(NotFound, match="isthmus image map debian aws=ami"):
        provider.ensure_image(HOST, ImageSpec(id="img-1", name="debian"))
    with pytest.raises(NotFound, match="ami-00000000000000000"):
        provider.ensure_image(HOST, ImageSpec(id="img-1", name="debian", remote_id="ami-00000000000000000"))


# -- life ------------------------------------------------------------------------------------------------------


def test_an_instance_launched_a_moment_ago_is_not_taken_for_gone(
    make: Callable[..., Ec2Provider],
    spec: Callable[..., VMSpec],
    ec2: Any,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    provider = make()
    report = provider.ensure_vm(spec())
    ec2.terminate_instances(InstanceIds=[report.ref])
    # Stands for the seconds in which EC2 does not show a new instance anywhere.
    monkeypatch.setattr(provider, "_by_ref", lambda ref: None)
    monkeypatch.setattr(provider, "_instances", lambda filters=(): [])
    with pytest.raises(ProviderError, match=r"does not show .* yet"):
        provider.observe_vm(HOST, VM, report.ref)
    assert HOST not in provider.list_vms().complete
    clock.now += 61
    assert provider.observe_vm(HOST, VM, report.ref) is None
    assert HOST in provider.list_vms().complete


def test_the_listing_tells_ours_from_strangers_and_anothers(
    make: Callable[..., Ec2Provider], spec: Callable[..., VMSpec], ec2: Any
) -> None:
    ami = spec().image.remote_id
    stranger = ec2.run_instances(ImageId=ami, MinCount=1, MaxCount=1, InstanceType="t3.small")["Instances"][0]
    make(broker_id="b-2").ensure_vm(spec("vm-00000000000000002"))
    provider = make()
    mine = provider.ensure_vm(spec())
    listing = provider.list_vms()
    ours, others = split_strangers(listing.vms, "b-1")
    assert [vm.ref for vm in ours] == [mine.ref]
    assert len(others) == 2
    assert next(vm for vm in others if vm.ref == stranger["InstanceId"]).vm_id == ""
    assert HOST in listing.complete


def test_a_strangers_instance_is_never_terminated(
    make: Callable[..., Ec2Provider], spec: Callable[..., VMSpec], ec2: Any
) -> None:
    ami = spec().image.remote_id
    stranger = ec2.run_instances(ImageId=ami, MinCount=1, MaxCount=1, InstanceType="t3.small")["Instances"][0]
    with pytest.raises(Conflict, match="not ours to terminate"):
        make().delete_vm(HOST, VM, stranger["InstanceId"])
    assert len(live(ec2)) == 1
    assert make().observe_vm(HOST, VM, stranger["InstanceId"]) is None


def test_every_instance_of_a_vm_goes_when_there_are_two(
    make: Callable[..., Ec2Provider], spec: Callable[..., VMSpec], ec2: Any
) -> None:
    provider = make()
    provider.ensure_vm(spec())
    make(broker_id="b-1").ensure_vm(spec("vm-00000000000000002"))
    twin = provider.ensure_vm(spec("vm-00000000000000002"))
    ec2.create_tags(Resources=[twin.ref], Tags=[{"Key": "isthmus:vm", "Value": VM}])
    provider.delete_vm(HOST, VM)
    assert live(ec2) == []


def test_a_termination_behind_our_back_is_reported_with_its_reason(
    make: Callable[..., Ec2Provider], spec: Callable[..., VMSpec], ec2: Any
) -> None:
    provider = make()
    ref = provider.ensure_vm(spec()).ref
    ec2.terminate_instances(InstanceIds=[ref])
    (report,) = provider.list_vms().vms
    assert report.state is VMState.TERMINATED


# -- spare capacity ----------------------------------------------------------------------------------------------------

SPOT = f"{HOST}/spot"


def test_spare_capacity_is_a_host_of_its_own_where_the_site_buys_it(
    make: Callable[..., Ec2Provider], wire: Wire
) -> None:
    assert not any(host.attributes["spot"] for host in make().inventory())
    assert "DescribeSpotPriceHistory" not in wire.seen
    provider = make(spot=True)
    assert Capability.SPOT in provider.capabilities
    hosts = {host.name: host for host in provider.inventory()}
    assert hosts[HOST].attributes["spot"] == 0
    assert hosts[SPOT].attributes["spot"] == 1
    price = hosts[SPOT].attributes["price_hour"]
    assert isinstance(price, float)
    assert price > 0
    assert hosts[SPOT].attributes["instance_type"] == "t3.small"


def test_vm_on_spare_capacity_is_launched_as_spot_and_seen_as_such(
    make: Callable[..., Ec2Provider], spec: Callable[..., VMSpec], wire: Wire, ec2: Any
) -> None:
    provider = make(spot=True)
    provider.inventory()
    report = provider.ensure_vm(spec(host=SPOT))
    assert report.host == SPOT
    (form,) = [form for form in wire.forms if form["Action"] == ["RunInstances"]]
    assert form["InstanceMarketOptions.MarketType"] == ["spot"]
    assert form["InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior"] == ["terminate"]
    assert [instance["InstanceLifecycle"] for instance in live(ec2)] == ["spot"]
    listing = provider.list_vms()
    assert [vm.host for vm in listing.vms] == [SPOT]
    assert {HOST, SPOT} <= listing.complete
    assert provider.ensure_vm(spec(host=SPOT)).ref == report.ref


def test_option_spot_is_true_or_false(make: Callable[..., Ec2Provider]) -> None:
    with pytest.raises(InvalidSpec, match="true or false"):
        make(spot="yes").check()
