"""Other people's clients, and our own provider with an Isthmus as its cloud."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
from botocore.exceptions import ClientError
from libcloud.compute.base import Node, NodeImage, NodeSize
from libcloud.compute.drivers.ec2 import EC2NodeDriver
from libcloud.compute.types import NodeState

from api import certificate
from api.ec2 import create_app
from providers.ec2 import Ec2Provider
from providers.port import (
    AuthenticationFailed,
    ImageSpec,
    NotFound,
    SiteContext,
    Unreachable,
    VMSpec,
    VMState,
)
from tests.providers.observed import observed

if TYPE_CHECKING:
    from tests.api.ec2.conftest import Face

VM = "vm-0000000000000000a"
HOST = "campus/t3.nano"


def test_awscli_runs_describes_and_terminates(
    face: Face, tmp_path: Path, ec2: Any, until: Callable[..., Any]
) -> None:
    """One process per command takes a second; this is the proof that scripts work as they are."""
    aws = Path(sys.executable).with_name("aws")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        "HOME": str(tmp_path),
        "AWS_ACCESS_KEY_ID": face.key,
        "AWS_SECRET_ACCESS_KEY": face.secret,
        "AWS_DEFAULT_REGION": "lab-1",
        "AWS_ENDPOINT_URL_EC2": face.endpoint,
        "AWS_DEFAULT_OUTPUT": "json",
    }

    def run(*words: str) -> Any:
        done = subprocess.run(
            [sys.executable, str(aws), "ec2", *words],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    user_data = tmp_path / "user-data"
    user_data.write_text("#!/bin/sh\n:\n")
    made = run(
        "run-instances", "--image-id", face.ami, "--instance-type", "t3.nano", "--key-name", "me",
        "--user-data", f"file://{user_data}", "--tag-specifications", "ResourceType=instance,Tags=[{Key=Name,Value=cli}]",
    )  # fmt: skip
    name = made["Instances"][0]["InstanceId"]
    found = run(
        "describe-instances",
        "--filters",
        "Name=tag:Name,Values=cl?",
        "--query",
        "Reservations[].Instances[].InstanceId",
    )
    assert found == [name]
    ended = run("terminate-instances", "--instance-ids", name)
    assert ended["TerminatingInstances"][0]["CurrentState"]["Name"] == "shutting-down"


def test_libcloud_lists_creates_and_ends_nodes(face: Face, until: Callable[..., Any]) -> None:
    # libcloud takes only regions that it knows; the name that it signs for can be set after.
    driver = EC2NodeDriver(
        face.key, face.secret, secure=False, host="127.0.0.1", port=face.port, signature_version="4"
    )
    driver.region_name = "lab-1"
    assert [image.id for image in driver.list_images()] == [face.ami]
    size = NodeSize("t3.nano", "t3.nano", 512, 10, 0, 0.0, driver)
    node = driver.create_node(name="lib", size=size, image=NodeImage(face.ami, "tiny", driver))

    def seen() -> Node:
        return next(other for other in driver.list_nodes() if other.id == node.id)

    until(lambda: seen().state == NodeState.RUNNING)
    assert seen().name == "lib"
    assert seen().private_ips
    assert driver.ex_create_tags(node, {"tier": "web"})
    assert driver.ex_describe_tags(node)["tier"] == "web"
    assert driver.stop_node(node)
    until(lambda: seen().state == NodeState.STOPPED)
    assert driver.start_node(node)
    until(lambda: seen().state == NodeState.RUNNING)
    assert driver.reboot_node(node)
    assert driver.destroy_node(node)


@pytest.fixture
def make(face: Face, tmp_path: Path) -> Iterator[Callable[..., Ec2Provider]]:
    made = []

    def make(secret: str = "", **options: Any) -> Ec2Provider:
        context = SiteContext(
            broker_id="brk-campus",
            site_id="site-1",
            site_name="cloud",
            options={"endpoint": face.endpoint, "region": "lab-1", "price_region": "us-east-1", **options},
            credentials={"access_key_id": face.key, "secret_access_key": secret or face.secret},
            cache_dir=str(tmp_path),
            call_timeout_s=20,
        )
        made.append(Ec2Provider(context))
        return made[-1]

    yield make
    for provider in made:
        provider.close()


def spec(face: Face, vm_id: str = VM, **changed: Any) -> VMSpec:
    values = {
        "id": vm_id,
        "uuid": "6f6f0a3e-5f0c-5a57-9a3c-0123456789ab",
        "token": f"{vm_id}.1",
        "name": "burst-1",
        "host": HOST,
        "vcpus": 1,
        "mem_mb": 512,
        "disk_gb": 20,
        "image": ImageSpec(id="img-1", name="tiny", remote_id=face.ami),
        "user_data": "#!/bin/sh\n:\n",
        "instance_type": "t3.nano",
        "labels": {"tier": "web"},
    }
    return VMSpec(**{**values, **changed})


def test_an_isthmus_is_a_cloud_for_another_one(
    face: Face, make: Callable[..., Ec2Provider], until: Callable[..., Any], ec2: Any
) -> None:
    provider = make()
    provider.check()
    hosts = {host.name: host for host in provider.inventory()}
    # No default type of AWS is offered but those of the broker's flavors that fit somewhere.
    assert set(hosts) == {"campus/t3.small"}
    provider = make(instance_types="*")
    hosts = {host.name: host for host in provider.inventory()}
    assert set(hosts) == {"annex/t3.nano", "campus/t3.nano", "campus/t3.small"}
    price = hosts[HOST].attributes["price_hour"]
    assert isinstance(price, float)
    assert price > 0
    provider.ensure_image(HOST, spec(face).image)

    report = provider.ensure_vm(spec(face))
    assert (report.vm_id, report.broker_id, report.host) == (VM, "brk-campus", HOST)
    assert provider.ensure_vm(spec(face)).ref == report.ref
    until(lambda: observed(provider, HOST, VM, report.ref).state is VMState.RUNNING)
    listed = {vm.ref: vm for vm in provider.list_vms().vms}
    assert listed[report.ref].vm_id == VM
    assert listed[report.ref].vcpus == 1

    provider.stop_vm(HOST, report.ref)
    until(lambda: observed(provider, HOST, VM, report.ref).state is VMState.STOPPED)
    provider.start_vm(HOST, report.ref)
    until(lambda: observed(provider, HOST, VM, report.ref).state is VMState.RUNNING)
    provider.reboot_vm(HOST, report.ref)
    assert isinstance(provider.console_log(HOST, report.ref), bytes)
    until(lambda: not busy(face, report.ref))
    provider.delete_vm(HOST, VM, report.ref)
    provider.delete_vm(HOST, VM, report.ref)
    until(lambda: observed(provider, HOST, VM, report.ref).state is VMState.TERMINATED)


def busy(face: Face, ref: str) -> bool:
    from broker import vm

    with face.broker.store.reading() as session:
        row = vm.find(session, face.actor, ref.replace("i-", "vm-"))
        return vm.busy(session, row) is not None


def test_the_client_token_holds_when_the_marks_are_not_seen(
    face: Face,
    make: Callable[..., Ec2Provider],
    until: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    provider = make(instance_types="t3.nano")
    first = provider.ensure_vm(spec(face, "vm-0000000000000000b"))
    with monkeypatch.context() as patch:
        patch.setattr(provider, "_marked", lambda vm_id: [])
        assert provider.ensure_vm(spec(face, "vm-0000000000000000b")).ref == first.ref
        # Placed elsewhere after a lost answer: the parameters differ, and what the token made is adopted.
        again = provider.ensure_vm(spec(face, "vm-0000000000000000b", host="annex/t3.nano"))
        assert again.ref == first.ref
    provider.delete_vm(HOST, "vm-0000000000000000b")


def test_refusals_of_the_face_reach_the_port_in_its_words(
    face: Face, make: Callable[..., Ec2Provider]
) -> None:
    with pytest.raises(AuthenticationFailed, match="SignatureDoesNotMatch"):
        make(secret="wrong").check()
    provider = make(instance_types="t3.nano")
    with pytest.raises(NotFound, match=r"InvalidAMIID\.NotFound"):
        provider.ensure_image(HOST, ImageSpec(id="img-1", name="x", remote_id="ami-00000000000000000"))
    for call in (provider.start_vm, provider.stop_vm, provider.reboot_vm):
        with pytest.raises(NotFound):
            call(HOST, "i-00000000000000000")
    assert provider.observe_vm(HOST, "vm-0000000000000000c", "i-00000000000000000") is None


def test_paged_answers_of_the_face_are_read_to_the_end(
    face: Face, make: Callable[..., Ec2Provider], ec2: Any
) -> None:
    answer = ec2.run_instances(ImageId=face.ami, InstanceType="t3.nano", MinCount=1, MaxCount=1)
    names = {answer["Instances"][0]["InstanceId"]}
    for _ in range(6):
        answer = ec2.run_instances(ImageId=face.ami, InstanceType="t3.nano", MinCount=1, MaxCount=1)
        names.add(answer["Instances"][0]["InstanceId"])
    provider = make()
    pages = list(provider._client.pages("describe_instances", provider._clock, size=5))
    assert len(pages) >= 2
    assert {i["InstanceId"] for p in pages for r in p["Reservations"] for i in r["Instances"]} >= names
    ec2.terminate_instances(InstanceIds=sorted(names))
    with pytest.raises(ClientError):
        ec2.describe_instances(NextToken="x", MaxResults=5)


@pytest.fixture
def tls(face: Face, tmp_path: Path, until: Callable[..., Any]) -> Iterator[tuple[str, Path]]:
    """The same face over TLS; its endpoint, and the CA's certificate."""
    ca, cert, key = certificate.make(tmp_path / "tls", [], datetime.now(UTC))
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        create_app(face.broker),
        log_config=None,
        lifespan="off",
        ssl_certfile=str(cert),
        ssl_keyfile=str(key),
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        until(lambda: server.started)
        yield f"https://127.0.0.1:{listening.getsockname()[1]}", ca
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()


def test_a_cloud_with_a_ca_of_its_own_is_trusted_when_its_certificate_is_given(
    make: Callable[..., Ec2Provider], tls: tuple[str, Path]
) -> None:
    endpoint, ca = tls
    make(endpoint=endpoint, ca_pem=ca.read_text()).check()
    make(endpoint=endpoint, ca_file=str(ca)).check()
    with pytest.raises(Unreachable, match=r"not trusted .* option ca_file or ca_pem"):
        make(endpoint=endpoint).check()
    with pytest.raises(Unreachable):  # TLS where plain HTTP was meant
        make(endpoint=endpoint.replace("https", "http")).check()
