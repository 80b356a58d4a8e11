"""The whole lab: real guests, two brokers, an EC2 face and a tunnel. One lab for all tests of this file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from api.ec2.ids import to_ec2
from isthmus import VM, schema
from lab import process
from lab.broker import ISTHMUS
from lab.demo import BURST, POOL, Burst, Demo
from lab.lab import FLAVOR, HOST_VCPUS, IMAGE, KEY_PAIR, NETWORK, REGION, ZONE, Lab
from lab.node import Node
from lab.timeline import Timeline
from lab.topology import API, BROKER, GW_LAN, GW_WAN
from lab.wait import until

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root"),
]

SCAN = """\
# Prints the TCP ports of HOST, of those given, that answer at all, be it by a refusal.
import asyncio, sys
async def probe(host, port):
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), 1.5)
        writer.close()
    except ConnectionRefusedError:
        pass
    except (OSError, TimeoutError):
        return
    print(port)
async def main():
    await asyncio.gather(*(probe(sys.argv[1], int(port)) for port in sys.argv[2:]))
asyncio.run(main())
"""
LISTEN = """\
import socket, time
tcp = socket.create_server(("0.0.0.0", 8080))
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("0.0.0.0", 9999))
print("listening", flush=True)
while True:
    data, peer = udp.recvfrom(100)
    udp.sendto(data, peer)
"""
ECHO = """\
import socket, sys
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.settimeout(1.5)
udp.sendto(b"hello", (sys.argv[1], int(sys.argv[2])))
try:
    print(udp.recv(100).decode())
