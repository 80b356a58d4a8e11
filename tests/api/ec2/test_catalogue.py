"""Regions, zones, instance types, images, VPCs, subnets, key pairs and tags through boto3."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from api.ec2 import ids
from api.ec2.paging import _query
from broker import accesskey, flavor, image, network, project, site, vm
from broker.actor import SYSTEM
from broker.size import Size
from broker.store import ImageRow, NetworkRow, SubnetRow

if TYPE_CHECKING:
    from tests.api.ec2.conftest import Face

PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDMmqOD3D8j3yqXBEVAhcYSg4+sZaMS8uQd+pZ0Q0F0g me@example"


def refusal(call: Callable[..., object], **given: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**given)
    return str(caught.value.response["Error"]["Code"])


def only(name: str, *values: str) -> list[dict[str, list[str] | str]]:
    return [{"Name": name, "Values": list(values)}]


@pytest.fixture
def instance(face: Face, ec2: Any) -> Iterator[str]:
    answer = ec2.run_instances(ImageId=face.ami, InstanceType="t3.nano", MinCount=1, MaxCount=1)
    name = answer["Instances"][0]["InstanceId"]
    yield name
    ec2.terminate_instances(InstanceIds=[name])


# -- regions and zones -----------------------------------------------------------------------------------------


def test_the_broker_is_one_region(face: Face, ec2: Any) -> None:
    (region,) = ec2.describe_regions()["Regions"]
    assert region["RegionName"] == "lab-1"
    assert region["Endpoint"] == f"127.0.0.1:{face.port}"
    assert ec2.describe_regions(RegionNames=["lab-1"], AllRegions=True)["Regions"] == [region]
    assert ec2.describe_regions(Filters=only("region-name", "x*"))["Regions"] == []
    assert refusal(ec2.describe_regions, RegionNames=["us-east-1"]) == "InvalidParameterValue"


def test_sites_of_hosts_are_zones_and_clouds_are_not(face: Face, ec2: Any) -> None:
    types = {"c1": {"vcpus": 1, "mem_mb": 512, "price_hour": 0.1}}
    cloud = {"elastic": True, "zones": ["z1"], "types": types}
    site.create(face.broker, SYSTEM, name="rented", kind="simulated", options=cloud)
    try:
        zones = ec2.describe_availability_zones()["AvailabilityZones"]
        assert [zone["ZoneName"] for zone in zones] == ["annex", "campus"]
        assert {zone["State"] for zone in zones} == {"available"}
        assert {zone["RegionName"] for zone in zones} == {"lab-1"}
        offers = ec2.describe_instance_type_offerings(LocationType="availability-zone")[
            "InstanceTypeOfferings"
        ]
        assert "rented" not in {offer["Location"] for offer in offers}
    finally:
        site.delete(face.broker, SYSTEM, "rented")
    (zone,) = ec2.describe_availability_zones(ZoneNames=["annex"])["AvailabilityZones"]
    assert ec2.describe_availability_zones(ZoneIds=[zone["ZoneId"]])["AvailabilityZones"] == [zone]
    assert refusal(ec2.describe_availability_zones, ZoneNames=["annex", "mars"]) == "InvalidParameterValue"


# -- instance types --------------------------------------------------------------------------------------------


def test_flavors_are_instance_types(ec2: Any) -> None:
    types = {item["InstanceType"]: item for item in ec2.describe_instance_types()["InstanceTypes"]}
    assert set(types) == {"t3.nano", "t3.small", "huge"}
    assert types["t3.small"]["VCpuInfo"]["DefaultVCpus"] == 2
    assert types["t3.small"]["MemoryInfo"]["SizeInMiB"] == 2048
    assert types["t3.small"]["ProcessorInfo"]["SupportedArchitectures"] == ["x86_64"]
    (one,) = ec2.describe_instance_types(InstanceTypes=["huge"])["InstanceTypes"]
    assert one == types["huge"]
    assert "GpuInfo" not in one
    filtered = ec2.describe_instance_types(Filters=only("instance-type", "t3.*"))["InstanceTypes"]
    assert [item["InstanceType"] for item in filtered] == ["t3.nano", "t3.small"]
    assert refusal(ec2.describe_instance_types, InstanceTypes=["huge", "x"]) == "InvalidInstanceType"
    assert refusal(ec2.describe_instance_types, MaxResults=101) == "InvalidParameterValue"


def test_gpus_of_a_flavor_are_told(ec2: Any, face: Face) -> None:
    flavor.create(face.broker, SYSTEM, name="p3.small", size=Size(vcpus=1, mem_mb=64, disk_gb=1, gpus=2))
    (one,) = ec2.describe_instance_types(InstanceTypes=["p3.small"])["InstanceTypes"]
    assert one["GpuInfo"]["Gpus"] == [{"Count": 2}]
    flavor.delete(face.broker, SYSTEM, "p3.small")


def test_a_type_is_offered_where_a_host_is_large_enough(ec2: Any) -> None:
    def offers(**given: Any) -> list[tuple[str, str]]:
        answer = ec2.describe_instance_type_offerings(**given)["InstanceTypeOfferings"]
        return [(offer["InstanceType"], offer["Location"]) for offer in answer]

    assert offers() == [("t3.nano", "lab-1"), ("t3.small", "lab-1")]
    assert offers(LocationType="availability-zone") == [
        ("t3.nano", "annex"),
        ("t3.nano", "campus"),
        ("t3.small", "campus"),
    ]
    assert offers(LocationType="availability-zone", Filters=only("location", "annex")) == [
        ("t3.nano", "annex")
    ]
    assert offers(LocationType="outpost") == []


# -- images ----------------------------------------------------------------------------------------------------


def test_the_catalogue_is_ones_own_and_public(face: Face, ec2: Any) -> None:
    (image,) = ec2.describe_images()["Images"]
    assert (image["ImageId"], image["Name"], image["State"]) == (face.ami, "tiny", "available")
    assert image["OwnerId"] == face.account
    for given in (
        {"ImageIds": [face.ami]},
        {"Owners": ["self"]},
        {"Owners": [face.account]},
        {"Filters": only("name", "ti*")},
        {"Filters": only("is-public", "true")},
        {"Filters": only("architecture", "x86_64")},
    ):
        assert ec2.describe_images(**given)["Images"] == [image]
    for given in ({"Owners": ["amazon"]}, {"Filters": only("name", "Tiny")}, {"Filters": only("tag:a", "b")}):
        assert ec2.describe_images(**given)["Images"] == []
    assert refusal(ec2.describe_images, ImageIds=["ami-00000000000000000"]) == "InvalidAMIID.NotFound"
    assert refusal(ec2.describe_images, ImageIds=["tiny"]) == "InvalidAMIID.Malformed"


@pytest.fixture
def imported(face: Face, tmp_path: Path) -> Iterator[Callable[..., ImageRow]]:
    """Imports an image of other bytes each time; all go afterwards."""
    made: list[ImageRow] = []

    def bring(name: str, **asked: Any) -> ImageRow:
        disk = tmp_path / f"{len(made)}.raw"
        disk.write_bytes(bytes([len(made) + 1]) * 512)
        made.append(image.create(face.broker, SYSTEM, name=name, path=str(disk), format="raw", **asked))
        return made[-1]

    yield bring
    for row in made:
        image.delete(face.broker, SYSTEM, row.id)


def test_versions_are_images_of_two_names_and_a_deprecated_one_is_shown_to_who_asks(
    face: Face, ec2: Any, imported: Callable[..., ImageRow]
) -> None:
    first, second = imported("debian"), imported("debian")
    amis = [ids.to_ec2(row.id) for row in (first, second)]
    found = ec2.describe_images(Filters=only("name", "debian*"))["Images"]
    assert {one["ImageId"]: one["Name"] for one in found} == dict(
        zip(amis, ["debian", "debian@2"], strict=True)
    )
    assert all("DeprecationTime" not in one for one in found)
    image.deprecate(face.broker, SYSTEM, first.id)
    (newest,) = ec2.describe_images(Filters=only("name", "debian*"))["Images"]
    assert newest["ImageId"] == amis[1]
    for asked in ({"IncludeDeprecated": True, "Filters": only("name", "debian")}, {"ImageIds": [amis[0]]}):
        (old,) = ec2.describe_images(**asked)["Images"]
        assert (old["ImageId"], bool(old["DeprecationTime"])) == (amis[0], True)
    launch = {"ImageId": amis[0], "InstanceType": "t3.nano", "MinCount": 1, "MaxCount": 1}
    assert refusal(ec2.run_instances, DryRun=True, **launch) == "DryRunOperation"


def test_private_image_is_there_for_its_project_alone(
    face: Face, ec2: Any, imported: Callable[..., ImageRow]
) -> None:
    mine = imported("mine", project_ref="default")
    project.create(face.broker, SYSTEM, name="next-door")
    theirs = imported("theirs", project_ref="next-door", labels={"secret": "yes"})
    offered = imported("offered", project_ref="next-door", visibility="shared")
    shown = {one["Name"]: one for one in ec2.describe_images()["Images"]}
    assert {name: one["Public"] for name, one in shown.items()} == {
        "tiny": True,
        "mine": False,
        "offered": True,
    }
    assert offered.project is not None
    assert shown["mine"]["OwnerId"] == face.account != shown["offered"]["OwnerId"] == offered.project.account

    def listed(**asked: Any) -> set[str]:
        return {one["Name"] for one in ec2.describe_images(**asked)["Images"]}

    assert listed(Owners=["self"]) == listed(Owners=[face.account]) == {"tiny", "mine"}
    assert listed(Owners=[offered.project.account]) == {"offered"}
    assert listed(ExecutableUsers=["all"]) == {"tiny", "offered"}
    assert listed(Filters=only("is-public", "false")) == {"mine"}
    ami = ids.to_ec2(theirs.id)
    key, secret = accesskey.create(face.broker, SYSTEM, project_ref="default", role="admin")
    launch = {"ImageId": ami, "InstanceType": "t3.nano", "MinCount": 1, "MaxCount": 1}
    for client in (ec2, face.client(key.id, secret)):
        assert refusal(client.describe_images, ImageIds=[ami]) == "InvalidAMIID.NotFound"
        assert refusal(client.run_instances, **launch) == "InvalidAMIID.NotFound"
        assert client.describe_tags(Filters=only("key", "secret"))["Tags"] == []
    launch["ImageId"] = ids.to_ec2(mine.id)
    assert refusal(ec2.run_instances, DryRun=True, **launch) == "DryRunOperation"


# -- networks --------------------------------------------------------------------------------------------------


def test_networks_are_vpcs_with_a_subnet_per_zone(ec2: Any) -> None:
    (vpc,) = ec2.describe_vpcs()["Vpcs"]
    assert (vpc["CidrBlock"], vpc["IsDefault"]) == ("10.10.0.0/16", True)
    assert vpc["Tags"] == [{"Key": "Name", "Value": "lan"}]
    assert ec2.describe_vpcs(VpcIds=[vpc["VpcId"]], Filters=[])["Vpcs"] == [vpc]
    subnets = ec2.describe_subnets(Filters=only("vpc-id", vpc["VpcId"]))["Subnets"]
    assert {s["AvailabilityZone"]: s["CidrBlock"] for s in subnets} == {
        "campus": "10.10.1.0/24",
        "annex": "10.10.2.0/24",
    }
    (annex,) = ec2.describe_subnets(Filters=only("availability-zone", "annex"))["Subnets"]
    assert annex["AvailableIpAddressCount"] <= 253
    assert ec2.describe_subnets(SubnetIds=[annex["SubnetId"]])["Subnets"] == [annex]
    assert refusal(ec2.describe_subnets, SubnetIds=["subnet-00000000000000000"]) == "InvalidSubnetID.NotFound"
    assert refusal(ec2.describe_vpcs, VpcIds=["vpc-00000000000000000"]) == "InvalidVpcID.NotFound"


@pytest.fixture
def networks_of(face: Face) -> Iterator[Callable[..., tuple[NetworkRow, SubnetRow]]]:
    """Makes networks of projects with a subnet at campus; all go afterwards."""
    made = []

    def make(name: str, cidr: str, **asked: Any) -> tuple[NetworkRow, SubnetRow]:
        row = network.create(face.broker, SYSTEM, name=name, cidr=f"{cidr}.0.0/16", **asked)
        made.append(row.id)
        return row, network.add_subnet(
            face.broker, SYSTEM, row.id, site_ref="campus", cidr=f"{cidr}.1.0/24", labels={"private": "yes"}
        )

    yield make
    for network_id in made:
        network.delete(face.broker, SYSTEM, network_id)


def test_private_network_is_a_vpc_of_its_project_alone(
    face: Face, ec2: Any, networks_of: Callable[..., tuple[NetworkRow, SubnetRow]]
) -> None:
    owner = project.create(face.broker, SYSTEM, name="behind-the-wall")
    mine, my_subnet = networks_of("mine", "10.31", project_ref="default")
    theirs, their_subnet = networks_of("theirs", "10.32", project_ref=owner.name)
    offered, _ = networks_of("offered", "10.33", project_ref=owner.name, visibility="shared")
    vpcs = {one["CidrBlock"]: one for one in ec2.describe_vpcs()["Vpcs"]}
    assert set(vpcs) == {"10.10.0.0/16", mine.cidr, offered.cidr}
    assert not any(one["IsDefault"] for one in vpcs.values())
    assert vpcs[mine.cidr]["OwnerId"] == face.account != vpcs[offered.cidr]["OwnerId"] == owner.account
    shown = ec2.describe_vpcs(Filters=only("owner-id", owner.account))["Vpcs"]
    assert [one["CidrBlock"] for one in shown] == [offered.cidr]
    cidrs = {one["CidrBlock"]: one for one in ec2.describe_subnets()["Subnets"]}
    assert my_subnet.cidr in cidrs
    assert their_subnet.cidr not in cidrs
    assert f":{owner.account}:subnet/" in cidrs["10.33.1.0/24"]["SubnetArn"]
    vpc, subnet = ids.to_ec2(theirs.id), ids.to_ec2(their_subnet.id)
    admin_key, secret = accesskey.create(face.broker, SYSTEM, project_ref="default", role="admin")
    launch = {"ImageId": face.ami, "InstanceType": "t3.nano", "MinCount": 1, "MaxCount": 1}
    for client in (ec2, face.client(admin_key.id, secret)):
        assert refusal(client.describe_vpcs, VpcIds=[vpc]) == "InvalidVpcID.NotFound"
        assert refusal(client.describe_subnets, SubnetIds=[subnet]) == "InvalidSubnetID.NotFound"
        assert client.describe_subnets(Filters=only("vpc-id", vpc))["Subnets"] == []
        assert refusal(client.run_instances, SubnetId=subnet, **launch) == "InvalidSubnetID.NotFound"
        tags = client.describe_tags(Filters=only("key", "private"))["Tags"]
        assert ids.to_ec2(my_subnet.id) in {tag["ResourceId"] for tag in tags}
        assert subnet not in {tag["ResourceId"] for tag in tags}
    own = {"SubnetId": ids.to_ec2(my_subnet.id), **launch}
    assert refusal(ec2.run_instances, DryRun=True, **own) == "DryRunOperation"
    their_key, their_secret = accesskey.create(face.broker, SYSTEM, project_ref=owner.name, role="member")
    insider = face.client(their_key.id, their_secret)
    (seen,) = insider.describe_subnets(SubnetIds=[subnet])["Subnets"]
    assert (seen["VpcId"], seen["OwnerId"]) == (vpc, owner.account)


def test_there_are_no_elastic_addresses(ec2: Any) -> None:
    assert ec2.describe_addresses(Filters=only("instance-id", "i-1"))["Addresses"] == []
    assert refusal(ec2.describe_addresses, PublicIps=["203.0.113.9"]) == "InvalidAddress.NotFound"
    assert refusal(ec2.describe_addresses, AllocationIds=["eipalloc-1"]) == "InvalidAllocationID.NotFound"


# -- key pairs -------------------------------------------------------------------------------------------------


def test_a_public_key_is_imported_shown_and_forgotten(ec2: Any) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    line = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    made = ec2.import_key_pair(KeyName="new", PublicKeyMaterial=line)
    (shown,) = ec2.describe_key_pairs(KeyNames=["new"], IncludePublicKey=True)["KeyPairs"]
    assert shown["KeyFingerprint"] == made["KeyFingerprint"]
    assert shown["KeyType"] == "ed25519"
    assert shown["PublicKey"] == line.decode()
    again = {"KeyName": "new", "PublicKeyMaterial": line}
    assert refusal(ec2.import_key_pair, **again) == "InvalidKeyPair.Duplicate"
    assert refusal(ec2.import_key_pair, **again, DryRun=True) == "InvalidKeyPair.Duplicate"
    ec2.delete_key_pair(KeyName="new")
    ec2.delete_key_pair(KeyName="new")
    assert refusal(ec2.describe_key_pairs, KeyNames=["new"]) == "InvalidKeyPair.NotFound"
    assert refusal(ec2.import_key_pair, KeyName="new", PublicKeyMaterial=b"no key") == "InvalidKey.Format"


def test_what_two_parameters_name_is_what_both_do(ec2: Any) -> None:
    (me,) = ec2.describe_key_pairs(KeyNames=["me"])["KeyPairs"]
    you = ec2.import_key_pair(KeyName="you", PublicKeyMaterial=PUBLIC_KEY)["KeyPairId"]
    ask = ec2.describe_key_pairs
    assert ask(KeyNames=["me", "you"], KeyPairIds=[me["KeyPairId"]])["KeyPairs"] == [me]
    assert ask(KeyNames=["me"], KeyPairIds=[you])["KeyPairs"] == []
    assert ask(KeyNames=["me"], Filters=only("key-name", "y*"))["KeyPairs"] == []
    assert ask(Filters=only("key-pair-id", me["KeyPairId"]))["KeyPairs"] == [me]
    for absent in ("key-00000000000000000", "nonsense"):
        with pytest.raises(ClientError, match=f"The key pair ID '{absent}' does not exist") as caught:
            ask(KeyNames=["me"], KeyPairIds=[absent, you])
        assert caught.value.response["Error"]["Code"] == "InvalidKeyPair.NotFound"
    with pytest.raises(ClientError, match="The key pair 'a' does not exist"):
        ask(KeyNames=["me", "b", "a"])
    ec2.delete_key_pair(KeyPairId=you)
    zone, other = ec2.describe_availability_zones()["AvailabilityZones"]
    ask = ec2.describe_availability_zones
    assert ask(ZoneNames=[zone["ZoneName"]], ZoneIds=[other["ZoneId"]])["AvailabilityZones"] == []
    assert ask(Filters=only("state", "available"))["AvailabilityZones"] == [zone, other]
    with pytest.raises(ClientError, match=r"Invalid availability zone ids in ZoneIds: \[mars\]\. There is: "):
        ask(ZoneIds=[zone["ZoneId"], "mars"])


@pytest.mark.parametrize("action", ["describe_tags", "describe_instance_status", "describe_instances"])
def test_a_token_that_was_made_up_is_refused(ec2: Any, action: str) -> None:
    token = base64.urlsafe_b64encode(json.dumps(["nonsense", _query({})]).encode()).decode()
    assert refusal(getattr(ec2, action), NextToken=token) == "InvalidParameterValue"


# -- tags ------------------------------------------------------------------------------------------------------


def test_any_tag_survives_the_way_there_and_back(face: Face, ec2: Any, instance: str) -> None:
    tags = {
        "isthmus:broker": "b-1",
        "Kürzel/ünï cöde": "ß <&>\"' ",
        "empty": "",
        "x" * 128: "y" * 256,
        "a.b:c/d=e+f-g@h": "*?\\",
    }
    ec2.create_tags(Resources=[instance], Tags=[{"Key": key, "Value": value} for key, value in tags.items()])
    shown = ec2.describe_tags(Filters=only("resource-id", instance))["Tags"]
    assert {tag["Key"]: tag["Value"] for tag in shown} == tags
    assert {tag["ResourceType"] for tag in shown} == {"instance"}
    row = vm.get(face.broker, face.actor, instance.replace("i-", "vm-"))
    assert {key: value for key, value in row.labels.items() if not key.startswith("aws:")} == tags
    (one,) = ec2.describe_tags(Filters=[*only("key", "emp*"), *only("resource-id", instance)])["Tags"]
    assert one["Value"] == ""
    found = ec2.describe_instances(Filters=only("tag:a.b:c/d=e+f-g@h", "\\*\\?\\\\"))["Reservations"]
    assert found[0]["Instances"][0]["InstanceId"] == instance


def test_anything_that_has_an_id_can_be_tagged_found_by_its_tag_and_listed(
    face: Face, ec2: Any, instance: str
) -> None:
    (network,) = ec2.describe_vpcs()["Vpcs"]
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    key = ec2.import_key_pair(
        KeyName="tagged",
        PublicKeyMaterial=PUBLIC_KEY,
        TagSpecifications=[{"ResourceType": "key-pair", "Tags": [{"Key": "made", "Value": "so"}]}],
    )["KeyPairId"]
    things = [instance, face.ami, network["VpcId"], subnet, key]
    team = [{"Key": "team", "Value": "web"}]
    assert refusal(ec2.create_tags, Resources=things, Tags=team) == "UnauthorizedOperation"
    assert ec2.describe_tags(Filters=only("key", "team"))["Tags"] == []
    key_row, secret = accesskey.create(face.broker, SYSTEM, project_ref=face.actor.project_id, role="admin")
    admin = face.client(key_row.id, secret)
    admin.create_tags(Resources=things, Tags=team)
    shown = ec2.describe_tags(Filters=only("key", "team"))["Tags"]
    assert {(tag["ResourceId"], tag["ResourceType"], tag["Value"]) for tag in shown} == set(
        zip(things, ["instance", "image", "vpc", "subnet", "key-pair"], ["web"] * 5, strict=True)
    )
    tagged = only("tag:team", "w?b")
    assert [item["VpcId"] for item in ec2.describe_vpcs(Filters=tagged)["Vpcs"]] == [network["VpcId"]]
    assert [item["SubnetId"] for item in ec2.describe_subnets(Filters=tagged)["Subnets"]] == [subnet]
    assert [item["ImageId"] for item in ec2.describe_images(Filters=tagged)["Images"]] == [face.ami]
    (pair,) = ec2.describe_key_pairs(KeyPairIds=[key], Filters=tagged)["KeyPairs"]
    assert {tag["Key"] for tag in pair["Tags"]} == {"made", "team"}
    for exact in (tagged, only("tag:team", "web"), only("tag-key", "team")):
        (found,) = ec2.describe_instances(Filters=exact)["Reservations"]
        assert found["Instances"][0]["InstanceId"] == instance
    assert ec2.describe_instances(Filters=only("tag:team", "we"))["Reservations"] == []
    admin.delete_tags(Resources=things, Tags=[{"Key": "team"}])
    assert ec2.describe_tags(Filters=only("key", "team"))["Tags"] == []
    ec2.delete_key_pair(KeyPairId=key)
    assert ec2.describe_tags(Filters=only("resource-id", key))["Tags"] == []


def test_tags_are_replaced_and_deleted(ec2: Any, instance: str) -> None:
    def tags() -> dict[str, str]:
        shown = ec2.describe_tags(Filters=only("resource-id", instance))["Tags"]
        return {tag["Key"]: tag["Value"] for tag in shown}

    ec2.create_tags(Resources=[instance], Tags=[{"Key": key, "Value": "1"} for key in "abc"])
    ec2.create_tags(Resources=[instance], Tags=[{"Key": "a", "Value": "2"}])
    assert tags() == {"a": "2", "b": "1", "c": "1"}
    ec2.delete_tags(Resources=[instance], Tags=[{"Key": "a", "Value": "1"}, {"Key": "b"}])
    assert tags() == {"a": "2", "c": "1"}
    ec2.delete_tags(Resources=[instance])
    assert tags() == {}


def test_wrong_tags_are_refused(ec2: Any, instance: str) -> None:
    def tag(**given: Any) -> str:
        return refusal(
            ec2.create_tags, **{"Resources": [instance], "Tags": [{"Key": "a", "Value": "b"}], **given}
        )

    assert tag(Resources=["i-00000000000000000"]) == "InvalidInstanceID.NotFound"
    assert tag(Resources=["nonsense"]) == "InvalidID"
    assert tag(Resources=["vpc-00000000000000000"]) == "InvalidVpcID.NotFound"
    assert tag(Resources=["eni-00000000000000000"]) == "InvalidID"
    assert tag(Tags=[{"Key": "aws:x", "Value": "b"}]) == "InvalidParameterValue"
    assert tag(Tags=[{"Key": "x" * 129, "Value": "b"}]) == "InvalidParameterValue"
    assert tag(Tags=[{"Key": "a", "Value": "x" * 257}]) == "InvalidParameterValue"
    assert tag(Tags=[{"Key": str(n), "Value": ""} for n in range(51)]) == "TagLimitExceeded"
    assert tag(DryRun=True) == "DryRunOperation"
