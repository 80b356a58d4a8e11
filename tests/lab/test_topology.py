"""The lab's machines and wires, with real namespaces, libvirt and a guest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import libvirt
import pytest

from lab import process
from lab.host import Host
from lab.image import TinyImage
from lab.node import Node, NodeError
from lab.topology import API, BROKER, CLOUD_HOST, GW_WAN, HOSTS, Topology, leftovers

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root"),
]

DOMAIN = """\
<domain type='qemu'><name>tiny</name><memory unit='MiB'>128</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type><kernel>{kernel}</kernel><initrd>{initrd}</initrd>
<cmdline>{cmdline}</cmdline></os>
<features><acpi/><apic/><tcg><tb-cache unit='MiB'>32</tb-cache></tcg></features><cpu mode='maximum'/>
<on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>
<devices>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{disk}'/>
<target dev='vda' bus='virtio'/></disk>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{seed}'/>
<target dev='vdb' bus='virtio'/><readonly/></disk>
<interface type='bridge'><source bridge='br0'/><mac address='52:54:00:0a:01:14'/><model type='virtio'/></interface>
<controller type='usb' model='none'/><rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
<serial type='file'><source path='/var/log/libvirt/tiny.log'/></serial>
<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
</devices></domain>
"""
SCRIPT = "#!/bin/sh\necho boot >>/var/lib/boots\necho boots: $(wc -l </var/lib/boots)\n"


@pytest.fixture(scope="module")
def topology(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    directory = Path("/var/tmp") / f"isl-{os.getpid()}"
    lab = Topology(directory)
    lab.up()
    yield lab
    assert lab.down() == []


def reaches(node: Node, address: str, port: int) -> bool:
    """Whether something at ``address`` answers the node at all: a connection or a refusal, not silence."""
    script = (
        "import socket, sys\n"
        "try: socket.create_connection((sys.argv[1], int(sys.argv[2])), 1).close()\n"
        "except ConnectionRefusedError: pass\n"
    )
    done = node.run([sys.executable, "-c", script, address, str(port)], check=False)
    assert done.returncode == 0 or "timed out" in done.stderr or "unreachable" in done.stderr, done.stderr
    return done.returncode == 0


def test_campus_reaches_the_cloud_through_its_own_gateway(topology: Topology) -> None:
    for node in (topology.a, topology.b, topology.broker):
        assert reaches(node, API, 8773)
    assert reaches(topology.api, CLOUD_HOST, 22)


def test_hosts_of_the_campus_reach_each_other_and_the_broker(topology: Topology) -> None:
    assert reaches(topology.a, HOSTS["b"], 22)
    assert reaches(topology.b, BROKER, 22)


def test_private_networks_cannot_see_each_other_across_the_internet(topology: Topology) -> None:
    # Even with a route through the internet's router, as a careless or hostile neighbour would set it.
    cloud = topology.cloud_a
    cloud.ip("route replace 10.10.1.0/24 via 198.51.100.1", "addr add 172.20.0.1/32 dev lo")
    topology.inet.ip(
        f"route replace 10.10.1.0/24 via {GW_WAN}", f"route replace 172.20.0.0/24 via {CLOUD_HOST}"
    )
    try:
        assert not reaches(cloud, HOSTS["a"], 22)
        assert not reaches(topology.a, "172.20.0.1", 22)
        assert reaches(cloud, GW_WAN, 22), "the public way must be open, or this test proves nothing"
    finally:
        topology.inet.ip("route del 10.10.1.0/24", "route del 172.20.0.0/24")
        cloud.ip("route del 10.10.1.0/24", "addr del 172.20.0.1/32 dev lo")


def test_a_guest_on_one_host_answers_another_host_and_keeps_its_disk(
    topology: Topology,
    tiny_image: TinyImage,
    write_seed: Callable[[Path, dict[str, str]], Path],
    wait_for: Callable[..., None],
) -> None:
    home = topology.directory
    subprocess.run(
        [
            "qemu-img",
            "create",
            "-q",
            "-f",
            "qcow2",
            "-F",
            "qcow2",
            "-b",
            tiny_image.disk,
            home / "tiny.qcow2",
            "1G",
        ],
        check=True,
    )
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / "key"], check=True)
    seed = write_seed(
        home / "seed.iso",
        {
            "meta-data": f"instance-id: i-1\nlocal-hostname: tiny1\npublic-keys:\n- {(home / 'key.pub').read_text()}",
            "user-data": SCRIPT,
            "network-config": "version: 2\nethernets:\n  nic0:\n    match: {macaddress: '52:54:00:0a:01:14'}\n"
            "    addresses: [10.10.1.20/24]\n    gateway4: 10.10.1.1\n",
        },
    )
    connection = libvirt.open(topology.a.uri)
    domain = connection.defineXML(
        DOMAIN.format(
            kernel=tiny_image.kernel,
            initrd=tiny_image.initrd,
            cmdline=tiny_image.cmdline,
            disk=home / "tiny.qcow2",
            seed=seed,
        )
    )
    domain.create()
    console = topology.a.directory / "log" / "tiny.log"
    wait_for(
        lambda: console.exists() and "isthmus-guest ready" in console.read_text(), 60, "the guest's boot"
    )
    fetch = ["curl", "-s", "-m", "5", "http://10.10.1.20/"]
    wait_for(lambda: topology.b.run(fetch, check=False).returncode == 0, 20, "the guest's web page")
    assert topology.b.run(fetch).stdout == "hello from tiny1 at 10.10.1.20\n"

    ssh = ["ssh", "-i", str(home / "key"), "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"]
    ssh += ["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "root@10.10.1.20"]
    assert (
        "wg0"
        in topology.b.run([*ssh, "modprobe wireguard && ip link add wg0 type wireguard && wg show"]).stdout
    )
    assert (
        topology.b.run([*ssh, "wget -qO- http://198.51.100.10/ 2>&1"], check=False).stdout.count("refused")
        == 1
    )

    domain.shutdown()
    wait_for(lambda: not domain.isActive(), 30, "the guest's way down")
    domain.create()
    wait_for(lambda: "boots: 2" in console.read_text(), 60, "the guest's second boot")
    domain.destroy()
    domain.undefine()
    connection.close()


def test_a_guest_outlives_its_libvirtd(topology: Topology, wait_for: Callable[..., None]) -> None:
    connection = libvirt.open(topology.b.uri)
    xml = (
        "<domain type='qemu'><name>still</name><memory unit='MiB'>32</memory><os><type machine='q35'>hvm</type></os>"
        "<devices/></domain>"
    )
    connection.createXML(xml).suspend()
    connection.close()
    process.kill(topology.b.daemon_pid("libvirtd"))
    topology.b.start_libvirtd()
    connection = libvirt.open(topology.b.uri)
    domain = connection.lookupByName("still")
    assert domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED
    wait_for(
        lambda: domain.controlInfo()[0] == libvirt.VIR_DOMAIN_CONTROL_OK, 10, "libvirtd's new hold on QEMU"
    )
    domain.destroy()
    connection.close()


def test_a_crashed_host_comes_back_with_its_files(lab_directory: Path) -> None:
    host = Host("h", lab_directory / "h", lab=lab_directory)
    host.up()
    pool = "<pool type='dir'><name>p</name><target><path>/var/lib/libvirt/images</path></target></pool>"
    connection = libvirt.open(host.uri)
    connection.storagePoolDefineXML(pool)
    host.crash()
    assert process.marked(lab_directory) == []
    host.up()
    connection = libvirt.open(host.uri)
    assert [each.name() for each in connection.listAllStoragePools()] == ["p"]
    assert connection.listAllNetworks() == [], (
        "the machine's own libvirt networks must not show up in the lab"
    )
    connection.close()
    host.down()
    assert process.marked(lab_directory) == []


UP = """
import sys, time, pathlib
from lab.topology import Topology
lab = Topology(pathlib.Path(sys.argv[1]))
lab.up()
lab.gw.start("sleep", ["sleep", "600"])
print("up", flush=True)
time.sleep(600)
"""


def start_a_lab_elsewhere(directory: Path) -> subprocess.Popen[str]:
    """A lab that another process brought up."""
    command = [sys.executable, "-c", UP, str(directory)]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    assert other.stdout is not None
    assert other.stdout.readline() == "up\n"
    return other


def test_down_leaves_nothing_after_the_lab_command_was_killed(lab_directory: Path) -> None:
    other = start_a_lab_elsewhere(lab_directory)
    other.kill()
    other.wait()
    assert len(leftovers(lab_directory)) > 7
    assert Topology(lab_directory).down() == []
    assert not lab_directory.exists()


def test_down_leaves_nothing_after_everything_was_killed(
    lab_directory: Path, wait_for: Callable[..., None]
) -> None:
    other = start_a_lab_elsewhere(lab_directory)
    other.kill()
    other.wait()
    for pid in process.marked(lab_directory):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue  # it went with its node
    lab = Topology(lab_directory)
    wait_for(lambda: not any(node.pid for node in lab.nodes.values()), 10, "the end of what was killed")
    assert lab.down() == []


def test_down_leaves_nothing_when_killed_half_way_up(lab_directory: Path) -> None:
    command = [sys.executable, "-c", UP, str(lab_directory)]
    other = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[2])
    while not (lab_directory / "a" / "ready").exists():
        assert other.poll() is None
    other.kill()
    other.wait()
    assert Topology(lab_directory).down() == []


def test_a_socket_path_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="longer than the 107 bytes"):
        Host("h", tmp_path / ("x" * 100))


def test_a_failing_command_says_where_and_why(lab_directory: Path) -> None:
    node = Node("n", lab_directory / "n", lab=lab_directory)
    node.up()
    with pytest.raises(NodeError, match=r"n: ls /no-such: exit 2: .*No such file"):
        node.run(["ls", "/no-such"])
    with pytest.raises(NodeError, match="Cannot find device"):
        node.ip("link set nothing up")
    node.down()
    with pytest.raises(NodeError, match="node n is down"):
        node.run(["true"])