except (TimeoutError, OSError):
    print("silence")
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A lab that is up, and that leaves nothing behind."""
    it = Lab(Path("/var/tmp") / f"isl-burst-{os.getpid()}")
    try:
        it.up(print)
        yield it
    finally:
        assert it.down() == []


@pytest.fixture(scope="module")
def demo(lab: Lab) -> Demo:
    """The steps of the demonstration, on this lab."""
    return Demo(lab, Timeline(print))


@pytest.fixture(scope="module")
def burst(lab: Lab, demo: Demo) -> Burst:
    """The pool filled with real guests, and one VM that burst."""
    try:
        demo.fill_the_pool()
        return demo.burst()
    except BaseException:
        for title, text in lab.logs(40).items():
            print(f"--- {title}\n{text}")
        raise


def python(node: Node, script: str, *arguments: str) -> str:
    """The output of a Python script in a node."""
    return node.run([sys.executable, "-c", script, *arguments], timeout_s=60).stdout.strip()


def assert_only_enrolled(lab: Lab, keys: set[str | None]) -> None:
    """The gateway knows these keys and no other. A bootstrap key is dropped right after it has served."""
    until(lambda: {peer.public_key for peer in lab.tunnel()} == keys, 10, f"a tunnel with {keys} only")


def test_a_full_pool_bursts_and_a_campus_guest_reaches_the_burst_vm_at_its_private_address(
    lab: Lab, burst: Burst
) -> None:
    assert burst.answer.text == f"hello from {BURST} at {burst.address}"
    assert burst.answer.status == 200
    assert burst.answer.after.received > burst.answer.before.received
    assert burst.answer.after.sent > burst.answer.before.sent
    pool = [lab.campus.client.vms.get(name) for name in POOL]
    assert sorted(vm.host or "" for vm in pool) == ["a", "a", "b", "b"]
    vm = lab.campus.client.vms.get(BURST)
    assert (vm.site, vm.elastic, vm.enrolled_at is not None) == ("cloud", True, True)
    (seen,) = lab.cloud.client.vms.list()
    assert (seen.id, seen.flavor) == (f"vm-{(vm.provider_ref or '').removeprefix('i-')}", "t3.nano")
    (peer,) = lab.campus.client.peers.list(vm=vm.id)
    assert peer.state == "enrolled"
    assert_only_enrolled(lab, {peer.public_key})


def test_the_burst_vm_reaches_a_campus_guest_too(lab: Lab, burst: Burst) -> None:
    # Asked from the burst VM itself; the campus side logs in to it through the tunnel.
    address = lab.campus.client.vms.get(POOL[1]).address
    assert lab.in_guest(burst.address, f"timeout 10 wget -q -O - http://{address}/") == (
        f"hello from {POOL[1]} at {address}\n"
    )


def test_nothing_but_the_gateways_wireguard_port_is_reachable_from_the_internet(
    lab: Lab, burst: Burst
) -> None:
    gw, internet = lab.topology.gw, lab.topology.api
    gw.start("listener", [sys.executable, "-c", LISTEN])
    until(lambda: "listening" in gw.log_tail("listener"), 10, "the listener")
    ports = [*map(str, range(1, 1025)), "8080", "8770", "8773", "8775", "51820"]
    # From the campus the same scan finds it, or this would prove nothing.
    assert "8080" in python(lab.topology.broker, SCAN, GW_LAN, *ports).split()
    assert python(lab.topology.broker, ECHO, GW_LAN, "9999") == "hello"
    assert python(internet, SCAN, GW_WAN, *ports) == ""
    assert python(internet, ECHO, GW_WAN, "9999") == "silence"
    # Nor what is behind it: asked by its own provider's router, with a route through it.
    neighbour = lab.topology.inet
    neighbour.ip(f"route add 10.10.0.0/16 via {GW_WAN}")
    try:
        for address in (GW_LAN, BROKER, burst.address):
            assert python(neighbour, SCAN, address, "22", "80", "8080", "8770", "8773") == ""
        assert python(neighbour, SCAN, API, "8770") == "8770"
    finally:
        neighbour.ip("route del 10.10.0.0/16")


def test_campus_and_burst_vm_cannot_see_each_other_without_the_tunnel(lab: Lab, burst: Burst) -> None:
    inet = lab.topology.inet
    rules = ("type filter hook forward priority -10;", "udp dport 51820 drop", "udp sport 51820 drop")
    cut = "table ip cut {\nchain forward {\n" + "\n".join(rules) + "\n}\n}\n"
    first = lab.campus.client.vms.get(POOL[0]).address or ""
    fetch = f"timeout 3 wget -q -O - http://{burst.address}/ || echo nothing"
    inet.run(["nft", "-f", "-"], input=cut)
    try:
        assert lab.in_guest(first, fetch) == "nothing\n"
    finally:
        inet.run(["nft", "delete", "table", "ip", "cut"])
    assert until(lambda: lab.in_guest(first, fetch), 20, "the tunnel").startswith("hello from")


def test_a_broker_killed_in_the_middle_of_a_burst_finishes_it_once(
    lab: Lab, demo: Demo, burst: Burst
) -> None:
    name = "killed"
    vm = lab.campus.client.vms.create(name, IMAGE, FLAVOR, networks=[NETWORK], key_pair=KEY_PAIR)

    def launched() -> list[str]:
        return [each.id for each in lab.cloud.client.vms.list() if each.name == name]

    until(launched, 60, "the launch in the cloud", pause_s=0.02)
    lab.campus.kill()
    assert not lab.campus.answers()
    lab.campus.start()
    vm.refresh()
    (task,) = lab.campus.client.operations.list(target=vm.id)
    assert task.wait(timeout=90).state == "done"
    vm.refresh()
    assert vm.state == "running"
    assert vm.enrolled_at is not None
    assert [to_ec2(id) for id in launched()] == [vm.provider_ref]
    assert_only_enrolled(lab, {peer.public_key for peer in lab.campus.client.peers.list()})
    page = until(lambda: lab.page(vm.address or ""), 20, f"an answer of {name}")
    assert page == f"hello from {name} at {vm.address}\n"


def test_boto3_drives_a_real_guest_of_the_cloud(lab: Lab) -> None:
    made = lab.cloud.client.accesskeys.create(role="member")

    def connect(secret: str) -> Any:
        return boto3.client(
            "ec2",
            endpoint_url=lab.cloud.ec2_url,
            region_name=REGION,
            verify=str(lab.cloud.ca),
            aws_access_key_id=made.access_key.id,
            aws_secret_access_key=secret,
            config=Config(retries={"total_max_attempts": 1}, proxies={}),
        )

    ec2 = connect(made.secret)

    def state(id: str) -> str:
        (reservation,) = ec2.describe_instances(InstanceIds=[id])["Reservations"]
        return str(reservation["Instances"][0]["State"]["Name"])

    (image,) = ec2.describe_images(Filters=[{"Name": "name", "Values": [IMAGE]}])["Images"]
    (run,) = ec2.run_instances(
        ImageId=image["ImageId"],
        InstanceType="t3.nano",
        MinCount=1,
        MaxCount=1,
        Placement={"AvailabilityZone": ZONE},
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "by-boto3"}]}],
    )["Instances"]
    id = run["InstanceId"]
    until(lambda: state(id) == "running", 60, "a running instance")
    address = ec2.describe_instances(InstanceIds=[id])["Reservations"][0]["Instances"][0]["PrivateIpAddress"]

    def page() -> str:
        done = lab.topology.cloud_a.run(["curl", "-s", "-m", "2", f"http://{address}/"], check=False)
        return done.stdout

    until(lambda: page() == f"hello from by-boto3 at {address}\n", 60, "the instance's web page")
    ec2.stop_instances(InstanceIds=[id])
    until(lambda: state(id) == "stopped", 60, "a stopped instance")
    assert page() == ""
    ec2.start_instances(InstanceIds=[id])
    until(lambda: state(id) == "running", 60, "an instance that runs again")
    ec2.terminate_instances(InstanceIds=[id])
    until(lambda: state(id) == "terminated", 60, "a terminated instance")

    refused: list[tuple[Callable[[], object], str, int]] = [
        (lambda: connect("x" * 40).describe_instances(), "SignatureDoesNotMatch", 403),
        (
            lambda: ec2.describe_instances(InstanceIds=["i-0123456789abcdef0"]),
            "InvalidInstanceID.NotFound",
            400,
        ),
        (lambda: ec2.describe_instances(InstanceIds=["i-nonsense"]), "InvalidInstanceID.Malformed", 400),
    ]
    for call, code, status in refused:
        with pytest.raises(ClientError) as caught:
            call()
        assert caught.value.response["Error"]["Code"] == code
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status


def test_the_lab_command_tells_what_runs_and_opens_shells(lab: Lab, burst: Burst) -> None:
    def command(*words: str) -> str:
        full = [*ISTHMUS, "lab", *words, f"--dir={lab.directory}"]
        return subprocess.run(full, capture_output=True, text=True, check=True, timeout=60).stdout

    seen = json.loads(command("status", "--json"))
    assert seen["state"] == "up"
    assert all(seen["nodes"].values())
    assert seen["brokers"]["campus"]["answers"] is True
    assert BURST in command("shell", "-c", "isthmus vm list")
    assert "cloud-a" in command("shell", "cloud", "-c", "isthmus host list")
    assert GW_WAN in command("shell", "--node", "gw", "-c", "ip -4 addr show wan && isthmus status")
    assert ZONE in command("shell", "cloud", "-c", "aws ec2 describe-availability-zones")
    sourced = subprocess.run(
        ["sh", "-c", '. "$1"; shift; exec "$@"', "sh", str(lab.env_file("campus")), *ISTHMUS, "status"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "admin of default" in sourced.stdout


def test_burst_vms_leave_when_the_load_falls(lab: Lab, demo: Demo, burst: Burst) -> None:
    demo.let_the_load_fall()
    assert lab.tunnel() == []
    names = {vm.name: vm.state for vm in lab.campus.client.vms.list(all=True)}
    assert names[POOL[0]] == "running"
    assert names[BURST] == "terminated"


def test_a_guest_has_the_cpu_flag_that_it_required(lab: Lab, burst: Burst) -> None:
    vms = lab.campus.client.vms
    common = set.intersection(
        *(set(host.attributes["cpu_flags"]) for host in lab.campus.client.hosts.list(site="campus"))
    )
    flag = next(flag for flag in ("avx2", "avx", "aes", "popcnt", "ssse3") if flag in common)
    vm = vms.create(
        "flagged",
        IMAGE,
        FLAVOR,
        networks=[NETWORK],
        key_pair=KEY_PAIR,
        requirements=f'!elastic && "{flag}" in cpu_flags',
    )
    vm.wait_until("running", timeout=60)
    until(lambda: lab.page(vm.address or ""), 60, "an answer of the guest")
    assert flag in lab.in_guest(vm.address or "", "grep -m 1 ^flags /proc/cpuinfo").split()

    never = vms.create(
        "unflagged",
        IMAGE,
        FLAVOR,
        networks=[NETWORK],
        requirements='!elastic && "no_such_flag" in cpu_flags',
    )
    until(lambda: vms.get("unflagged").status_reason, 20, "a reason to wait")
    campus = next(site for site in vms.why("unflagged").sites if site.site == "campus")
    assert [(term.text, term.refused) for term in campus.terms] == [('"no_such_flag" in cpu_flags', 2)]
    for each in (vm, never):
        each.delete()


def test_an_anti_affine_pair_runs_on_two_hosts(lab: Lab, burst: Burst) -> None:
    vms = lab.campus.client.vms
    apart = [schema.AffinityRule(kind="anti-affinity", group="db")]
    pair = [
        vms.create(name, IMAGE, FLAVOR, networks=[NETWORK], requirements="!elastic", affinity=apart)
        for name in ("db-1", "db-2")
    ]
    for vm in pair:
        vm.wait_until("running", timeout=60)
        page = until(lambda at=vm.address: lab.page(at), 60, f"an answer of {vm.name}")  # type: ignore[misc]
        assert page == f"hello from {vm.name} at {vm.address}\n"
    assert sorted(vm.host or "" for vm in pair) == ["a", "b"]
    third = vms.create("db-3", IMAGE, FLAVOR, networks=[NETWORK], requirements="!elastic", affinity=apart)
    until(lambda: "anti-affinity" in vms.get("db-3").status_reason, 20, "the rule as the reason to wait")
    for vm in (*pair, third):
        vm.delete()


def test_a_reservation_takes_the_pool_at_its_time(lab: Lab, burst: Burst) -> None:
    """Preemptible guests fill what is left of the pool; when the reservation begins they make way, and go on after it."""
    client = lab.campus.client

    def free() -> int:
        return sum(int(host.vcpus_free) for host in client.hosts.list(site="campus"))

    until(lambda: free() == 2 * HOST_VCPUS - 1, 60, "a pool with one guest in it")
    room = free()
    batch = [
        client.vms.create(
            f"batch-{number}", IMAGE, FLAVOR, networks=[NETWORK], key_pair=KEY_PAIR,
            requirements="!elastic", preemptible=True,
        )
        for number in range(room)
    ]  # fmt: skip
    for vm in batch:
        vm.wait_until("running", timeout=60)
        until(lambda at=vm.address: lab.page(at), 60, f"an answer of {vm.name}")  # type: ignore[misc]
    lab.in_guest(batch[0].address or "", "echo kept > /tmp/memory")

    now = datetime.now(UTC)
    exam = client.reservations.create(
        "exam", FLAVOR, now + timedelta(minutes=10), count=room, start_at=now + timedelta(seconds=20)
    )
    assert (exam.state, sum(exam.hosts.values())) == ("scheduled", room)
    owners = [
        client.vms.create(f"exam-{number}", IMAGE, FLAVOR, networks=[NETWORK], reservation="exam")
        for number in range(room)
    ]
    until(
        lambda: "starts in" in client.vms.get("exam-0").status_reason,
        20,
        "the reservation's time as the reason",
    )
    assert {client.vms.get(vm.name).state for vm in batch} == {"running"}
    for vm in owners:
        vm.wait_until("running", timeout=90)
        page = until(lambda at=vm.address: lab.page(at), 60, f"an answer of {vm.name}")  # type: ignore[misc]
        assert page == f"hello from {vm.name} at {vm.address}\n"
        assert vm.launched_at is not None
        assert vm.launched_at >= exam.start_at
    assert {client.vms.get(vm.name).state for vm in batch} == {"suspended"}

    for vm in owners:
        vm.delete().wait(60)
    client.reservations.delete("exam")
    for vm in batch:
        vm.wait_until("running", timeout=90)
    assert lab.in_guest(batch[0].address or "", "cat /tmp/memory; cat /proc/uptime").startswith("kept")
    for vm in batch:
        vm.delete().wait(60)


def test_a_running_guest_moves_to_the_other_host_and_back_by_a_drain(lab: Lab, burst: Burst) -> None:
    client = lab.campus.client
    vm = client.vms.create(
        "mover", IMAGE, FLAVOR, networks=[NETWORK], key_pair=KEY_PAIR, requirements="!elastic",
        rank='name == "a"',
    ).wait_until("running", timeout=60)  # fmt: skip
    until(lambda: lab.page(vm.address or ""), 60, "an answer of the guest")
    assert vm.host == "a"
    lab.in_guest(vm.address or "", "echo kept > /tmp/memory")
    vm.migrate("b").wait(120)
    assert (vm.refresh().state, vm.host) == ("running", "b")
    assert until(lambda: lab.page(vm.address or ""), 30, "its answer from there").startswith(
        "hello from mover"
    )
    assert lab.in_guest(vm.address or "", "cat /tmp/memory").strip() == "kept"

    plan = client.hosts.get("b").drain()
    try:
        assert "mover" in [move.vm for move in plan.moves]
        vm.wait_until("running", timeout=120)
        assert vm.host == "a"
        assert lab.in_guest(vm.address or "", "cat /tmp/memory").strip() == "kept"
        until(lambda: client.hosts.get("b").vms == len(plan.stuck), 120, "an empty host")
    finally:
        client.hosts.maintenance("b", False)
    vm.delete().wait(60)


def test_a_budget_closes_the_burst(lab: Lab, burst: Burst) -> None:
    client = lab.campus.client
    before = client.policy.get().text
    always = """\
version: 1
burst:
  to: [cloud]
  open: {any: ['queue.length >= 0']}
  close: {all: ['queue.length < 0']}
budget: {hourly: HOURLY}
"""
    prices = [host.attributes["price_hour"] for host in client.hosts.list(site="cloud")]
    client.policy.apply(always.replace("HOURLY", f"{1.5 * min(prices)}"))

    def ask(name: str) -> VM:
        return client.vms.create(
            name, IMAGE, FLAVOR, networks=[NETWORK], requirements="elastic", rank="-price_hour"
        )

    first = ask("paid").wait_until("running", timeout=90)
    second = ask("unpaid")
    until(lambda: "budget.hourly" in client.vms.get("unpaid").status_reason, 20, "the budget as the reason")
    assert [vm.name for vm in lab.cloud.client.vms.list()] == ["paid"]
    assert "USD spent this month" in client.policy.get().budget
    client.policy.apply(always.replace("HOURLY", "100"))
    second.wait_until("running", timeout=90)
    for vm in (first, second):
        vm.delete()
    until(lambda: not list(lab.cloud.client.vms.list()), 60, "an empty cloud")
    client.policy.apply(before)


def test_down_leaves_nothing_after_everything_was_killed(lab: Lab) -> None:
    assert API in lab.topology.api.run(["ip", "-4", "addr"]).stdout, (
        "the lab must be up, or this proves nothing"
    )
    for pid in process.marked(lab.directory):
        process.send(pid, signal.SIGKILL)
    assert lab.down() == []
    assert lab.status().state == "down"
    assert not lab.directory.exists()
